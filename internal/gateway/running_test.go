package gateway

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/knock"
)

// running is a gateway that runs on a machine, in a synctest bubble.
type running struct {
	*Gateway
	t    *testing.T
	m    *machine
	path string
	stop func()
}

// run writes the configuration and starts a gateway. The gateway ends with
// stop, or with the test.
func run(t *testing.T, m *machine, path, text string) *running {
	t.Helper()
	return runWith(t, m, path, text, func(*World) {})
}

// runWith is like run, but change may change the world.
func runWith(t *testing.T, m *machine, path, text string, change func(*World)) *running {
	t.Helper()
	write(t, path, text)
	r := restartWith(t, m, path, change)
	if r == nil {
		t.Fatal("the gateway did not start")
	}
	return r
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// restart starts a gateway on the file as it is, and returns nil if it ends.
func restart(t *testing.T, m *machine, path string) *running {
	t.Helper()
	return restartWith(t, m, path, func(*World) {})
}

// restartWith is like restart, but change may change the world.
func restartWith(t *testing.T, m *machine, path string, change func(*World)) *running {
	t.Helper()
	world := m.world()
	change(&world)
	ctx, cancel := context.WithCancel(t.Context())
	g := New(Options{Path: path, Version: "v1", Log: slog.New(slog.DiscardHandler), Confine: m.confine})
	ended := make(chan struct{})
	ready := false
	go func() {
		defer close(ended)
		if err := g.Run(ctx, world, func() { ready = true }); err != nil {
			t.Log("run:", err)
		}
	}()
	synctest.Wait()
	r := &running{Gateway: g, t: t, m: m, path: path, stop: func() { cancel(); <-ended }}
	t.Cleanup(r.stop)
	if !ready {
		return nil
	}
	return r
}

var (
	visitor  = netip.MustParseAddr("192.0.2.2")
	visitor6 = netip.MustParseAddr("2001:db8::7")
)

// touch touches ports as a visitor does, one after the other.
func (r *running) touch(a netip.Addr, ports ...uint16) {
	for _, p := range ports {
		r.Hear([]knock.Heard{touchOf(a, p, r.world.Now())})
		synctest.Wait()
	}
}

// touchOf returns a touch as the listener hears it.
func touchOf(a netip.Addr, p uint16, at time.Time) knock.Heard {
	return knock.Heard{Source: a, Place: knock.Place{Medium: knock.Connections, Port: p}, Time: at, Proven: true}
}

// hold keeps the loop busy with one turn until the returned function is called: all that
// comes meanwhile is handled in one turn.
func (r *running) hold() (release func()) {
	held := make(chan struct{})
	r.events <- func(time.Time) { <-held }
	synctest.Wait()
	return func() { close(held); synctest.Wait() }
}

// status returns the first door's status.
func (r *running) status() control.Door {
	r.t.Helper()
	s, _ := r.Status()
	if len(s.Doors) == 0 {
		r.t.Fatal("the gateway has no doors")
	}
	return s.Doors[0]
}

func (r *running) wantState(want string) {
	r.t.Helper()
	if got := r.status(); got.State != want {
		r.t.Errorf("the door is %s (%s), want %s", got.State, got.Reason, want)
	}
}

// order gives an operator's order and returns the answer.
func (r *running) order(order any) string {
	r.t.Helper()
	reply, err := r.ask(order)
	if err != nil {
		return "error: " + err.Error()
	}
	return reply.Message
}

// ask gives an operator's order as it came over the control socket.
func (r *running) ask(order any) (control.Reply, error) {
	o, err := order.(control.Request).Order()
	if err != nil {
		return control.Reply{}, err
	}
	return r.Do(r.t.Context(), control.Caller{Name: "operator alice (uid 1000)"}, o)
}

// parseSource parses a source as that of an order is parsed.
func parseSource(s string) (netip.Prefix, error) {
	o, err := control.ArmRequest{Source: s}.Order()
	if err != nil {
		return netip.Prefix{}, err
	}
	return o.(control.Arm).Source, nil
}

// events returns the audit trail's events so far.
func (m *machine) events() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, r := range m.trail {
		all = append(all, r.Event)
	}
	return strings.Join(all, " ")
}

func configPath(t *testing.T) string { return filepath.Join(t.TempDir(), "doorward.toml") }

const sshDoor = `
[door.ssh]
ports = ["22/tcp"]
[door.ssh.service]
unit = "ssh.service"
[door.ssh.presence]
logins = "journal"
[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
`
