package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/service"
)

// What keeps doors from being guarded, or from being used, is a problem for as long as it
// lasts, in status and in the metrics alike.
func TestProblems(t *testing.T) {
	const everybody = `
[door.ssh]
ports = ["22/tcp"]
[[door.ssh.knock]]
kind = "touch"
scope = "door"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
`
	for _, tt := range []struct {
		name   string
		config string
		before func(m *machine)
		breaks func(r *running)
		mends  func(r *running) // nil: nothing but a restart does
		want   control.Problem
	}{
		{
			name:   "the fence cannot be put up",
			breaks: func(r *running) { r.m.do(func() { r.m.broken = errors.New("operation not permitted") }); r.m.flush() },
			mends:  func(r *running) { r.m.do(func() { r.m.broken = nil }) },
			want: control.Problem{Code: "fence_down",
				Message: "the doors are not guarded, since the fence is down: operation not permitted"},
		},
		{
			name: "the disk is full",
			breaks: func(r *running) {
				r.m.do(func() { r.m.full = errors.New("no space left on device") })
				r.touch(visitor, 59000, 59002)
			},
			mends: func(r *running) { r.m.do(func() { r.m.full = nil }) },
			want: control.Problem{Code: "nothing_saved",
				Message: "nothing is saved: a restart would forget what happens now: no space left on device"},
		},
		{
			name: "the disk is slow",
			breaks: func(r *running) {
				r.m.do(func() { r.m.full = errors.New("input/output error") })
				r.order(control.ArmRequest{})
			},
			mends: func(r *running) { r.m.do(func() { r.m.full = nil }) },
			want: control.Problem{Code: "nothing_saved",
				Message: "nothing is saved: a restart would forget what happens now: input/output error"},
		},
		{
			name:   "there is no store",
			before: func(m *machine) { m.closed = errors.New("permission denied") },
			breaks: func(*running) {},
			want: control.Problem{Code: "nothing_saved",
				Message: "nothing is saved: a restart would forget what happens now: permission denied"},
		},
		{
			name: "the service does not start",
			breaks: func(r *running) {
				r.m.do(func() { r.m.stubborn = errors.New("exit status 255") })
				r.touch(visitor, 59000, 59002)
			},
			mends: func(r *running) {
				r.m.do(func() { r.m.stubborn = nil })
				r.touch(visitor, 59000, 59002)
			},
			want: control.Problem{Code: "service_failed", Door: "ssh",
				Message: "the service of door ssh could not be started, so right knocks do not open it: exit status 255"},
		},
		{
			name: "the service keeps dying",
			breaks: func(r *running) {
				r.touch(visitor, 59000, 59002)
				for range 2 {
					r.m.becomes("ssh.service", died9)
					synctest.Wait()
				}
			},
			mends: func(r *running) { r.touch(visitor, 59000, 59002) },
			want: control.Problem{Code: "service_failed", Door: "ssh",
				Message: "the service of door ssh could not be started, so right knocks do not open it: signal 9"},
		},
		{
			name:   "there is no log data",
			breaks: func(r *running) { r.m.do(func() { r.m.seen.NoData = "the journal is empty" }) },
			mends:  func(r *running) { r.m.do(func() { r.m.seen.NoData = "" }) },
			want: control.Problem{Code: "failsafe", Door: "ssh",
				Message: "door ssh is in failsafe and ignores knocks: the journal is empty"},
		},
		{
			name:   "somebody else has a port of the knock",
			before: func(m *machine) { m.taken = []uint16{59002} },
			breaks: func(*running) {},
			mends:  func(r *running) { r.m.do(func() { r.m.taken = nil }) },
			want: control.Problem{Code: "knocks_unheard", Door: "ssh",
				Message: "nobody can knock at door ssh: ports of its knocks cannot be listened on; the warnings say why"},
		},
		{
			name:   "a wrong knock has made everybody wait",
			config: everybody,
			breaks: func(r *running) { r.touch(visitor, 59001) },
			mends:  func(r *running) { r.order(control.ArmRequest{}) },
			want: control.Problem{Code: "knocks_unheard", Door: "ssh",
				Message: "nobody can knock at door ssh: after a wrong knock it ignores everybody; doorward status ssh says until when"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine()
				if tt.before != nil {
					tt.before(m)
				}
				text := sshDoor
				if tt.config != "" {
					text = tt.config
				}
				r := run(t, m, configPath(t), text)
				if tt.before == nil {
					r.wantProblems()
				}
				tt.breaks(r)
				time.Sleep(90 * time.Second)
				synctest.Wait()
				r.wantProblems(tt.want)
				if tt.mends == nil {
					return
				}
				tt.mends(r)
				time.Sleep(90 * time.Second)
				synctest.Wait()
				r.wantProblems()
			})
		})
	}
}

// wantProblems checks the problems of status and of the metrics.
func (r *running) wantProblems(want ...control.Problem) {
	r.t.Helper()
	want = append([]control.Problem{}, want...)
	s, _ := r.Status()
	if d := cmp.Diff(want, s.Problems); d != "" {
		r.t.Errorf("problems of the status (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want, r.ReadMetrics().Problems); d != "" {
		r.t.Errorf("problems of the health (-want +got):\n%s", d)
	}
}

// A missing port keeps nobody from knocking if it is one that must not be touched.
func TestAMissingPortThatIsNotTouchedIsNoProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.taken = []uint16{59001}
		r := run(t, m, configPath(t), sshDoor)
		r.wantProblems()
		if s, _ := r.Status(); len(s.Warnings) != 1 {
			t.Errorf("warnings %q, want one of the port", s.Warnings)
		}
		r.touch(visitor, 59000, 59002)
		r.wantState("open")
	})
}

// A daemon that has ended is not healthy.
func TestTheEndIsAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newMachine(), configPath(t), sshDoor)
		r.stop()
		s, _ := r.Status()
		for _, got := range [][]control.Problem{s.Problems, r.ReadMetrics().Problems} {
			if len(got) != 1 || got[0].Code != "ending" {
				t.Errorf("after the end the problems are %+v, want that", got)
			}
		}
	})
}

// What happens at a door is in its metrics.
func TestMetricsOfADoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		read := true
		want := control.DoorMetrics{Name: "ssh", State: "dark", Service: "stopped", Refusals: map[string]uint64{}, Logs: &read}
		check := func(when string) {
			t.Helper()
			synctest.Wait()
			if d := cmp.Diff(want, r.ReadMetrics().Doors[0]); d != "" {
				t.Errorf("%s (-want +got):\n%s", when, d)
			}
		}
		check("at the start")

		time.Sleep(time.Minute)
		m.do(func() { m.stubborn = errors.New("exit status 255") })
		r.touch(visitor, 59000, 59002)
		want.Service, want.StartFailures, want.LastKnock, want.LastDark = "failed", 1, time.Now(), time.Now()
		check("after a start that failed")

		time.Sleep(time.Minute)
		m.do(func() { m.stubborn, m.seen.Login, m.seen.Unread = nil, time.Now().Add(-time.Second), true })
		r.touch(visitor, 59000, 59002)
		want.State, want.Service, want.Grants = "open", "running", 1
		want.LastKnock, want.LastGrant, want.LastLogin = time.Now(), time.Now(), time.Now().Add(-time.Second)
		time.Sleep(10 * time.Second)
		read = false
		check("after a right knock")

		r.touch(visitor6, 59001) // a port that is to be left alone
		want.Penalties, want.Refusals["port"] = 1, 1
		r.touch(visitor6, 59001) // which nobody hears
		check("after a wrong knock")

		events := map[string]uint64{"error": 1, "dark": 1, "opened": 1, "granted": 1, "refused": 1}
		if d := cmp.Diff(map[string]map[string]uint64{"": {"started": 1}, "ssh": events}, r.ReadMetrics().Events); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
		m.becomes("ssh.service", service.Status{State: service.Stopped})
		synctest.Wait()
		if got := r.ReadMetrics().Touches; got != 6 {
			t.Errorf("%d touches were dropped, want the listener's 6", got)
		}
	})
}

// The configuration's id changes with it and reveals nothing of it; and the metrics show
// when a configuration could not come into use.
func TestMetricsOfTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := configPath(t)
		r := run(t, newMachine(), path, sshDoor)
		begun := time.Now()
		first := r.ReadMetrics().Config
		if want := (control.ConfigMetrics{ID: first.ID, Loaded: begun, LoadedOK: true}); first != want || len(first.ID) != 16 {
			t.Errorf("at the start: %+v, want %+v", first, want)
		}
		if sum := sha256.Sum256([]byte(sshDoor)); strings.HasPrefix(hex.EncodeToString(sum[:]), first.ID) {
			t.Errorf("the id %s is the hash of the text, with which the text can be guessed", first.ID)
		}

		time.Sleep(time.Minute)
		write(t, path, sshDoor+"nonsense = 1\n")
		if told := r.order(control.ApplyRequest{Action: "apply"}); !strings.HasPrefix(told, "error: ") {
			t.Fatalf("a file with a mistake is applied: %s", told)
		}
		if got, want := r.ReadMetrics().Config, (control.ConfigMetrics{ID: first.ID, Loaded: begun}); got != want {
			t.Errorf("after a file with a mistake: %+v, want %+v", got, want)
		}

		time.Sleep(time.Minute)
		write(t, path, "# changed\n"+sshDoor)
		r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"})
		got := r.ReadMetrics().Config
		if want := (control.ConfigMetrics{ID: got.ID, Loaded: begun.Add(2 * time.Minute), LoadedOK: true}); got != want || got.ID == first.ID {
			t.Errorf("after another file: %+v, want %+v and another id", got, want)
		}
		time.Sleep(2 * time.Minute)
		if got := r.ReadMetrics().Config.ID; got != first.ID {
			t.Errorf("after the rollback the id is %s, want the one before, %s", got, first.ID)
		}
		r.stop()

		if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
		r = restart(t, r.m, path)
		if got, want := r.ReadMetrics().Config, (control.ConfigMetrics{ID: r.ReadMetrics().Config.ID}); got != want || got.ID == first.ID {
			t.Errorf("after a start with a file that cannot be used: %+v, want %+v and another id", got, want)
		}
	})
}

// The metrics count commits, and those that failed.
func TestMetricsOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		if s := r.ReadMetrics().Store; !s.Up || s.Failures != 0 {
			t.Errorf("at the start: %+v", s)
		}
		m.do(func() { m.full = errors.New("no space left on device") })
		r.touch(visitor, 59001)
		if s := r.ReadMetrics().Store; s.Up || s.Failures == 0 {
			t.Errorf("with a full disk: %+v, want it down and a failure", s)
		}
		m.do(func() { m.full = nil })
		r.order(control.ArmRequest{})
		if s := r.ReadMetrics().Store; !s.Up {
			t.Errorf("once there is room again: %+v", s)
		}
	})
}

// Status has the form of its schema: no list is null.
func TestStatusFollowsItsSchema(t *testing.T) {
	text, err := os.ReadFile("../../docs/api/status.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	schema, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newMachine(), configPath(t), sshDoor)
		follows := func(when string) {
			t.Helper()
			told, _ := r.Status()
			told.API = control.APIVersion // the server's to fill
			for i := range told.Doors {
				d := &told.Doors[i]
				d.Always, d.Live = append([]string{}, d.Always...), append([]control.Session{}, d.Live...)
				d.Guesses.Hour.Top = append([]control.GuessesFrom{}, d.Guesses.Hour.Top...)
				d.Guesses.Day.Top = append([]control.GuessesFrom{}, d.Guesses.Day.Top...)
			}
			var v any
			if text, err := json.Marshal(told); err != nil {
				t.Fatal(err)
			} else if err := json.Unmarshal(text, &v); err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(v); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		follows("at the start")
		r.touch(visitor6, 59001)
		r.touch(visitor, 59000, 59002)
		write(t, r.path, "# changed\n"+sshDoor)
		r.order(control.ApplyRequest{Action: "apply", Confirm: "1m"})
		follows("with all there is")
		r.stop()
		follows("after the end")
	})
}
