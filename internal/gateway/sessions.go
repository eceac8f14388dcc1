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
	// attributedPerTurn is of how many sessions a turn says what has let them in.
	attributedPerTurn = 256
	// maxUncertainty is how long nobody may have looked for it to be known since when somebody
	// is in whom the next look meets.
	maxUncertainty = 2 * time.Minute
)

// sessionTable is who is in by each door, since when, by whose leave and by what name. The
// kernel tells who is in, by lists that are read outside the loop, when a door looks for
// presence and when somebody asks; the loop tells what has let those in who are new; and
// sshd's log, what they are called. Each session that is remembered takes some three
// hundred bytes here for as long as it has a socket, or a flow, of the kernel's.
//
// Two locks keep the loop from waiting while long lists are gone through: lists is
// taken before mu, and never by the loop; mu is held for moments.
type sessionTable struct {
	lists sync.Mutex
	mu    sync.Mutex
	doors map[string]*doorSessions // guarded by mu
}

// doorSessions is that of one door.
type doorSessions struct {
	// Guarded by lists.
	asked time.Time    // when the latest list that is taken in was asked for, zero for none
	ports []port.Range // of which it was
	in    map[presence.Connection]*session

	// Guarded by mu.
	opened time.Time // when the door opened, before which nobody comes in but by always
	logins logins
}

// session is one connection or flow.
type session struct {
	presence.Connection           // never changes, but for Socket, which lists guards
	from                time.Time // when it was not there yet

	// Guarded by mu.
	since time.Time // when it was met first, zero where that says nothing
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

// keepOnly forgets doors that are not among these.
func (t *sessionTable) keepOnly(doors []config.Door) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.doors {
		if !slices.ContainsFunc(doors, func(d config.Door) bool { return d.Name == name }) {
			delete(t.doors, name)
		}
	}
}

// sessionList is who is in by a door's ports, as the kernel said when it was asked.
type sessionList struct {
	door            string
	ports           []port.Range
	asked, answered time.Time
	in              []presence.Connection
}

// update takes in who is in, and returns those who are new since another list: what has
// let them in is to be found. Moved says that somebody has come or gone. Of two lists
// that overlapped the one asked for later counts.
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
		if c.Socket != 0 { // else it is this one's, or another's that nobody has taken yet
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

// connectionKey is what tells a connection from others at the same time.
func connectionKey(c presence.Connection) presence.Connection {
	c.Socket = 0
	return c
}

// metSince is since when somebody is in who is met now, and was not when a list was asked
// for last; zero where that is too long ago.
func (t *sessionTable) metSince(of *doorSessions, now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(of.asked) > maxUncertainty && now.Sub(of.opened) > maxUncertainty {
		return time.Time{}
	}
	return now
}

// doorOpened takes in that a door has opened.
func (t *sessionTable) doorOpened(name string, now time.Time) {
	of := t.of(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	of.opened = now
}

// name gives a session that is met a name, if that is known already.
func (t *sessionTable) name(of *doorSessions, s *session, from netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of.logins.name(s, from)
}

// live lists the latest of those who are in by a door.
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

// sessionStart is a session and when it was met, zero for before the daemon.
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

// describe is a session as status tells it.
func (t *sessionTable) describe(s *session) control.Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return control.Session{
		Source: s.Remote.Addr().String(), Port: s.Remote.Port(), To: portOf(s.Connection),
		Since: moment(s.since), User: s.user, Grant: s.grant,
	}
}

// portOf is the door's port that a connection came to: "22/tcp".
func portOf(c presence.Connection) string {
	return port.Port{Proto: c.Proto, Number: c.Local.Port()}.String()
}

// newSessions are those who are new by some doors.
type newSessions struct {
	byDoor  map[string][]*session
	changed bool // somebody has come or gone
}

// readSessions asks who is in by doors, outside the loop, and counts them. What is odd,
// the looks for presence say.
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

// refreshSessions has those who are in by doors be met, before others come in.
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

// attributeSessions finds what has let in those who are new by a door, of some at once.
func (g *Gateway) attributeSessions(now time.Time, d *guarded, news []*session) {
	g.sessionTable.mu.Lock()
	defer g.sessionTable.mu.Unlock()
	some := news[:min(len(news), attributedPerTurn)]
	for _, s := range some {
		if s.grant == nil {
			s.grant = d.letIn(now, s.from, s.Remote.Addr())
		}
		if g := s.grant; g != nil && g.By == control.CoverAlways && s.since.Sub(s.from) > maxUncertainty {
			s.since = time.Time{} // a dark door is open to them
		}
	}
	if rest := news[len(some):]; len(rest) > 0 {
		g.async(func() event { return func(now time.Time) { g.attributeSessions(now, d, rest) } })
	}
}

// letIn is what has let an address in at some moment since then: nil where that is not
// known.
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
	return &audit.Grant{Source: door.SourceString(l.Source), By: strings.Join(l.Whose, "; "), Since: l.Since}
}
