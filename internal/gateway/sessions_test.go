package gateway

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/presence"
)

// sessionAt returns the visitor's session at the ssh door, from a port.
func sessionAt(from uint16) presence.Connection { return sessionOf(visitor, from) }

func sessionOf(a netip.Addr, from uint16) presence.Connection {
	return presence.Connection{Proto: port.TCP, Local: netip.MustParseAddrPort("192.0.2.1:22"), Remote: netip.AddrPortFrom(a, from),
		Socket: uint32(from)}
}

// login returns a login now, through the session that sessionAt returns.
func login(user string, from uint16) presence.Login {
	return presence.Login{Time: time.Now(), User: user, Method: "publickey", Source: visitor, Port: from, Where: "journal"}
}

// comes has the visitor's sessions come in, and all others end.
func (m *machine) comes(from ...uint16) {
	m.do(func() {
		m.sessions = nil
		for _, p := range from {
			m.sessions = append(m.sessions, sessionAt(p))
		}
	})
}

// live returns who is in at the first door: from which port, since when, who, and let in
// by what.
func (r *running) live(begun time.Time) (all []string) {
	r.t.Helper()
	time.Sleep(measureSoon)
	for _, s := range r.status().Live {
		since := "before"
		if s.Since != nil {
			since = s.Since.Sub(begun).Truncate(time.Second).String()
		}
		all = append(all, fmt.Sprintf("%s:%d to %s since %s: %s, %s", s.Source, s.Port, s.To, since, s.User, byWhat(s.Grant, begun)))
	}
	return all
}

func byWhat(g *audit.Grant, begun time.Time) string {
	if g == nil {
		return "unknown"
	}
	return fmt.Sprintf("%s by %s since %s", g.Source, g.By, g.Since.Sub(begun).Truncate(time.Second))
}

func (r *running) wantLive(begun time.Time, want ...string) {
	r.t.Helper()
	if got := r.live(begun); !slices.Equal(got, want) {
		r.t.Errorf("in are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Status has who is in, since when, and by which grant, even if that has ended by the time
// they are noticed. For those who were in before the daemon started it is not known.
func TestWhoIsInIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, begun := newMachine(), time.Now()
		m.comes(1)
		r := run(t, m, configPath(t), sshDoor)
		r.wantLive(begun, "192.0.2.2:1 to 22/tcp since before: , unknown")
		time.Sleep(10 * time.Second)
		r.touch(visitor, 59000, 59002)
		if g := r.status().Grants[0]; g.Given == nil || !g.Given.Equal(time.Now()) || !slices.Equal(g.For, []string{"touch"}) {
			t.Errorf("the grant was given to %v at %v, want touch, now", g.For, g.Given)
		}
		time.Sleep(time.Second)
		m.comes(1, 2)
		r.wantLive(begun, "192.0.2.2:2 to 22/tcp since 11s: , 192.0.2.2 by touch since 10s",
			"192.0.2.2:1 to 22/tcp since before: , unknown")

		// The grant ends right after somebody has come, and before the next look.
		m.comes(2, 3)
		r.order(control.CloseRequest{Door: "ssh", Source: "192.0.2.2"})
		time.Sleep(6 * time.Second)
		r.wantLive(begun, "192.0.2.2:3 to 22/tcp since 15s: , 192.0.2.2 by touch since 10s",
			"192.0.2.2:2 to 22/tcp since 11s: , 192.0.2.2 by touch since 10s")

		// Another connection of the same name is another session, let in by another.
		r.order(control.OpenRequest{Door: "ssh", Source: "192.0.2.0/24", For: "1h"})
		m.do(func() { m.sessions[0].Socket++ })
		time.Sleep(6 * time.Second)
		r.wantLive(begun, "192.0.2.2:2 to 22/tcp since 20s: , 192.0.2.0/24 by operator alice (uid 1000) since 17s",
			"192.0.2.2:3 to 22/tcp since 15s: , 192.0.2.2 by touch since 10s")
		m.comes()
		r.wantLive(begun)
	})
}

// Who comes by the first knock of all is met as somebody new: those who are in already are
// looked at before knocks are heard, or a visitor could be taken for one of them.
func TestWhoIsInIsKnownBeforeKnocksAreHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		looks := 0
		runWith(t, m, configPath(t), sshDoor, func(w *World) {
			look := w.Connections
			w.Connections = func(ports [][]port.Range) ([][]presence.Connection, error) {
				m.do(func() {
					if looks++; looks == 1 && len(m.listening) > 0 {
						t.Errorf("knocks are heard at %v before anybody has looked who is in", m.listening)
					}
				})
				return look(ports)
			}
		})
		if looks == 0 {
			t.Error("nobody has looked who is in")
		}
	})
}

// If nobody looks while a door is dark, it is not known since when those are in who need
// not knock; for those who knocked it is.
func TestSinceWhenIsNotGuessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, begun := newMachine(), time.Now()
		home := sessionOf(netip.MustParseAddr("198.51.100.7"), 1)
		r := run(t, m, configPath(t), "[door.ssh]\nports = [\"22/tcp\"]\nalways = [\"198.51.100.0/24\"]\n"+
			"[door.ssh.presence]\nlogins = \"off\"\n[[door.ssh.knock]]\nkind = \"touch\"\nlisten = [59000, 59001, 59002]\ntouch = [59000, 59002]\n")
		time.Sleep(time.Hour)
		m.do(func() { m.sessions = []presence.Connection{home} })
		time.Sleep(time.Hour)
		r.touch(visitor, 59000, 59002)
		m.do(func() { m.sessions = []presence.Connection{home, sessionAt(2)} })
		time.Sleep(2 * time.Second)
		never := time.Time{}.Sub(begun).Truncate(time.Second).String()
		r.wantLive(begun, "192.0.2.2:2 to 22/tcp since 2h0m2s: , 192.0.2.2 by touch since 2h0m0s",
			"198.51.100.7:1 to 22/tcp since before: , 198.51.100.0/24 by always since "+never)
	})
}

// If very many come at once, each is recorded in the end, but no turn looks up the grants
// of more than some; status lists the latest.
func TestManyWhoComeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		m.do(func() {
			for n := range 3 * maxLive {
				m.sessions = append(m.sessions, sessionAt(uint16(n+1)))
			}
		})
		r.status()
		synctest.Wait()
		time.Sleep(measureSoon)
		s := r.status()
		if s.Sessions != 3*maxLive || len(s.Live) != maxLive {
			t.Errorf("%d are in and %d listed, want %d and %d", s.Sessions, len(s.Live), 3*maxLive, maxLive)
		}
		for _, l := range s.Live {
			if l.Grant == nil || l.Since == nil {
				t.Fatalf("status does not say what let %d in", l.Port)
			}
		}
	})
}

// Sessions at ports that are new at a door may have been there before; and when a door
// goes, what is known of its sessions goes with it.
func TestPortsThatCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path, begun := newMachine(), configPath(t), time.Now()
		there := sessionAt(1)
		there.Local = netip.MustParseAddrPort("192.0.2.1:2222")
		m.do(func() { m.sessions = []presence.Connection{there} })
		r := run(t, m, path, sshDoor)
		r.wantLive(begun)
		write(t, path, strings.Replace(sshDoor, `["22/tcp"]`, `["22/tcp", "2222/tcp"]`, 1))
		r.order(control.ApplyRequest{Action: "apply"})
		r.wantLive(begun, "192.0.2.2:1 to 2222/tcp since before: , unknown")
		write(t, path, strings.Replace(sshDoor, "door.ssh", "door.other", -1))
		r.order(control.ApplyRequest{Action: "apply"})
		synctest.Wait()
		if _, there := r.sessionTable.doors["ssh"]; there {
			t.Error("sessions of a door that is gone are remembered")
		}
	})
}

// Watchers are notified when somebody has come in or has gone.
func TestWatchersHearOfSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		for _, from := range [][]uint16{{1}, {1, 2}, {2}, nil} {
			synctest.Wait()
			newer := r.Newer()
			m.comes(from...)
			time.Sleep(6 * time.Second)
			synctest.Wait()
			select {
			case <-newer:
			default:
				t.Errorf("watchers were not notified that %v are in now", from)
			}
		}
	})
}

// toldLogins returns the trail's logins: who, from where, let in by what.
func (m *machine) toldLogins(begun time.Time) (all []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.trail {
		if r.Event == audit.EventLogin {
			all = append(all, fmt.Sprintf("%s %s:%d by %s, %s", r.Login.User, r.Source, r.Login.Port, r.Login.Method, byWhat(r.Login.Grant, begun)))
		}
	}
	return all
}

// A login is recorded once, however often it is read, with what let it in. From then on
// its session has the user's name, also after a restart.
func TestLoginsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path, begun := newMachine(), configPath(t), time.Now()
		r := run(t, m, path, strings.Replace(sshDoor, "[door.ssh]\n", "[door.ssh]\nalways = [\"198.51.100.0/24\"]\n", 1))
		r.touch(visitor, 59000, 59002)
		looks := func(logins ...presence.Login) {
			t.Helper()
			m.do(func() { m.logins = logins })
			time.Sleep(6 * time.Second)
			synctest.Wait()
		}
		m.comes(1)
		alice := login("alice", 1)
		twice := alice
		twice.Time = twice.Time.Add(time.Second) // as another log has it
		forged := login("root", 1)
		forged.Time = forged.Time.Add(time.Millisecond)
		old := login("eve", 9)
		old.Time = begun.Add(-time.Minute)
		home := login("carol", 7)
		home.Source = netip.MustParseAddr("198.51.100.7")
		looks(alice, twice, old)
		looks(alice, login(strings.Repeat("x", 200), 2), home) // whose sessions have ended
		looks(forged)
		want := []string{
			"alice 192.0.2.2:1 by publickey, 192.0.2.2 by touch since 0s",
			strings.Repeat("x", 100) + " 192.0.2.2:2 by publickey, 192.0.2.2 by touch since 0s",
			"carol 198.51.100.7:7 by publickey, 198.51.100.0/24 by always since " + time.Time{}.Sub(begun).Truncate(time.Second).String(),
			"root 192.0.2.2:1 by publickey, 192.0.2.2 by touch since 0s",
		}
		check := func(when string) {
			t.Helper()
			if got := m.toldLogins(begun); !slices.Equal(got, want) {
				t.Errorf("%s, recorded are\n%s\nwant\n%s", when, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		check("at first")
		r.wantLive(begun, "192.0.2.2:1 to 22/tcp since 0s: alice, 192.0.2.2 by touch since 0s")
		if got := m.trail[len(m.trail)-1].Reason; got != `user "root" by publickey, let in by touch` {
			t.Errorf("the reason is %q", got)
		}

		r.stop()
		meanwhile := login("dave", 3)
		m.comes(1, 3)
		time.Sleep(time.Second)
		m.do(func() { m.logins = []presence.Login{old, alice, forged, home, meanwhile} })
		r = restart(t, m, path)
		time.Sleep(time.Minute)
		synctest.Wait()
		want = append(want, "dave 192.0.2.2:3 by publickey, 192.0.2.2 by touch since 0s")
		check("after a restart")
		r.wantLive(begun, "192.0.2.2:3 to 22/tcp since 18s: dave, 192.0.2.2 by touch since 0s",
			"192.0.2.2:1 to 22/tcp since before: , unknown") // two logins claim the same session
		r.stop()
		r = restart(t, m, path)
		r.wantLive(begun, "192.0.2.2:3 to 22/tcp since 19s: dave, 192.0.2.2 by touch since 0s",
			"192.0.2.2:1 to 22/tcp since before: , unknown")
	})
}

// Only so many recorded logins are remembered. When some are forgotten, logins as old as
// those are not recorded any more.
func TestRecordedLoginsAreBounded(t *testing.T) {
	var ls logins
	at := func(n int) presence.Login {
		return presence.Login{Time: time.Unix(int64(n), 0), User: "alice", Source: visitor, Port: uint16(n)}
	}
	for n := 1; n <= 3*maxLogins; n++ {
		l := at(n)
		if ls.has(l) {
			t.Fatalf("login %d counts as recorded already", n)
		}
		ls.add(cameFrom(l), reportedLogin{user: l.User, earliest: l.Time, until: l.Time})
	}
	if len(ls.told) != maxLogins || len(ls.next) != maxLogins {
		t.Errorf("%d logins are remembered, in a queue of %d; want %d", len(ls.told), len(ls.next), maxLogins)
	}
	for _, n := range []int{1, 2 * maxLogins, 2*maxLogins + 1, 3 * maxLogins} {
		if n != 2*maxLogins && !ls.has(at(n)) {
			t.Errorf("login %d does not count as recorded", n)
		}
	}
	for range 2 * maxLogins {
		ls.add(cameFrom(at(1)), reportedLogin{user: "alice"})
	}
	if len(ls.told) != 1 || len(ls.told[cameFrom(at(1))]) != maxLogins {
		t.Errorf("%d from one address and port are remembered, want %d", len(ls.told[cameFrom(at(1))]), maxLogins)
	}
}

// Whoever can write to a log can have only a few logins recorded for each connection,
// however many they write, so that they cannot push anything out of the audit trail. Nor
// can they make others' logins count as recorded.
func TestForgedLoginsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		m.comes(1, 2)
		time.Sleep(6 * time.Second)
		for look := range 10 {
			var forged []presence.Login
			for i := range 2 * maxLogins {
				l := login(fmt.Sprintf("user%d-%d", look, i), 1)
				l.Time = l.Time.Add(-time.Duration(i) * time.Millisecond)
				forged = append(forged, l)
			}
			if look == 9 {
				forged = append(forged, login("alice", 2))
			}
			m.do(func() { m.logins = forged })
			time.Sleep(6 * time.Second)
			synctest.Wait()
		}
		var users, errors []string
		for _, r := range m.trail {
			if r.Event == audit.EventError {
				errors = append(errors, r.Source+": "+r.Reason)
			}
			if r.Event == audit.EventLogin {
				users = append(users, r.Login.User)
			}
		}
		if want := []string{"user0-0", "user0-1", "user0-2", "alice"}; !slices.Equal(users, want) {
			t.Errorf("%d logins are recorded: %.10q, want %q", len(users), users, want)
		}
		if want := []string{`192.0.2.2: user "user0-3" by publickey from port 1 is not recorded as a login, nor are more, ` +
			"since 3 came from this port within 10m: something other than sshd writes to journal"}; !slices.Equal(errors, want) {
			t.Errorf("recorded errors %q, want %q", errors, want)
		}
	})
}

// A clock that was ahead when a door was first guarded keeps no login from being recorded
// once the clock is right.
func TestLoginsAfterAClockThatWasAhead(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		from time.Time
		told bool
	}{{now.Add(24 * time.Hour), false}, {now.Add(sameLogin), true}, {now.Add(-time.Hour), false}} {
		ls := logins{from: tt.from.Round(0)}
		ls.notAhead(now)
		if got := ls.has(login("alice", 1)); got != tt.told {
			t.Errorf("recorded from %v on, a login of now counts as recorded: %v, want %v", tt.from.Sub(now), got, tt.told)
		}
	}
	ls := logins{from: now.Add(24 * time.Hour)}
	ls.notAhead(now)
	old := login("alice", 1)
	if old.Time = now.Add(-time.Hour); !ls.has(old) {
		t.Error("a login of an hour before is recorded again")
	}
}

// A login whose record lacks a part, because the user's name is too long or the address
// has a zone, is not taken for another one after a restart.
func TestLoginsAreToldOnceOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, path := newMachine(), configPath(t)
		r := run(t, m, path, sshDoor)
		r.touch(visitor, 59000, 59002)
		m.comes(1)
		long := login(strings.Repeat("x", maxUser-1)+"\u00e4y", 1)
		long.Source = netip.MustParseAddr("fe80::2%eth0") // as sshd writes a link-local address
		for range 3 {
			m.do(func() { m.logins = []presence.Login{long} })
			time.Sleep(6 * time.Second)
			synctest.Wait()
			r.stop()
			r = restart(t, m, path)
			time.Sleep(6 * time.Second)
		}
		if got := m.toldLogins(time.Now()); len(got) != 1 || !strings.Contains(got[0], " fe80::2:1 ") || strings.ContainsRune(got[0], '\ufffd') || !utf8.ValidString(got[0]) {
			t.Errorf("recorded %q, want one login, and legible", got)
		}
	})
}

// If more is written to a log at once than is read, that is recorded, since logins may be
// missed; but not for what was in the log before.
func TestMoreLoginsThanAreReadAreTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "auth.log")
	flood := func() {
		var lines strings.Builder
		for n := range 1100 {
			fmt.Fprintf(&lines, "%s gate sshd[7]: Accepted publickey for user%d from 192.0.2.7 port 40022 ssh2\n", time.Now().Format(time.RFC3339), n)
		}
		f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(lines.String()); err != nil {
			t.Fatal(err)
		}
	}
	look := newLook(config.Door{Presence: config.Presence{Logins: config.LoginsFiles, Files: []string{file}}}, presence.NewWatcher())
	told := func() bool {
		return slices.Contains(look(t.Context()).Odd, file+": more logins appeared at once than can be read: the audit trail may lack some")
	}
	flood()
	if told() {
		t.Error("the trail says that logins may be missing because of what was in a log before")
	}
	flood()
	if !told() {
		t.Error("the trail does not say that logins may be missing in a flood")
	}
	if told() {
		t.Error("the trail still says so when the flood is over")
	}
}

// If a door is open to everybody, forged datagrams to a server that answers anybody make
// any number of flows. Sessions that were noticed before stay known, and the number of
// those that are remembered is bounded.
func TestWhoIsInIsBounded(t *testing.T) {
	var r sessionTable
	flow := func(n int) presence.Connection {
		return presence.Connection{Proto: port.UDP, Local: netip.MustParseAddrPort("192.0.2.1:53"),
			Remote: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), uint16(n>>16+1))}
	}
	ports, now := []port.Range{{Proto: port.UDP, First: 53, Last: 53}}, time.Now()
	look := func(in ...presence.Connection) (news int) {
		now = now.Add(time.Second)
		some, _ := r.update(sessionList{"dns", ports, now, now, in})
		return len(some)
	}
	look()
	look(flow(0))
	var many []presence.Connection
	for n := range 2 * maxSessions {
		many = append(many, flow(2*maxSessions-n-1)) // the one that was noticed before comes last
	}
	if news := look(many...); news != maxSessions-1 {
		t.Errorf("%d are noticed at once, want %d", news, maxSessions-1)
	}
	slices.Reverse(many)
	if news := look(many...); news != 0 {
		t.Errorf("in another order %d are new, want none", news)
	}
	in := r.of("dns").in
	if len(in) != maxSessions || in[flow(0)] == nil {
		t.Errorf("%d are remembered, among them the one noticed before: %v; want %d", len(in), in[flow(0)] != nil, maxSessions)
	}
	if news := look(flow(0), flow(maxSessions-1), flow(2*maxSessions)); news != 2 {
		t.Errorf("when most have gone, %d are new, want 2", news)
	}
}

// A connection with the same addresses and ports as an earlier one is another session,
// even if it has not been accepted yet when it is noticed.
func TestAConnectionOfTheSameNameIsAnother(t *testing.T) {
	var r sessionTable
	now := time.Now()
	for i, look := range []struct {
		socket uint32
		news   int
	}{{0, 0}, {7, 0}, {7, 0}, {0, 0}, {8, 1}, {8, 0}, {0, 0}, {8, 0}} {
		now = now.Add(time.Second)
		c := sessionAt(1)
		c.Socket = look.socket
		news, _ := r.update(sessionList{"ssh", []port.Range{{Proto: port.TCP, First: 22, Last: 22}}, now, now, []presence.Connection{c}})
		if len(news) != look.news {
			t.Errorf("look %d, at socket %d: %d are new, want %d", i, look.socket, len(news), look.news)
		}
	}
}
