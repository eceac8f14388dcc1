package gateway

import (
	"context"
	"errors"
	"fmt"
	"os"
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

// A record of a change of the configuration has the hashes before and after it, and which
// keys differ.
func TestTheTrailOfConfigurations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		other := strings.Replace(sshDoor, "touch = [59000, 59002]", "touch = [59000, 59001]", 1)
		other = strings.Replace(other, "ports", "open_for = \"45s\"\nports", 1) + webDoor
		keys := []string{"door.ssh.knock[0].touch", "door.ssh.open_for", "door.web"}
		hash := func(text string) string { return config.Hash([]byte(text)) }
		salts := map[string]bool{}
		check := func(by, reason, before, after string, keys []string) {
			t.Helper()
			synctest.Wait()
			got := m.last(audit.EventApplied)
			salt := got.Config.Salt
			if len(salt) < 26 || salts[salt] { // 128 bits in base32
				t.Errorf("salt %q, want random text", salt)
			}
			salts[salt] = true
			want := audit.Record{ID: got.ID, Time: got.Time, Event: audit.EventApplied, By: by, Reason: reason,
				Config: &audit.Config{Before: hash(before), After: hash(after), Changed: keys, Salt: salt}}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("record (-want +got):\n%s", d)
			}
			s, _ := r.Status()
			text, _ := os.ReadFile(path)
			if s.ConfigHash != hash(after) || s.ConfigDiffers != (string(text) != after) {
				t.Errorf("status has %s, differs %v; want %s", s.ConfigHash, s.ConfigDiffers, hash(after))
			}
		}
		inUse := func(doors string) string { return path + " is in use: " + doors }
		write(t, path, other)
		r.order(control.ApplyRequest{Action: "apply"})
		check(alices, inUse("2 doors"), sshDoor, other, keys)
		reply, err := r.Reload(t.Context())
		if want := path + " is already in use: nothing has changed"; err != nil || reply.Changed || reply.Message != want {
			t.Errorf("the same again: %+v, %v; want %q", reply, err, want)
		}
		check("SIGHUP", reply.Message, other, other, []string{})

		write(t, path, sshDoor)
		r.insured(alices, false)
		check(alices, inUse("1 door, until "+spelled(time.Now().Add(time.Minute))+" unless it is kept; door web is no longer guarded"),
			other, sshDoor, keys)
		r.order(control.ApplyRequest{Action: "undo"})
		check(alices, "the previous configuration is in use again: undone by "+alices, sshDoor, other, keys)
		r.insured(alices, false)
		time.Sleep(time.Minute)
		check("", "the previous configuration is in use again: nobody confirmed the new one in time", sshDoor, other, keys)
		r.insured(alices, false)
		r.order(control.ApplyRequest{Action: "keep"})
		check(alices, "the new configuration is kept", sshDoor, sshDoor, []string{})

		r.stop()
		write(t, path, other)
		r = restart(t, m, path)
		check("", path+" has changed since it was last used, and is in use from this start on", sshDoor, other, keys)
	})
}

// A record does not grow with the file.
func TestAChangeOfAllDoorsIsOneRecord(t *testing.T) {
	many := func(n int, openFor string) []byte {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "[door.d%03d]\nports = [\"%d/tcp\"]\nopen_for = %q\n[[door.d%03[1]d.knock]]\nkind = \"touch\"\nlisten = [%[4]d, %[5]d]\ntouch = [%[4]d]\n",
				i, 1000+i, openFor, 20000+2*i, 20001+2*i)
		}
		return []byte(text.String())
	}
	for _, n := range []int{maxKeys, maxKeys + 1, maxDoors + 1} {
		if _, err := config.Parse("t", many(n, "30s")); err != nil {
			t.Fatal(err)
		}
		got := changedKeys(many(n, "30s"), many(n, "31s"))
		want := "door.d000"
		if n <= maxKeys {
			want += ".open_for"
		}
		if len(got) != n || got[0] != want || n > maxDoors && got[maxDoors] != "and 1 more" {
			t.Errorf("of %d keys %d are listed: %.3q, want %s first", n, len(got), got, want)
		}
	}
}

// Status says whether the file is the same as what is in use: at most a second late, and
// without waiting long for a disk that hangs.
func TestStatusTellsWhetherTheFileDiffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		var hangs chan struct{} // m guards it, and reads
		reads := 0
		r := runWith(t, m, path, sshDoor, func(w *World) {
			w.Text = func(path string) ([]byte, error) {
				var hung chan struct{}
				if m.do(func() { hung = hangs; reads++ }); hung != nil {
					<-hung
				}
				return config.Read(path)
			}
		})
		check := func(differs bool, warning string) {
			t.Helper()
			s, _ := r.Status()
			told := slices.ContainsFunc(s.Warnings, func(w string) bool { return warning != "" && strings.HasPrefix(w, warning) })
			if s.ConfigDiffers != differs || told != (warning != "") || warning == "" && len(s.Warnings) > 0 {
				t.Errorf("differs: %v, warnings %q; want %v, %q", s.ConfigDiffers, s.Warnings, differs, warning)
			}
		}
		for range 10 {
			check(false, "")
		}
		m.do(func() {
			if reads != 1 {
				t.Errorf("the file was read %d times within a second, want once", reads)
			}
		})
		write(t, path, webDoor)
		time.Sleep(time.Second)
		check(true, "")
		r.order(control.ApplyRequest{Action: "apply"})
		check(false, "")
		const cannot = "cannot tell whether the configuration file is the one in use: "
		os.Remove(path)
		time.Sleep(time.Second)
		check(true, cannot+"read configuration: open "+path+": no such file or directory")
		write(t, path, webDoor)
		m.do(func() { hangs, reads = make(chan struct{}), 0 })
		time.Sleep(time.Second)
		for range 3 {
			check(true, cannot+"it has not been read for 1s")
		}
		m.do(func() {
			if close(hangs); reads != 1 {
				t.Errorf("%d reads hang, want one", reads)
			}
			hangs = nil
		})
		time.Sleep(time.Second)
		check(false, "")
	})
}

func TestDiff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		diff := func() control.Diff {
			t.Helper()
			d, err := r.Diff(t.Context())
			if err != nil || d.Config != path || d.Before != config.Hash([]byte(sshDoor)) {
				t.Errorf("diff: %+v, %v", d, err)
			}
			return d
		}
		text := func(s string) *string { return &s }
		if d := diff(); d.After != d.Before || len(d.Changes) != 0 || d.Changes == nil || d.Refused != nil {
			t.Errorf("of the file in use: %+v", d)
		}
		other := strings.Replace(sshDoor, "touch = [59000, 59002]", "touch = [59000, 59001]", 1) + webDoor
		other = strings.Replace(other, "ports", "open_for = \"45s\"\nports", 1)
		other = strings.Replace(other, "[door.ssh.service]\nunit = \"ssh.service\"\n", "", 1)
		write(t, path, other)
		want := []control.KeyChange{
			{Key: "door.ssh.knock[0].touch", Change: control.KeyChanged, Secret: true},
			{Key: "door.ssh.open_for", Change: control.KeyChanged, Before: text(`"30s"`), After: text(`"45s"`)},
			{Key: "door.ssh.service", Change: control.KeyRemoved},
			{Key: "door.web", Change: control.KeyAdded},
		}
		d := diff()
		if diff := cmp.Diff(want, d.Changes); diff != "" || d.Refused != nil || d.After != config.Hash([]byte(other)) {
			t.Errorf("refused %v, changes (-want +got):\n%s", d.Refused, diff)
		}
		write(t, path, "[gateway]\nstate = \"/other\"\n"+sshDoor)
		if d := diff(); d.Refused == nil || d.Refused.Message != "nothing was changed: the keys of [gateway] are read at the start only" {
			t.Errorf("another state directory: refused %+v", d.Refused)
		}
		write(t, path, webDoor)
		r.insured(alices, false)
		r.order(control.ApplyRequest{Action: "undo"})
		if d := diff(); d.Refused == nil || !strings.HasSuffix(d.Refused.Message, "was rolled back, and has not changed since") {
			t.Errorf("a file that was rolled back: refused %+v", d.Refused)
		}
		write(t, path, "rubbish")
		_, err := r.Diff(t.Context())
		told, ok := errors.AsType[*control.Error](err)
		if !ok || !strings.HasPrefix(told.Message, "the file cannot be compared: "+path+":1:") || told.Hint != "doorward check "+path ||
			told.Code != control.CodeRefused {
			t.Errorf("a file with mistakes: %+v", err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		write(t, path, sshDoor)
		if _, err := r.Diff(gone); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("for a client that has gone: %v", err)
		}
		r.stop()
		if _, err := r.Diff(t.Context()); err != error(endsFirst) {
			t.Errorf("after the end: %v", err)
		}
	})
}
