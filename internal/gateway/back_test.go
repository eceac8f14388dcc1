package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
)

// names returns the names of a configuration's doors.
func names(c *config.Config) (all []string) {
	for _, d := range c.Doors {
		all = append(all, d.Name)
	}
	return all
}

// A daemon that starts while a configuration waits to be confirmed gets a sandbox that
// also allows what may come back: the commands of its doors, say, could not be started
// otherwise.
func TestWhatComesBackIsServedOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		write(t, path, webDoor)
		r.insured(alices, false)
		r.stop()
		var asked [][]string
		m.confine = func(c *config.Config) error {
			asked = append(asked, names(c))
			return nil
		}
		r = restart(t, m, path)
		if diff := cmp.Diff([][]string{{"web", "ssh"}}, asked); diff != "" {
			t.Errorf("the sandbox is for other doors (-want +got):\n%s", diff)
		}
		if got := r.doorsInUse(); got != "web" {
			t.Errorf("doors %s are in use, want web", got)
		}
	})
}

// A configuration comes back even if the sandbox does not allow all of it, and status
// says what it lacks.
func TestWhatComesBackButIsNotAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		write(t, path, webDoor)
		r.insured(alices, false)
		r.stop()
		m.confine = func(c *config.Config) error {
			if slices.Equal(names(c), []string{"ssh"}) {
				return errors.New(`"/srv/log" cannot be read any more`)
			}
			return nil
		}
		r = restart(t, m, path)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := r.doorsInUse(); got != "ssh" {
			t.Errorf("doors %s are in use, want ssh", got)
		}
		want := "the previous configuration cannot be served in full until the file contains it again and the daemon is restarted: " +
			`"/srv/log" cannot be read any more`
		if got := r.warnings(); !slices.Contains(got, want) {
			t.Errorf("warnings are %q, want %q", got, want)
		}
	})
}

// If the disk is full after it has the promise, but before it has the record, the order
// does not fail: what was ordered is done, and stays so over a restart.
func TestADiskThatIsFullForTheRecord(t *testing.T) {
	for _, tt := range []struct {
		action string
		want   string
	}{
		{"apply", "PATH is in use: 1 door, until "},
		{"keep", "the new configuration is kept"},
	} {
		t.Run(tt.action, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, path := newMachine(), configPath(t)
				r := run(t, m, path, sshDoor)
				write(t, path, webDoor)
				o := control.ApplyRequest{Action: tt.action}
				if o.Confirm = "1m"; tt.action == "keep" {
					r.insured(alices, false)
					o.Confirm = ""
				}
				m.do(func() {
					m.effect = func() {
						m.do(func() {
							if a := m.applied; string(a.Confirmed) == webDoor || string(a.Pending) == webDoor && tt.action == "apply" {
								m.full = errors.New("no space left on device")
							}
						})
					}
				})
				reply, err := r.as(alices, o)
				want := strings.Replace(tt.want, "PATH", path, 1)
				if err != nil || !strings.HasPrefix(reply.Message, want) ||
					!strings.HasSuffix(reply.Message, "; the record of it is not on disk yet: no space left on device") || !reply.Changed ||
					(reply.Until != nil) != (tt.action == "apply") {
					t.Errorf("%+v, %v; want %q and what the disk lacks", reply, err, want)
				}
			})
		})
	}
}

// If the file has a mistake in a knock at the start, the trail does not quote it.
func TestTheTrailOfAStartTellsNoPorts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		write(t, path, webDoor)
		r.insured(alices, false)
		r.stop()
		write(t, path, strings.Replace(sshDoor, "touch = [59000, 59002]", "touch = [59000, 59009]", 1))
		r = restart(t, m, path)
		want := "the previous configuration is in use: " + path + " cannot be used; doorward check says why"
		if got := m.last(audit.EventApplied); got.Reason != want {
			t.Errorf("the trail has %q, want %q", got.Reason, want)
		}
		if got := r.warnings(); !strings.Contains(strings.Join(got, "\n"), "59009") {
			t.Errorf("warnings are %q: they do not say what is wrong", got)
		}
	})
}

// However many doors go, the answer is short enough to read.
func TestManyDoorsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		var text strings.Builder
		text.WriteString(webDoor)
		for i := range 12 {
			fmt.Fprintf(&text, "[door.d%02[1]d]\nports = [\"%[2]d/tcp\"]\n[[door.d%02[1]d.knock]]\nkind = \"touch\"\n"+
				"listen = [%[3]d, %[4]d, %[5]d]\ntouch = [%[3]d, %[4]d]\n", i, 1000+i, 20000+3*i, 20001+3*i, 20002+3*i)
		}
		r := run(t, m, path, text.String())
		write(t, path, webDoor)
		reply, err := r.as(alices, control.ApplyRequest{Action: "apply"})
		want := path + " is in use: 1 door"
		for i := range maxLeft {
			want += fmt.Sprintf("; door d%02d is no longer guarded", i)
		}
		if want += "; and 4 more, in doorward log"; err != nil || reply.Message != want {
			t.Errorf("%q, %v; want %q", reply.Message, err, want)
		}
	})
}

// If the sandbox keeps the daemon from a file that was moved, the hint is not about the
// file's mode.
func TestAFileOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		reach := true
		r := runWith(t, m, path, sshDoor, func(w *World) {
			load := w.Config
			w.Config = func(path string) (*config.Config, []byte, error) {
				if !reach {
					return nil, nil, fmt.Errorf("read configuration: %w", fs.ErrPermission)
				}
				return load(path)
			}
		})
		reach = false
		_, err := r.as(alices, control.ApplyRequest{Action: "apply"})
		want := "doorward check " + path + "; if that can read it, systemctl restart doorward: " +
			"a running daemon reads the file only where it was at the start"
		if told, ok := errors.AsType[*control.Error](err); !ok || told.Hint != want {
			t.Errorf("%+v, want the hint %q", err, want)
		}
	})
}

// A configuration that a later version can no longer read does not come back. Status says
// so, and the daemon does not try forever.
func TestNothingThatCouldComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		write(t, path, webDoor)
		r.insured(alices, false)
		r.stop()
		m.applied.Confirmed = []byte("[door.ssh]\nport = 22\n")
		r = restart(t, m, path)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := r.doorsInUse(); got != "web" {
			t.Errorf("doors %s are in use, want web", got)
		}
		if got := strings.Join(r.warnings(), "\n"); !strings.HasPrefix(got, "cannot go back to the previous configuration, so the new one stays in use: ") ||
			!strings.HasSuffix(got, "; doorward apply --keep, or fix the file and doorward apply --force") {
			t.Errorf("warnings are %q, want that nothing can come back", got)
		}
		if s, _ := r.Status(); s.Pending == nil || !s.Pending.Until.Before(time.Now().Add(-30*time.Second)) {
			t.Errorf("what waits is %+v, want that it is not tried again", s.Pending)
		}
		if _, err := r.as(alices, control.ApplyRequest{Action: "undo"}); err == nil ||
			!strings.HasPrefix(err.Error(), "the previous configuration cannot be read: ") {
			t.Errorf("undo: %v", err)
		}
		if reply, err := r.as(alices, control.ApplyRequest{Action: "keep"}); err != nil || !reply.Changed {
			t.Errorf("keep: %+v, %v", reply, err)
		}
	})
}

// A file that was rolled back is remembered over a start with the configuration in use:
// whoever writes it again, such as a tool that does not know, needs a way back.
func TestWhatWasRolledBackIsRememberedOverAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		write(t, path, webDoor)
		r.insured(alices, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		write(t, path, sshDoor)
		for range 2 {
			r.stop()
			r = restart(t, m, path)
		}
		if got := r.warnings(); len(got) != 0 {
			t.Errorf("warnings are %q, want none: the file is in use", got)
		}
		write(t, path, webDoor)
		want := "nothing was changed: " + path + " was rolled back, and has not changed since"
		if _, err := r.Reload(t.Context()); err == nil || err.Error() != want {
			t.Errorf("SIGHUP: %v, want %q", err, want)
		}
		if got := r.doorsInUse(); got != "ssh" {
			t.Errorf("doors %s are in use, want ssh", got)
		}
	})
}
