package gateway

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/presence"
)

const (
	// maxLive is how many sessions of a door status lists.
	maxLive = 1000
	// maxSessions is how many of them are remembered, those who were met first. Where a door is
	// open to everybody, strangers can forge as many flows over UDP as the kernel tracks.
	maxSessions = 1 << 14
	// attributedPerTurn is for how many sessions a turn finds what has let them in.
	attributedPerTurn = 256
	// maxUncertainty is the longest time between two checks after which it still counts as
	// known since when somebody is in who is found by the second.
	maxUncertainty = 2 * time.Minute
)

// sessionTable holds who is in through each door, since when, who let them in and under
// what name. Who is in comes from the kernel's lists, which are read outside the loop,
// when a door checks for presence and when somebody asks; the loop finds what has let
// newcomers in; and their names come from sshd's log. Each session takes about three
// hundred bytes here for as long as the kernel has a socket, or a flow, for it.
//
// Two locks keep the loop from waiting while long lists are processed: lists is taken
// before mu, and never by the loop; mu is held briefly.
type sessionTable struct {
	lists sync.Mutex
	mu    sync.Mutex
	doors map[string]*doorSessions // guarded by mu
}

// doorSessions holds the sessions of one door.
type doorSessions struct {
	// Guarded by lists.
	asked time.Time    // when the latest processed list was asked for, zero for none
	ports []port.Range // of which it was
	in    map[presence.Connection]*session

	// Guarded by mu.
	opened time.Time // when the door opened; before that only `always` lets anybody in
	logins logins
}

// session is one connection or flow.
type session struct {
	presence.Connection           // never changes, but for Socket, which lists guards
	from                time.Time // the last time when it was known not to be there

	// Guarded by mu.
	since time.Time // when it was first seen, zero where that means nothing
	user  string
	grant *audit.Grant
}

// of is that of a door.
func (t *sessionTable) of(name string) *doorSessions {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.doors == nil {
		t.doors = make(map[string]*doorSessions)
	}
	if t.doors[name] == nil {
		t.doors[name] = &doorSessions{in: make(map[presence.Connection]*session)}
	}
	return t.doors[name]
}

// keepOnly forgets all doors but these.
func (t *sessionTable) keepOnly(doors []config.Door) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.doors {
		if !slices.ContainsFunc(doors, func(d config.Door) bool { return d.Name == name }) {
			delete(t.doors, name)
		}
	}
}

// sessionList is who is in through a door's ports, as the kernel reported it.
type sessionList struct {
	door            string
	ports           []port.Range
	asked, answered time.Time
	in              []presence.Connection
}

// update processes a list of who is in, and returns those who are new since an earlier
// list, for whom it must be found what let them in. Moved says that somebody has come or
// gone. Of two overlapping lists the one asked for later counts.
func (t *sessionTable) update(l sessionList) (news []*session, moved bool) {
	t.lists.Lock()
	defer t.lists.Unlock()
	of := t.of(l.door)
	if l.asked.Before(of.asked) {
		return nil, false
	}
	before := of.in
	of.in = make(map[presence.Connection]*session, min(len(l.in), maxSessions))
	var others []presence.Connection
	for _, c := range l.in {
		s := before[connectionKey(c)]
		if s == nil || s.Socket != 0 && c.Socket != 0 && s.Socket != c.Socket {
			others = append(others, c)
			continue
		}
		if c.Socket != 0 { // else it is this one's, or one that no program has accepted yet
			s.Socket = c.Socket
		}
		of.in[connectionKey(c)] = s
	}
	for _, c := range others[:min(len(others), maxSessions-len(of.in))] {
		moved = true
		s := &session{Connection: c, from: of.asked}
		if port.Within(of.ports, port.Port{Proto: c.Proto, Number: c.Local.Port()}) {
			s.since = t.metSince(of, l.answered)
			news = append(news, s)
		}
		t.name(of, s, c.Remote)
		of.in[connectionKey(c)] = s
	}
	of.asked, of.ports = l.asked, l.ports
	return news, moved || len(before) != len(of.in)
}

// connectionKey distinguishes connections that exist at the same time.
func connectionKey(c presence.Connection) presence.Connection {
	c.Socket = 0
	return c
}

// metSince returns since when somebody is in who is seen now, and was not in the list
// before; zero where that list is too old.
func (t *sessionTable) metSince(of *doorSessions, now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(of.asked) > maxUncertainty && now.Sub(of.opened) > maxUncertainty {
		return time.Time{}
	}
	return now
}

// doorOpened notes that a door has opened.
func (t *sessionTable) doorOpened(name string, now time.Time) {
	of := t.of(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	of.opened = now
}

// name gives a session that is first seen a name, if that is known already.
func (t *sessionTable) name(of *doorSessions, s *session, from netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of.logins.name(s, from)
}

// live lists the latest of those who are in through a door.
func (t *sessionTable) live(name string) []control.Session {
	t.lists.Lock()
	defer t.lists.Unlock()
	of := t.of(name)
	all := t.sessionStarts(of)
	slices.SortFunc(all, func(a, b sessionStart) int {
		return cmp.Or(b.at.Compare(a.at), a.of.Remote.Compare(b.of.Remote), a.of.Local.Compare(b.of.Local))
	})
	latest := []control.Session{}
	for _, s := range all[:min(len(all), maxLive)] {
		latest = append(latest, t.describe(s.of))
	}
	return latest
}

// sessionStart is a session and when it was first seen, zero for before the daemon's
// start.
type sessionStart struct {
	at time.Time
	of *session
}

func (t *sessionTable) sessionStarts(of *doorSessions) []sessionStart {
	all := make([]sessionStart, 0, len(of.in))
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range of.in {
		all = append(all, sessionStart{s.since, s})
	}
	return all
}

// describe returns a session as status shows it.
func (t *sessionTable) describe(s *session) control.Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return control.Session{
		Source: s.Remote.Addr().String(), Port: s.Remote.Port(), To: portOf(s.Connection),
		Since: moment(s.since), User: s.user, Grant: s.grant,
	}
}

// portOf returns the door's port that a connection came to: "22/tcp".
func portOf(c presence.Connection) string {
	return port.Port{Proto: c.Proto, Number: c.Local.Port()}.String()
}

// newSessions are the newcomers through some doors.
type newSessions struct {
	byDoor  map[string][]*session
	changed bool // somebody has come or gone
}

// readSessions asks who is in through doors, outside the loop, and counts them. Oddities
// are reported by the checks for presence.
func (g *Gateway) readSessions(doors []config.Door) (sessions map[string]int, news newSessions, err error) {
	var ports [][]port.Range
	for _, d := range doors {
		ports = append(ports, d.Ports)
	}
	asked := g.world.Now()
	found, err := g.world.Connections(ports)
	answered := g.world.Now()
	sessions, news.byDoor = make(map[string]int), make(map[string][]*session)
	for i, d := range doors {
		sessions[d.Name] = len(found[i])
		if err == nil || errors.Is(err, presence.ErrFlows) {
			some, moved := g.sessionTable.update(sessionList{d.Name, d.Ports, asked, answered, found[i]})
			news.byDoor[d.Name], news.changed = some, news.changed || moved
		}
	}
	return sessions, news, err
}

// refreshSessions notes who is in through doors, before others come in.
func (g *Gateway) refreshSessions(doors []config.Door) {
	g.beside(func() {
		if _, news, _ := g.readSessions(doors); news.changed {
			g.post(func(now time.Time) { g.takeNewSessions(now, news) })
		}
	})
}

// takeNewSessions finds what has let newcomers in.
func (g *Gateway) takeNewSessions(now time.Time, news newSessions) {
	g.sessionsChanged = g.sessionsChanged || news.changed
	for name, some := range news.byDoor {
		if d := g.door(name); d != nil && len(some) > 0 {
			g.attributeSessions(now, d, some)
		}
	}
}

// attributeSessions finds what has let newcomers in, for a limited number at once.
func (g *Gateway) attributeSessions(now time.Time, d *guarded, news []*session) {
	g.sessionTable.mu.Lock()
	defer g.sessionTable.mu.Unlock()
	some := news[:min(len(news), attributedPerTurn)]
	for _, s := range some {
		if s.grant == nil {
			s.grant = d.letIn(now, s.from, s.Remote.Addr())
		}
		if g := s.grant; g != nil && g.By == control.CoverAlways && s.since.Sub(s.from) > maxUncertainty {
			s.since = time.Time{} // a dark door is open to them, too
		}
	}
	if rest := news[len(some):]; len(rest) > 0 {
		g.async(func() event { return func(now time.Time) { g.attributeSessions(now, d, rest) } })
	}
}

// letIn returns what has let an address in at some moment since then: nil where that is
// not known.
func (d *guarded) letIn(now, since time.Time, a netip.Addr) *audit.Grant {
	a = a.Unmap().WithZone("")
	for _, p := range d.conf.Always {
		if p.Contains(a) {
			return &audit.Grant{Source: door.SourceString(p), By: control.CoverAlways}
		}
	}
	l, known := d.door.LetIn(now, since, a)
	if !known {
		return nil
	}
	if l.Since.After(now) {
		l.Since = time.Time{} // as in status
	}
	return &audit.Grant{Source: door.SourceString(l.Source), By: strings.Join(l.Whose, "; "), Since: l.Since, Whose: l.Whose}
}
