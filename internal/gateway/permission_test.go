package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/service"
)

// policedUnit is a unit that the daemon may or may not start and stop.
type policedUnit struct {
	unit
	police *police
	names  service.Names
}

// police holds what systemd and polkit answer; asked counts the questions.
type police struct {
	answer error
	asked  int
}

func (u *policedUnit) Names() service.Names { return u.names }

func (u *policedUnit) Allowed(context.Context) error {
	u.m.mu.Lock()
	defer u.m.mu.Unlock()
	u.police.asked++
	return u.police.answer
}

func (u *policedUnit) Start(ctx context.Context) error {
	if err := u.Allowed(ctx); err != nil {
		return err
	}
	return u.unit.Start(ctx)
}

// policed starts a gateway whose units ask police, and have the names in own if those
// differ from the configured ones.
func policed(t *testing.T, m *machine, text string, p *police, own map[string]service.Names) *running {
	t.Helper()
	return runWith(t, m, configPath(t), text, func(w *World) {
		w.Service = func(c config.Door) Service {
			names, ok := own[c.Service.Unit]
			if !ok {
				names.ID = c.Service.Unit
			}
			return &policedUnit{unit{m, c.Service.Unit}, p, names}
		}
	})
}

func (r *running) warnings() []string {
	s, _ := r.Status()
	return s.Warnings
}

// A daemon that may not start its service warns of that before anybody knocks, for as long
// as it is so, but not while there is no answer yet.
func TestPermissionIsAskedForBeforeAKnock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, p := newMachine(), &police{answer: errors.New("no D-Bus yet")}
		r := policed(t, m, sshDoor, p, nil)
		if w := r.warnings(); len(w) > 0 || p.asked != 1 {
			t.Errorf("while nobody answers it asked %d times and warns %q, want once and nothing", p.asked, w)
		}
		refuse := fmt.Errorf("%w to stop unit \"ssh.service\"; install the rule", service.ErrNotAllowed)
		m.do(func() { p.answer = refuse })
		time.Sleep(upkeepInterval)
		synctest.Wait()
		want := []string{"door ssh: the daemon may not start and stop ssh.service, so right knocks fail: " + refuse.Error()}
		if got := r.warnings(); !slices.Equal(got, want) {
			t.Errorf("refused: %q, want %q", got, want)
		}
		m.do(func() { p.answer = errors.New("no D-Bus for a while") })
		time.Sleep(upkeepInterval)
		synctest.Wait()
		if got := r.warnings(); !slices.Equal(got, want) {
			t.Errorf("while nobody answers again: %q, want %q", got, want)
		}
		m.do(func() { p.answer = nil })
		time.Sleep(upkeepInterval)
		synctest.Wait()
		if got := r.warnings(); len(got) > 0 {
			t.Errorf("with the rule: %q, want nothing", got)
		}
		asked := p.asked
		time.Sleep(3 * upkeepInterval)
		synctest.Wait()
		if p.asked != asked {
			t.Errorf("with permission it asked %d more times", p.asked-asked)
		}

		// The rule goes: the daemon notices when an order is refused.
		m.do(func() { p.answer = refuse })
		r.touch(visitor, 59000, 59002)
		if got := r.warnings(); !slices.Equal(got, want) {
			t.Errorf("after an order that was refused: %q, want %q", got, want)
		}
	})
}

// Two doors that have one service under two names would stop it while the other's visitors
// are in.
func TestOneServiceByTwoNames(t *testing.T) {
	second := strings.NewReplacer("door.ssh", "door.alt", "ssh.service", "sshd.socket", "22/tcp", "2222/tcp",
		"590", "580").Replace(sshDoor)
	synctest.Test(t, func(t *testing.T) {
		r := policed(t, newMachine(), sshDoor+second, &police{}, nil)
		if got := r.warnings(); len(got) > 0 {
			t.Errorf("two services: %q, want nothing", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := policed(t, newMachine(), sshDoor+second, &police{}, map[string]service.Names{
			"sshd.socket": {ID: "ssh.socket", Feeds: []string{"ssh.service"}}})
		want := []string{"doors alt and ssh have the same service, ssh.service: when one goes dark, it is stopped for both; " +
			"make it one door: its ports may be several"}
		if got := r.warnings(); !slices.Equal(got, want) {
			t.Errorf("one service: %q, want %q", got, want)
		}
	})
}

// Writing a unit's own name in place of an alias, as doctor advises, does not count as a
// change of the service.
func TestTheOwnNameOfAnAliasIsNoOtherService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alias := strings.Replace(sshDoor, `"ssh.service"`, `"sshd.service"`, 1)
		r := policed(t, newMachine(), alias, &police{}, map[string]service.Names{"sshd.service": {ID: "ssh.service"}})
		r.touch(visitor, 59000, 59002)
		write(t, r.path, sshDoor)
		if got, want := r.order(control.ApplyRequest{Action: "apply"}), r.path+" is in use: 1 door"; got != want {
			t.Errorf("apply: %q, want %q", got, want)
		}
	})
}
