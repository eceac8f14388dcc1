package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// openDoor has a service that always runs, so that it opens at once.
const openDoor = `
[door.web]
ports = ["443/tcp"]
always = ["198.51.100.0/24"]
[[door.web.knock]]
kind = "touch"
listen = [60001, 60002, 60003]
touch = [60001, 60003]
`

// said returns the answer to an order in one line: code, message and hint of an error, or
// door, source, state, whether anything has changed, and the message.
func said(r control.Reply, err error) string {
	if err != nil {
		e, _ := errors.AsType[*control.Error](err)
		if e == nil {
			return "error: " + err.Error()
		}
		return fmt.Sprintf("%s: %s (%s)", cmp.Or(e.Code, control.CodeRefused), e.Message, e.Hint)
	}
	words := []string{r.Door, r.Source, r.State, map[bool]string{true: "changed", false: "as before"}[r.Changed]}
	for _, c := range r.Covered {
		until := "always"
		if c.Until != nil {
			until = time.Until(*c.Until).Round(time.Second).String()
		}
		words = append(words, fmt.Sprintf("covered by %s of %s (%s)", c.Source, c.By, until))
	}
	return strings.Join(words, ", ") + ": " + r.Message
}

// Each order in each state of a door: what the answer says and whether anything has
// changed. It is not an error if things were so already.
func TestOrders(t *testing.T) {
	open := func(source, long string) control.OpenRequest {
		return control.OpenRequest{Door: "ssh", Source: source, For: long, Wait: "1m"}
	}
	closed := func(source string) control.CloseRequest { return control.CloseRequest{Door: "ssh", Source: source} }
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		for _, tt := range []struct {
			order control.Request
			want  string
		}{
			// Dark.
			{control.OpenRequest{Door: "shh", Source: "192.0.2.2"}, `no_such_door: there is no door "shh": the doors are ssh (doorward status)`},
			{control.CloseRequest{Door: "shh"}, `no_such_door: there is no door "shh": the doors are ssh (doorward status)`},
			{control.ArmRequest{Door: "shh"}, `no_such_door: there is no door "shh": the doors are ssh (doorward status)`},
			{closed(""), "ssh, , dark, as before: door ssh is dark; existing sessions continue"},
			{closed("192.0.2.9"), "ssh, 192.0.2.9, dark, as before: 192.0.2.9 has no grant at door ssh"},
			{closed("any"), "ssh, any, dark, as before: door ssh has no grant to everybody"},
			{control.ArmRequest{Source: "192.0.2.9"}, ", 192.0.2.9, , as before: 192.0.2.9 has no penalty at any door"},
			{control.ArmRequest{Door: "ssh", Source: "192.0.2.9"}, "ssh, 192.0.2.9, dark, as before: 192.0.2.9 has no penalty at door ssh"},
			{control.ArmRequest{}, ", , , as before: already armed, and nobody is penalised: ssh"},
			{control.ArmRequest{Door: "ssh"}, "ssh, , dark, as before: already armed, and nobody is penalised: ssh"},
			// Opening, and open.
			{control.OpenRequest{Door: "ssh", Source: "192.0.2.2"}, "ssh, 192.0.2.2, opening, changed: door ssh opens for 192.0.2.2 as soon as ssh.service runs"},
			{open("2001:db8::/64", "5m"), "ssh, 2001:db8::/64, open, changed: door ssh is open for 2001:db8::/64 for 5m"},
			{open("2001:db8::/64", ""), "ssh, 2001:db8::/64, open, changed: door ssh is open for 2001:db8::/64 for 30s"},
			{closed("2001:db8::7"), "ssh, 2001:db8::7, open, as before, covered by 2001:db8::/64 of operator alice (uid 1000) (30s): 2001:db8::7 can STILL " +
				"connect to door ssh: the grant to 2001:db8::/64 (operator alice (uid 1000), for another 30s); 2001:db8::7 has no grant at door ssh"},
			{closed("192.0.2.2"), "ssh, 192.0.2.2, open, changed: 192.0.2.2 can open no new connections to door ssh; its existing sessions continue"},
			{closed("192.0.2.2"), "ssh, 192.0.2.2, open, as before: 192.0.2.2 has no grant at door ssh"},
			{open("192.0.2.2", "1m"), "ssh, 192.0.2.2, open, changed: door ssh is open for 192.0.2.2 for 1m"},
			{open("192.0.2.3", "1m"), "ssh, 192.0.2.3, open, changed: door ssh is open for 192.0.2.3 for 1m"},
			{open("192.0.2.0/25", "1m"), "ssh, 192.0.2.0/25, open, changed: door ssh is open for 192.0.2.0/25 for 1m"},
			{open("any", "10m"), "ssh, any, open, changed: door ssh is open for everybody for 10m"},
			{closed("192.0.2.3"), "ssh, 192.0.2.3, open, changed, covered by any of operator alice (uid 1000) (10m0s), " +
				"covered by 192.0.2.0/25 of operator alice (uid 1000) (1m0s): 192.0.2.3 can STILL connect to door ssh: the grant to everybody " +
				"(operator alice (uid 1000), for another 10m), the grant to 192.0.2.0/25 (operator alice (uid 1000), for another 1m); its own grant has ended"},
			{closed("any"), "ssh, any, open, changed: the grant to everybody at door ssh has ended; existing sessions continue; others still have grants: 3"},
			{closed("192.0.2.0/24"), "ssh, 192.0.2.0/24, open, changed: 192.0.2.0/24 can open no new connections to door ssh: 2 grants in it have ended; existing sessions continue"},
			{closed("192.0.2.0/24"), "ssh, 192.0.2.0/24, open, as before: 192.0.2.0/24 has no grant at door ssh"},
			{control.OpenRequest{Door: "ssh", Source: "192.0.2.2", For: "1s"}, "ssh, 192.0.2.2, open, changed: door ssh is open for 192.0.2.2 for 1s"},
			// Closing, and dark again.
			{closed(""), "ssh, , closing, changed: door ssh is closing; existing sessions continue"},
			{closed(""), "ssh, , dark, as before: door ssh is dark; existing sessions continue"},
			{control.ApplyRequest{Action: "keep"}, "refused: no configuration is waiting to be confirmed (doorward log)"},
		} {
			if got := said(r.ask(tt.order)); got != tt.want {
				t.Errorf("%T %v:\n got %q\nwant %q", tt.order, tt.order, got, tt.want)
			}
			synctest.Wait()
		}
		if len(m.grants) != 0 {
			t.Errorf("grants %v are left", m.grants)
		}
	})
}

// The answer to arm says what has changed, also when the door still ignores knocks.
func TestArming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		wants := func(o control.ArmRequest, want string) {
			t.Helper()
			if got := said(r.ask(o)); got != want {
				t.Errorf("%+v:\n got %q\nwant %q", o, got, want)
			}
		}
		r.touch(visitor, 59001)
		wants(control.ArmRequest{Source: "192.0.2.2"}, ", 192.0.2.2, , changed: 192.0.2.2 may knock again")
		r.touch(visitor, 59001)
		wants(control.ArmRequest{Door: "ssh"}, "ssh, , dark, changed: armed, and all penalties lifted: ssh")
		m.do(func() { m.seen.NoData = "no log data: the journal is empty" })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got, want := said(r.ask(control.OpenRequest{Door: "ssh", Source: "any"})),
			`refused: door "ssh" is in failsafe: no log data: the journal is empty (doorward arm ssh)`; got != want {
			t.Errorf("open:\n got %q\nwant %q", got, want)
		}
		if got, want := said(r.ask(control.CloseRequest{Door: "ssh"})), "ssh, , failsafe, as before: door ssh is failsafe; existing sessions continue"; got != want {
			t.Errorf("close:\n got %q\nwant %q", got, want)
		}
		wants(control.ArmRequest{Source: "192.0.2.2"},
			", 192.0.2.2, , as before: 192.0.2.2 has no penalty at any door; door ssh ignores knocks now: doorward status ssh says why")
		wants(control.ArmRequest{}, ", , , changed: armed, and all penalties lifted: ssh")
	})
}

// Answers name what the configuration always lets in, whether that is all of a source or
// a part of it.
func TestAnswersNameAlways(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newMachine(), configPath(t), openDoor+sshDoor)
		for _, tt := range []struct {
			order control.CloseRequest
			want  string
		}{
			{control.CloseRequest{Door: "web", Source: "198.51.100.7"}, "web, 198.51.100.7, dark, as before, covered by 198.51.100.0/24 of always (always): " +
				"198.51.100.7 can STILL connect to door web: 198.51.100.0/24 needs no grant (always); 198.51.100.7 has no grant at door web"},
			{control.CloseRequest{Door: "web", Source: "198.51.0.0/16"}, "web, 198.51.0.0/16, dark, as before, covered by 198.51.100.0/24 of always (always): " +
				"a part of 198.51.0.0/16 can STILL connect to door web: 198.51.100.0/24 needs no grant (always); 198.51.0.0/16 has no grant at door web"},
			{control.CloseRequest{Door: "web"}, "web, , dark, as before, covered by 198.51.100.0/24 of always (always): " +
				"door web is dark; existing sessions continue; it always lets in 198.51.100.0/24"},
			{control.CloseRequest{Door: "web", Source: "192.0.2.7"}, "web, 192.0.2.7, dark, as before: 192.0.2.7 has no grant at door web"},
		} {
			if got := said(r.ask(tt.order)); got != tt.want {
				t.Errorf("%+v:\n got %q\nwant %q", tt.order, got, tt.want)
			}
		}
		s, _ := r.Status()
		if d := gocmp.Diff([]string{"198.51.100.0/24"}, s.Doors[1].Always); d != "" || s.Doors[0].Always == nil {
			t.Errorf("status has always %q and %q (-want +got):\n%s", s.Doors[0].Always, s.Doors[1].Always, d)
		}
	})
}

// waits gives an order that is answered later; answered returns the answer.
func (r *running) waits(o control.Request) (answered func() string) {
	done := make(chan string, 1)
	go func() { done <- said(r.ask(o)) }()
	synctest.Wait()
	return func() string {
		synctest.Wait()
		select {
		case got := <-done:
			return got
		default:
			return "no answer"
		}
	}
}

// An order to open a door that waits is answered when the grant is in the kernel, or when
// it is certain that it will not be.
func TestOpenWaits(t *testing.T) {
	const to = "192.0.2.2"
	slow := control.OpenRequest{Door: "ssh", Source: to, For: "5m", Wait: "20s"}
	for _, tt := range []struct {
		name string
		then func(r *running, start chan struct{})
		want string
	}{
		{"the service runs", func(r *running, start chan struct{}) { close(start) },
			"ssh, 192.0.2.2, open, changed: door ssh is open for 192.0.2.2 for 5m"},
		{"the service fails", func(r *running, start chan struct{}) {
			r.m.do(func() { r.m.stubborn = errors.New("exit status 255") })
			close(start)
		}, "failed: door ssh has not opened for 192.0.2.2: start ssh.service: exit status 255 " +
			"(systemctl status ssh.service; journalctl -u ssh.service; doorward log ssh)"},
		{"the door is closed", func(r *running, _ chan struct{}) {
			o, _ := control.CloseRequest{Door: "ssh"}.Order()
			r.Do(r.t.Context(), control.Caller{Name: "operator bob (uid 1001)"}, o)
		}, "failed: door ssh has not opened for 192.0.2.2: operator bob (uid 1001) has closed it " +
			"(systemctl status ssh.service; journalctl -u ssh.service; doorward log ssh)"},
		{"its source is closed", func(r *running, _ chan struct{}) {
			o, _ := control.CloseRequest{Door: "ssh", Source: "192.0.2.0/24"}.Order()
			r.Do(r.t.Context(), control.Caller{Name: "operator bob (uid 1001)"}, o)
		}, "failed: door ssh has not opened for 192.0.2.2: operator bob (uid 1001) has closed it to 192.0.2.2 " +
			"(systemctl status ssh.service; journalctl -u ssh.service; doorward log ssh)"},
		{"the door goes", func(r *running, _ chan struct{}) {
			write(r.t, r.path, openDoor)
			r.order(control.ApplyRequest{Action: "apply"})
		}, "failed: door ssh has not opened for 192.0.2.2: it is no longer guarded " +
			"(systemctl status ssh.service; journalctl -u ssh.service; doorward log ssh)"},
		{"the time is up", func(*running, chan struct{}) { time.Sleep(20 * time.Second) },
			"timeout: door ssh has not opened for 192.0.2.2 within 20s, and opens as soon as ssh.service runs " +
				"(doorward status ssh; doorward close ssh --source 192.0.2.2 cancels the order)"},
		{"the daemon ends", func(r *running, _ chan struct{}) { r.stop() },
			"daemon_down: the daemon is shutting down (systemctl status doorward)"},
		{"the disk takes nothing", func(r *running, start chan struct{}) {
			r.m.do(func() { r.m.full = errors.New("no space left on device") })
			close(start)
		}, "failed: it is done, but a restart would forget it: no space left on device (doorward status)"},
		{"nothing happens", func(*running, chan struct{}) { time.Sleep(19 * time.Second) }, "no answer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, start := newMachine(), make(chan struct{})
				m.slow = start
				r := run(t, m, configPath(t), sshDoor)
				answered := r.waits(slow)
				if got := answered(); got != "no answer" {
					t.Fatalf("before the service runs: %q", got)
				}
				tt.then(r, start)
				got := answered()
				if got != tt.want {
					t.Errorf("\n got %q\nwant %q", got, tt.want)
				}
				if _, in := m.grants[grantKey{"ssh", door.Source(visitor)}]; strings.Contains(got, "is open") != in && !strings.Contains(got, "it is done") {
					t.Errorf("told %q, and the kernel lets it in: %v", got, in)
				}
			})
		})
	}
}

// An order that waits for as long as a service may take is answered when that did not
// start.
func TestOpenWaitsNoLongerThanTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.slow = make(chan struct{})
		r := run(t, m, configPath(t), strings.Replace(sshDoor, "unit =", "timeout = \"40s\"\nunit =", 1))
		begin := time.Now()
		got := said(r.ask(control.OpenRequest{Door: "ssh", Source: "any", Wait: control.LongestWait.String()}))
		if want := "failed: door ssh has not opened for everybody: start ssh.service: context deadline exceeded "; !strings.HasPrefix(got, want) || time.Since(begin) != 40*time.Second {
			t.Errorf("after %v: %q, want after 40s: %q", time.Since(begin), got, want)
		}
	})
}

// An order also waits for a service that is started again behind an open door, whatever
// grant there was before.
func TestOpenWaitsForARepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, start := newMachine(), make(chan struct{})
		r := run(t, m, configPath(t), sshDoor)
		o := control.OpenRequest{Door: "ssh", Source: "192.0.2.2", For: "5m", Wait: "20s"}
		r.ask(o)
		m.do(func() { m.slow = start })
		m.becomes("ssh.service", died9)
		synctest.Wait()
		answered := r.waits(o)
		if got := answered(); got != "no answer" {
			t.Errorf("while the service is started again: %q", got)
		}
		close(start)
		if got, want := answered(), "ssh, 192.0.2.2, open, changed: door ssh is open for 192.0.2.2 for 5m"; got != want {
			t.Errorf("\n got %q\nwant %q", got, want)
		}
	})
}

// Orders whose client has gone are forgotten when the next one comes.
func TestNobodyWaitsForWhoHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.slow = make(chan struct{})
		r := run(t, m, configPath(t), sshDoor)
		for i := range 100 {
			o, _ := control.OpenRequest{Door: "ssh", Source: fmt.Sprintf("192.0.2.%d", i+1), Wait: "20s"}.Order()
			ctx, cancel := context.WithCancel(t.Context())
			go r.Do(ctx, control.Caller{Name: "operator alice (uid 1000)"}, o)
			synctest.Wait()
			cancel()
		}
		var waiters int
		r.events <- func(time.Time) { waiters = len(r.door("ssh").waiters) }
		synctest.Wait()
		if waiters != 1 {
			t.Errorf("%d orders wait, though all clients have gone: want the last alone", waiters)
		}
	})
}

// Very many grants within a network end in parts, between which other things are done,
// and the answer comes after the last.
func TestCloseManyWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), openDoor)
		const many = 5000
		r.events <- func(now time.Time) {
			d := r.door("web")
			for i := range many {
				a := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
				effects, err := d.door.Open(now, door.Source(a), time.Hour, "operator alice (uid 1000)")
				if err != nil {
					t.Error(err)
				}
				d.apply(effects)
			}
		}
		synctest.Wait()
		r.ask(control.OpenRequest{Door: "web", Source: "192.0.2.7", For: "1h"})
		m.do(func() { m.told, m.largest = 0, 0 })
		got := said(r.ask(control.CloseRequest{Door: "web", Source: "198.18.0.0/15"}))
		if want := "web, 198.18.0.0/15, open, changed: 198.18.0.0/15 can open no new connections to door web: 5000 grants in it have ended; existing sessions continue"; got != want {
			t.Errorf("\n got %q\nwant %q", got, want)
		}
		m.do(func() {
			if len(m.grants) != 1 {
				t.Errorf("the kernel has %d grants, want the one of another", len(m.grants))
			}
			if m.largest > 1100 || m.told > 2200 {
				t.Errorf("%d grants in one change of the fence, %d records and claims in one commit: want about a thousand, and two", m.largest, m.told)
			}
		})
	})
}

// Whatever was opened and closed before, a source that an answer says is shut out is, and
// otherwise the answer names what lets it in.
func TestClosingSaysWhoIsStillLetIn(t *testing.T) {
	sources := []string{"any", "192.0.2.0/24", "192.0.2.0/25", "192.0.2.7", "192.0.2.200", "198.51.100.7", "198.51.0.0/16",
		"2001:db8::/32", "2001:db8::/64", "2001:db8::7"}
	type step struct {
		door, source string
		open         bool
		wait         time.Duration
	}
	steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{rapid.SampledFrom([]string{"web", "ssh"}).Draw(t, "door"), rapid.SampledFrom(sources).Draw(t, "source"),
			rapid.Bool().Draw(t, "open"), time.Duration(rapid.SampledFrom([]int{0, 0, 1, 400, 700}).Draw(t, "seconds")) * time.Second}
	}), 1, 20)
	rapid.Check(t, func(rt *rapid.T) {
		plan := steps.Draw(rt, "steps")
		problem := ""
		synctest.Test(t, func(t *testing.T) {
			m := newMachine()
			r := run(t, m, configPath(t), openDoor+sshDoor)
			for _, s := range plan {
				if s.open {
					r.ask(control.OpenRequest{Door: s.door, Source: s.source, For: "10m"})
					time.Sleep(s.wait)
					continue
				}
				reply, err := r.ask(control.CloseRequest{Door: s.door, Source: s.source})
				synctest.Wait() // for a service that was starting or stopping
				letIn := m.letsIn(s.door, s.source)
				shut := !strings.Contains(reply.Message, "STILL")
				if err != nil || s.source != "any" && (shut != (letIn == nil) || shut != (len(reply.Covered) == 0)) {
					problem = fmt.Sprintf("close %s at %s: %q, %v, covered by %+v, and the kernel lets in %v",
						s.source, s.door, reply.Message, err, reply.Covered, letIn)
					return
				}
			}
		})
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

// letsIn returns the kernel's grants that let a source, or a part of it, in at a door.
func (m *machine) letsIn(name, source string) (by []netip.Prefix) {
	who, _ := parseSource(source)
	m.do(func() {
		d, _ := m.guards(name)
		for _, p := range d.Always {
			if p.Overlaps(who) {
				by = append(by, p)
			}
		}
		for k, end := range m.grants {
			if k.door == name && time.Now().Before(end) && (k.source == door.Any || k.source.Overlaps(who)) {
				by = append(by, k.source)
			}
		}
	})
	return slices.Clip(by)
}
