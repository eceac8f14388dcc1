package gateway

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/service"
)

// An operator stops the service behind an open door again and again. The door does not go
// dark, and whenever it says that it is open the service runs.
func TestAServiceThatOthersStopIsStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		for i, want := range []string{"open", "opening", "opening"} {
			m.becomes("ssh.service", service.Status{State: service.Stopped})
			synctest.Wait()
			r.wantState(want)
			if runs := m.running["ssh.service"]; runs != (want == "open") {
				t.Errorf("after stop %d the door is %s and the service runs: %v", i+1, want, runs)
			}
			time.Sleep(9 * time.Second)
			synctest.Wait()
			r.wantState(want)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			r.wantState("open")
			if got := r.status(); !got.Running || !m.running["ssh.service"] {
				t.Errorf("after stop %d the door is open and the service does not run", i+1)
			}
			if i == 0 {
				m.becomes("ssh.service", service.Status{State: service.Stopped}) // the first of a new series, soon followed by the next
				synctest.Wait()
			}
		}
		if got := m.trail[len(m.trail)-1].Reason; !strings.Contains(got, `"doorward close ssh" stops it for good`) {
			t.Errorf("the trail does not say how to stop it: %s", got)
		}
	})
}

// slowly is a service whose news comes late.
type slowly struct {
	unit
	news *[]func()
}

func (s *slowly) Watch(ctx context.Context, report func(service.Status)) error {
	return s.unit.Watch(ctx, func(st service.Status) {
		*s.news = append(*s.news, func() { report(st) })
	})
}

// A watch has read the service's state while it was stopping, and the gateway hears of it
// when it has stopped: nothing has to be repaired.
func TestNewsThatComesLateIsNoRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		var news []func()
		r := runWith(t, m, path, sshDoor, func(w *World) {
			w.Service = func(c config.Door) Service { return &slowly{unit{m, c.Service.Unit}, &news} }
		})
		hear := func() {
			synctest.Wait()
			for _, tell := range news {
				tell()
			}
			news = nil
			synctest.Wait()
		}
		hear()
		for range 2 {
			r.touch(visitor, 59000, 59002)
			hear()
			m.tell(service.Status{State: service.Running, Detail: "ssh.socket does not listen, but ssh.service runs"})
			r.order(control.CloseRequest{Door: "ssh"})
			hear()
			r.wantState("dark")
			m.tell(service.Status{State: service.Stopped})
			r.touch(visitor, 59000, 59002)
			hear()
			r.wantState("open")
			r.order(control.CloseRequest{Door: "ssh"})
		}
		if got := m.events(); strings.Contains(got, "repaired") || strings.Contains(got, "error") {
			t.Errorf("audit trail %q: nothing was wrong", got)
		}
	})
}

// overtaken is a service whose starts others cancel, as often as times says.
type overtaken struct {
	unit
	times *int
}

func (o *overtaken) Start(ctx context.Context) error {
	if *o.times > 0 {
		*o.times--
		return service.ErrOvertaken
	}
	return o.unit.Start(ctx)
}

// Others' orders cancel the start that a visitor has knocked for. The visitor gets in all
// the same.
func TestAStartThatOthersCancelIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path, times := newMachine(), configPath(t), 3
		r := runWith(t, m, path, sshDoor, func(w *World) {
			w.Service = func(c config.Door) Service { return &overtaken{unit{m, c.Service.Unit}, &times} }
		})
		r.touch(visitor, 59000, 59002)
		r.wantState("opening")
		time.Sleep(time.Minute)
		synctest.Wait()
		r.wantState("open")
	})
}

// A daemon was killed while it started a service that never finishes starting. The next
// daemon has a dark door, and stops what runs behind it; behind an open door it would be
// left alone.
func TestAServiceThatIsNeverDoneWithStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		starts := func(pid int) bool {
			m.do(func() { m.running["ssh.service"] = true })
			m.tell(service.Status{State: service.Starting, PID: pid})
			synctest.Wait()
			return m.running["ssh.service"]
		}
		if !starts(0) {
			t.Error("the service's job, which at boot waits for others, is cancelled")
		}
		if starts(4711) {
			t.Error("a service that starts behind a dark door is not stopped")
		}
		r.wantState("dark")
		r.touch(visitor, 59000, 59002)
		r.wantState("open")
		if !starts(4711) {
			t.Error("it is stopped behind an open one")
		}
		r.wantState("open")
	})
}
