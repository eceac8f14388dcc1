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
	// maxMet is how many of them are remembered, those who were met first. Where a door is
	// open to everybody, strangers can forge as many flows over UDP as the kernel tracks.
	maxMet = 1 << 14
	// letInAtOnce is of how many sessions a turn says what has let them in.
	letInAtOnce = 256
	// vague is how long nobody may have looked for it to be known since when somebody
	// is in whom the next look meets.
	vague = 2 * time.Minute
)

// roll is who is in by each door, since when, by whose leave and by what name. The
// kernel tells who is in, by lists that are read beside the loop, when a door looks for
// presence and when somebody asks; the loop tells what has let those in who are new; and
// sshd's log, what they are called. Each session that is remembered takes some three
// hundred bytes here for as long as it has a socket, or a flow, of the kernel's.
//
// Two locks keep the loop from waiting while long lists are gone through: lists is
// taken before mu, and never by the loop; mu is held for moments.
type roll struct {
	lists sync.Mutex
	mu    sync.Mutex
	doors map[string]*rollOf // guarded by mu
}

// rollOf is that of one door.
type rollOf struct {
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
func (r *roll) of(name string) *rollOf {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.doors == nil {
		r.doors = make(map[string]*rollOf)
	}
	if r.doors[name] == nil {
		r.doors[name] = &rollOf{in: make(map[presence.Connection]*session)}
	}
	return r.doors[name]
}

// keepOnly forgets doors that are not among these.
func (r *roll) keepOnly(doors []config.Door) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.doors {
		if !slices.ContainsFunc(doors, func(d config.Door) bool { return d.Name == name }) {
			delete(r.doors, name)
		}
	}
}

// list is who is in by a door's ports, as the kernel said when it was asked.
type list struct {
	door            string
	ports           []port.Range
	asked, answered time.Time
	in              []presence.Connection
}

// take takes in who is in, and returns those who are new since another list: what has
// let them in is to be found. Moved says that somebody has come or gone. Of two lists
// that overlapped the one asked for later counts.
func (r *roll) take(l list) (news []*session, moved bool) {
	r.lists.Lock()
	defer r.lists.Unlock()
	of := r.of(l.door)
	if l.asked.Before(of.asked) {
		return nil, false
	}
	before := of.in
	of.in = make(map[presence.Connection]*session, min(len(l.in), maxMet))
	var others []presence.Connection
	for _, c := range l.in {
		s := before[name(c)]
		if s == nil || s.Socket != 0 && c.Socket != 0 && s.Socket != c.Socket {
			others = append(others, c)
			continue
		}
		if c.Socket != 0 { // else it is this one's, or another's that nobody has taken yet
			s.Socket = c.Socket
		}
		of.in[name(c)] = s
	}
	for _, c := range others[:min(len(others), maxMet-len(of.in))] {
		moved = true
		s := &session{Connection: c, from: of.asked}
		if port.Within(of.ports, port.Port{Proto: c.Proto, Number: c.Local.Port()}) {
			s.since = r.met(of, l.answered)
			news = append(news, s)
		}
		r.name(of, s, c.Remote)
		of.in[name(c)] = s
	}
	of.asked, of.ports = l.asked, l.ports
	return news, moved || len(before) != len(of.in)
}

// name is what tells a connection from others at the same time.
func name(c presence.Connection) presence.Connection {
	c.Socket = 0
	return c
}

// met is since when somebody is in who is met now, and was not when a list was asked
// for last; zero where that is too long ago.
func (r *roll) met(of *rollOf, now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(of.asked) > vague && now.Sub(of.opened) > vague {
		return time.Time{}
	}
	return now
}

// opens takes in that a door has opened.
func (r *roll) opens(name string, now time.Time) {
	of := r.of(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	of.opened = now
}

// name gives a session that is met a name, if that is known already.
func (r *roll) name(of *rollOf, s *session, from netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of.logins.name(s, from)
}

// live lists the latest of those who are in by a door.
func (r *roll) live(name string) []control.Session {
	r.lists.Lock()
	defer r.lists.Unlock()
	of := r.of(name)
	all := r.begun(of)
	slices.SortFunc(all, func(a, b begun) int {
		return cmp.Or(b.at.Compare(a.at), a.of.Remote.Compare(b.of.Remote), a.of.Local.Compare(b.of.Local))
	})
	latest := []control.Session{}
	for _, s := range all[:min(len(all), maxLive)] {
		latest = append(latest, r.tell(s.of))
	}
	return latest
}

// begun is a session and when it was met, zero for before the daemon.
type begun struct {
	at time.Time
	of *session
}

func (r *roll) begun(of *rollOf) []begun {
	all := make([]begun, 0, len(of.in))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range of.in {
		all = append(all, begun{s.since, s})
	}
	return all
}

// tell is a session as status tells it.
func (r *roll) tell(s *session) control.Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return control.Session{
		Source: s.Remote.Addr().String(), Port: s.Remote.Port(), To: portOf(s.Connection),
		Since: moment(s.since), User: s.user, Grant: s.grant,
	}
}

// portOf is the door's port that a connection came to: "22/tcp".
func portOf(c presence.Connection) string {
	return port.Port{Proto: c.Proto, Number: c.Local.Port()}.String()
}

// newcomers are those who are new by some doors.
type newcomers struct {
	by    map[string][]*session
	moved bool // somebody has come or gone
}

// lookIn asks who is in by doors, beside the loop, and counts them. What is odd, the
// looks for presence say.
func (g *Gateway) lookIn(doors []config.Door) (sessions map[string]int, news newcomers, err error) {
	var ports [][]port.Range
	for _, d := range doors {
		ports = append(ports, d.Ports)
	}
	asked := g.world.Now()
	found, err := g.world.Connections(ports)
	answered := g.world.Now()
	sessions, news.by = make(map[string]int), make(map[string][]*session)
	for i, d := range doors {
		sessions[d.Name] = len(found[i])
		if err == nil || errors.Is(err, presence.ErrFlows) {
			some, moved := g.roll.take(list{d.Name, d.Ports, asked, answered, found[i]})
			news.by[d.Name], news.moved = some, news.moved || moved
		}
	}
	return sessions, news, err
}

// meet has those who are in by doors be met, before others come in.
func (g *Gateway) meet(doors []config.Door) {
	g.beside(func() {
		if _, news, _ := g.lookIn(doors); news.moved {
			g.post(func(now time.Time) { g.welcome(now, news) })
		}
	})
}

// welcome finds what has let newcomers in.
func (g *Gateway) welcome(now time.Time, news newcomers) {
	g.moved = g.moved || news.moved
	for name, some := range news.by {
		if d := g.door(name); d != nil && len(some) > 0 {
			g.find(now, d, some)
		}
	}
}

// find finds what has let in those who are new by a door, of some at once.
func (g *Gateway) find(now time.Time, d *guarded, news []*session) {
	g.roll.mu.Lock()
	defer g.roll.mu.Unlock()
	some := news[:min(len(news), letInAtOnce)]
	for _, s := range some {
		if s.grant == nil {
			s.grant = d.letIn(now, s.from, s.Remote.Addr())
		}
		if g := s.grant; g != nil && g.By == control.CoverAlways && s.since.Sub(s.from) > vague {
			s.since = time.Time{} // a dark door is open to them
		}
	}
	if rest := news[len(some):]; len(rest) > 0 {
		g.async(func() event { return func(now time.Time) { g.find(now, d, rest) } })
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
