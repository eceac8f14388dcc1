package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/service"
)

// explainedDoor is a door with a service, two knocks, and sources that need not knock.
var explainedDoor = strings.Replace(sshDoor, "[door.ssh.service]", "always = [\"198.51.100.0/24\"]\n[door.ssh.service]", 1) + `
[[door.ssh.knock]]
kind = "touch"
listen = [59100, 59101, 59102]
touch = [59101]
`

// lines returns the explanation of one door, a line each for the verdict, what lets the
// source in, what is in the way, and what was refused.
func (r *running) lines(source string) []string {
	r.t.Helper()
	e, err := r.Explain(r.t.Context(), netip.MustParseAddr(source), "ssh")
	if err != nil || len(e.Doors) != 1 || e.Source != source || e.Config != r.path || !e.Time.Equal(time.Now()) {
		r.t.Fatalf("%s: got %+v, %v; want one door, of now", source, e, err)
	}
	d := e.Doors[0]
	left := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return " for " + time.Until(*t).String()
	}
	verdict := "perhaps in"
	if d.GetsIn != nil {
		verdict = map[bool]string{true: "in", false: "out"}[*d.GetsIn]
	}
	if verdict += left(d.Until); !d.WouldKnock {
		verdict += ", no knock"
	}
	all := []string{verdict}
	for _, c := range d.By {
		all = append(all, "by "+c.Source+" "+c.By+left(c.Until))
	}
	for _, o := range d.Obstacles {
		all = append(all, o.Code+left(o.Until)+": "+o.Message+" | "+o.Hint)
	}
	for _, f := range d.Refusals {
		all = append(all, "refused "+f.Source+": "+f.Reason)
	}
	return all
}

func (r *running) wantLines(what, source string, want ...string) {
	r.t.Helper()
	if d := cmp.Diff(want, r.lines(source)); d != "" {
		r.t.Errorf("%s, %s (-want +got):\n%s", what, source, d)
	}
}

// An explanation says in every state of the door what a connection would meet, with all
// that is in its way.
func TestExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			noGrant = "no_grant: nothing lets it in: neither it nor a prefix that contains it has a grant or is in always | doorward open ssh --source "
			dark    = "service_down: ssh.service does not run, and the door is dark (guarded since the start) | "
			own     = "own_machine: it is an address of this machine, whose own knocks do not count | "
		)
		m := newMachine()
		r := run(t, m, configPath(t), explainedDoor)
		r.wantLines("dark", "203.0.113.9", "out", noGrant+"203.0.113.9", dark)
		r.wantLines("dark", "198.51.100.7", "out", "by 198.51.100.0/24 always", dark+"doorward open ssh --source 198.51.100.7")
		r.wantLines("dark", "192.0.2.1", "out, no knock", "by 192.0.2.1 this machine", own, dark)

		r.touch(visitor, 59001)
		r.wantLines("after a wrong knock", "192.0.2.2", "out", noGrant+"192.0.2.2",
			"penalty for 5m0s: the knock touch ignores it: touched a port that must be left alone | doorward arm ssh --source 192.0.2.2", dark,
			"refused 192.0.2.2: touched a port that must be left alone")
		r.touch(visitor, 59100)
		r.wantLines("after one at the other knock", "192.0.2.2", "out, no knock", noGrant+"192.0.2.2",
			"penalty for 5m0s: the knock touch ignores it: touched a port that must be left alone | doorward arm ssh --source 192.0.2.2",
			"penalty for 5m0s: the knock touch-2 ignores it: touched a port that must be left alone | doorward arm ssh --source 192.0.2.2", dark,
			"refused 192.0.2.2: touched a port that must be left alone", "refused 192.0.2.2: touched a port that must be left alone")

		slow := make(chan struct{})
		m.do(func() { m.slow = slow })
		r.touch(visitor6, 59000, 59002)
		r.wantLines("while the service starts", "2001:db8::7", "out",
			"opening: it is let in as soon as ssh.service runs | doorward status ssh", noGrant+"2001:db8::7",
			"service_down: ssh.service does not run, and the door is opening (touched the right ports) | ")
		m.do(func() { m.slow = nil })
		close(slow)
		synctest.Wait()
		r.wantLines("after a right knock", "2001:db8::7", "in for 30s", "by 2001:db8::7 touch for 30s")
		r.wantLines("open", "198.51.100.7", "in", "by 198.51.100.0/24 always")
		r.wantLines("open", "::1", "in, no knock", "by ::1 this machine", own)
		r.wantLines("open", "203.0.113.9", "out", noGrant+"203.0.113.9")
		r.order(control.OpenRequest{Door: "ssh", Source: "2001:db8::/32", For: "10m"})
		r.order(control.OpenRequest{Door: "ssh", Source: "any", For: "5m"})
		r.wantLines("after orders", "2001:db8::7", "in for 10m0s", "by any operator alice (uid 1000) for 5m0s",
			"by 2001:db8::/32 operator alice (uid 1000) for 10m0s", "by 2001:db8::7 touch for 30s")
		r.wantLines("after orders", "203.0.113.9", "in for 5m0s", "by any operator alice (uid 1000) for 5m0s")
		m.do(func() { m.silentPorts = []string{"22/tcp"} })
		r.wantLines("when nothing listens", "203.0.113.9", "perhaps in for 5m0s", "by any operator alice (uid 1000) for 5m0s",
			"nothing_listens: nothing on this machine listens on 22/tcp: unless that is forwarded, a connection is refused | ss -ltn")
		m.do(func() { m.silentPorts = nil })

		r.order(control.CloseRequest{Door: "ssh"})
		m.do(func() { m.stubborn = errors.New("no such unit") })
		r.touch(visitor6, 59000, 59002)
		r.wantLines("after a start that failed", "2001:db8::7", "out, no knock", noGrant+"2001:db8::7",
			"service_failed: ssh.service does not run, and the door is dark (the service did not start): no such unit | systemctl status ssh.service")
		m.becomes("ssh.service", service.Status{State: service.Failed, Detail: "exit status 1"})
		synctest.Wait()
		r.wantLines("after its manager says so", "2001:db8::7", "out, no knock", noGrant+"2001:db8::7",
			"service_failed: ssh.service does not run, and the door is dark (the service did not start): exit status 1 | systemctl status ssh.service")
		m.do(func() { m.seen = door.Seen{NoData: "no journal"} })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		r.wantLines("without log data", "2001:db8::7", "out, no knock", "failsafe: the door is in failsafe and ignores knocks: no journal | doorward arm ssh",
			strings.TrimSuffix(noGrant, "doorward open ssh --source "),
			"service_failed: ssh.service does not run, and the door is failsafe (no journal): exit status 1 | systemctl status ssh.service")
	})
}

// The kernel has the last word, and if it disagrees with the daemon the explanation says
// so.
func TestExplainAsksTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), explainedDoor)
		r.touch(visitor, 59000, 59002)
		const again = " | doorward explain 192.0.2.2 ssh"
		m.do(func() { clear(m.grants) })
		r.wantLines("after its grant went", "192.0.2.2", "out for 30s", "by 192.0.2.2 touch for 30s",
			"kernel_differs: the daemon knows of a grant, but the kernel has none: somebody else may have removed it"+again)
		r.events <- func(time.Time) { r.door("ssh").conf.SingleUse = true }
		r.wantLines("after it was spent", "192.0.2.2", "out for 30s", "by 192.0.2.2 touch for 30s",
			"kernel_differs: the daemon knows of a grant, but the kernel has none: its one connection was made"+again)
		m.do(func() { m.grants[grantKey{"ssh", netip.MustParsePrefix("203.0.112.0/23")}] = time.Now().Add(time.Hour) })
		r.wantLines("after somebody else gave one", "203.0.113.9", "in for 1h0m0s", "by 203.0.112.0/23 the kernel alone for 1h0m0s",
			"kernel_differs: the kernel lets 203.0.112.0/23 in, but the daemon knows of no such grant: it will be revoked within seconds"+
				" | doorward explain 203.0.113.9 ssh")
		m.do(func() { m.silent = errors.New("no buffer space available") })
		r.wantLines("when it does not answer", "192.0.2.2", "perhaps in for 30s", "by 192.0.2.2 touch for 30s",
			"kernel_unasked: cannot ask the kernel whom it lets in: no buffer space available"+again)
		r.wantLines("when it does not answer", "198.51.100.7", "in", "by 198.51.100.0/24 always",
			"kernel_unasked: cannot ask the kernel whom it lets in: no buffer space available | doorward explain 198.51.100.7 ssh")
		m.do(func() { m.silent, m.broken = nil, errors.New("no such table") })
		m.flush()
		synctest.Wait()
		got := r.lines("198.51.100.7")
		if got[0] != "perhaps in, no knock" || !strings.HasPrefix(got[2], "fence_down: the fence is not as it should be, so the wrong people may get in, or nobody: ") {
			t.Errorf("without a fence: %q, want that it is not known", got)
		}
	})
}

// A door that does not exist is an error. If no door is named, all are explained, in the
// order of the configuration.
func TestExplainAllDoors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), "[gateway]\n"+explainedDoor+strings.NewReplacer("ssh", "web", "22/tcp", "443/tcp", "59", "58").Replace(sshDoor))
		e, err := r.Explain(t.Context(), visitor, "")
		var got []string
		for _, d := range e.Doors {
			got = append(got, fmt.Sprint(d.Door, d.Ports, d.State))
		}
		if d := cmp.Diff([]string{"ssh[22/tcp]dark", "web[443/tcp]dark"}, got); err != nil || d != "" {
			t.Errorf("%v (-want +got):\n%s", err, d)
		}
		r.touch(visitor, 58001)
		for range 12 {
			r.touch(visitor, 59001)
			r.order(control.ArmRequest{Door: "ssh"})
		}
		e, err = r.Explain(t.Context(), visitor, "")
		if ssh, web := e.Doors[0].Refusals, e.Doors[1].Refusals; err != nil || len(ssh) != 8 || len(web) != 1 || web[0].Door != "web" || ssh[0].ID < ssh[7].ID {
			t.Errorf("%v, refusals of ssh %v, of web %v; want the latest eight, newest first, and one", err, ssh, web)
		}
		m.do(func() { m.unreadable = errors.New("input/output error") })
		if e, err = r.Explain(t.Context(), visitor, ""); err != nil || e.Unread != "input/output error" || len(e.Doors[0].Obstacles) == 0 {
			t.Errorf("with a trail that cannot be read: %+v, %v; want the rest, and why", e, err)
		}
		_, err = r.Explain(t.Context(), visitor, "nix")
		if want := `there is no door "nix": the doors are ssh, web`; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		r.stop()
		_, err = r.Explain(t.Context(), visitor, "")
		if got, want := said(control.Reply{}, err), "daemon_down: the daemon is shutting down (systemctl status doorward)"; got != want {
			t.Errorf("after the end: got %q, want %q", got, want)
		}
	})
}

// Refused knocks are counted, but the penalty of a whole network is not one more. Those
// before the start are counted according to the trail.
func TestStatusCountsGuesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		if got := r.status().Guesses.Day; got.Refused != 0 || !got.Since.Equal(time.Now().Add(-24*time.Hour)) {
			t.Errorf("at first: %v, want none in a day", got)
		}
		for n := range 6 { // from one /56, which is penalised from the fourth on
			r.touch(netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::1", n)), 59001)
		}
		time.Sleep(90 * time.Minute)
		r.touch(visitor, 59001)
		g := r.status().Guesses
		want := control.Guesses{
			Hour: control.GuessesOf{Since: time.Now().Add(-time.Hour), Refused: 1, Top: []control.GuessesFrom{{Prefix: "192.0.2.0/24", Refused: 1}}},
			Day: control.GuessesOf{Since: time.Now().Add(-24*time.Hour - 30*time.Minute), Refused: 5,
				Top: []control.GuessesFrom{{Prefix: "2001:db8::/48", Refused: 4}, {Prefix: "192.0.2.0/24", Refused: 1}}},
		}
		if d := cmp.Diff(want, g); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		r.stop()
		time.Sleep(40 * time.Minute)
		r = restart(t, m, r.path)
		r.touch(netip.MustParseAddr("198.51.100.9"), 59001)
		want = control.Guesses{
			Hour: control.GuessesOf{Since: time.Now().Add(-time.Hour), Refused: 2,
				Top: []control.GuessesFrom{{Prefix: "192.0.2.0/24", Refused: 1}, {Prefix: "198.51.100.0/24", Refused: 1}}},
			Day: control.GuessesOf{Since: time.Now().Add(-24 * time.Hour), Refused: 6,
				Top: []control.GuessesFrom{{Prefix: "2001:db8::/48", Refused: 4}, {Prefix: "192.0.2.0/24", Refused: 1}, {Prefix: "198.51.100.0/24", Refused: 1}}},
		}
		if d := cmp.Diff(want, r.status().Guesses); d != "" {
			t.Errorf("after a restart (-want +got):\n%s", d)
		}
		r.stop()
		m.do(func() { m.unreadable = errors.New("input/output error") })
		began := time.Now()
		r = restart(t, m, r.path)
		if got := r.status().Guesses.Day; got.Refused != 0 || !got.Since.Equal(began) {
			t.Errorf("with a trail that cannot be read: %v, want none since the start", got)
		}
	})
}
