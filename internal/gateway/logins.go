package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/presence"
	"github.com/doorward/doorward/internal/store"
	"github.com/doorward/doorward/internal/tables"
)

const (
	// maxLogins is how many of a door's latest logins are remembered, so that each is
	// recorded once: a log may be read again from its beginning, and is after a restart.
	maxLogins = 1024
	// sameLogin is how far the timestamps of one login in two logs may differ.
	sameLogin = 5 * time.Second
	// tellsWithin is how long after a login the audit trail has it: checks are a minute
	// apart where a door is dark.
	tellsWithin = 2 * time.Minute
	// loginGrace is how long before a login its connection may have begun:
	// LoginGraceTime of sshd_config(5).
	loginGrace = 2 * time.Minute
	// toldBefore is how many records of the trail a start reads to find recorded logins.
	toldBefore = 1000
	// maxUser is what sshd leaves of a user's name (auth.c, auth_log).
	maxUser = 100
	// maxAlike is how many logins from one address and port are recorded within
	// rememberedFor. sshd logs one for each connection; whoever may write to its log may
	// write any number, which must not flood the audit trail.
	maxAlike = 3
)

// logins are the logins through a door that the audit trail has, or need not have.
type logins struct {
	from time.Time // earlier ones are recorded, or need not be
	told map[netip.AddrPort][]reportedLogin
	next []netip.AddrPort // the address whose first login is forgotten next
}

type reportedLogin struct {
	user            string
	grant           *audit.Grant
	at              time.Time // when it was, as near as is known
	told            time.Time // when it was recorded in the audit trail
	doubted         bool      // too many others followed to be believed
	earliest, until time.Time // between which it was
}

// is says whether a login is this one.
func (t reportedLogin) is(l presence.Login) bool {
	return t.user == userOf(l) && !l.Time.Before(t.earliest) && !l.Time.After(t.until)
}

// has says whether a login is recorded.
func (ls *logins) has(l presence.Login) bool {
	return l.Time.Before(ls.from) || slices.ContainsFunc(ls.told[cameFrom(l)], func(t reportedLogin) bool { return t.is(l) })
}

// notAhead makes sure that logins are still recorded after the clock was set back, if it
// was ahead when from was noted.
func (ls *logins) notAhead(now time.Time) {
	if ls.from.After(now.Add(sameLogin)) {
		ls.from = now.Add(-tellsWithin)
	}
}

// tooMany says whether so many logins from an address and port were recorded lately that
// another is not to be believed.
func (ls *logins) tooMany(now time.Time, from netip.AddrPort) bool {
	lately := 0
	for _, t := range ls.told[from] {
		if age := now.Sub(t.told); age.Abs() < rememberedFor {
			lately++
		}
	}
	return lately >= maxAlike
}

// add notes that a login is recorded. Whatever is forgotten to make room counts as too
// old from now on.
func (ls *logins) add(from netip.AddrPort, t reportedLogin) {
	if ls.told == nil {
		ls.told = make(map[netip.AddrPort][]reportedLogin)
	}
	ls.told[from] = append(ls.told[from], t)
	if ls.next = append(ls.next, from); len(ls.next) <= maxLogins {
		return
	}
	first := ls.next[0]
	ls.next = ls.next[1:]
	if old := ls.told[first][0].until; old.After(ls.from) {
		ls.from = old
	}
	if ls.told[first] = ls.told[first][1:]; len(ls.told[first]) == 0 {
		delete(ls.told, first)
	}
}

// name gives a session that is first seen the name of a login that is recorded already,
// as for one that outlives a daemon. If several users are said to have come from there,
// it gets no name.
func (ls *logins) name(s *session, from netip.AddrPort) {
	var latest *reportedLogin
	for _, t := range ls.told[from] {
		switch {
		case !s.since.IsZero() && t.until.Before(s.from): // that was an earlier session
		case latest != nil && latest.user != t.user:
			return
		default:
			latest = &t
		}
	}
	if latest == nil {
		return
	}
	s.user, s.grant = latest.user, latest.grant
	if s.since.IsZero() {
		s.since = latest.at
	}
}

// cameFrom is where a login came from.
func cameFrom(l presence.Login) netip.AddrPort {
	return netip.AddrPortFrom(l.Source.WithZone(""), l.Port)
}

// userOf returns a login's user as the audit trail has it.
func userOf(l presence.Login) string {
	return strings.ToValidUTF8(l.User[:min(len(l.User), maxUser)], "")
}

// begin makes the logins of a door be recorded from a moment on; a log may give that
// moment only to the second.
func (t *sessionTable) begin(name string, from time.Time) {
	of := t.of(name)
	t.mu.Lock()
	defer t.mu.Unlock()
	if of.logins.from.IsZero() {
		of.logins.from = from.Truncate(time.Second)
	}
}

// recallLogins keeps logins that the audit trail has from being recorded again. Of those
// that came while no daemon ran, the ones that a first check reads are recorded; those
// older than the records that are read are not.
func (g *Gateway) recallLogins(now time.Time) {
	page, err := g.store.Records(store.Query{Limit: toldBefore})
	if err != nil {
		g.log.Warn("cannot read the logins in the audit trail; recording those from now on", "err", err)
	}
	from := now
	for _, r := range page.Records {
		if r.Time.Before(from) {
			from = r.Time
		}
	}
	for _, c := range g.config.Doors {
		g.sessionTable.begin(c.Name, from)
	}
	g.sessionTable.mu.Lock()
	defer g.sessionTable.mu.Unlock()
	for _, r := range page.Records {
		of := g.sessionTable.doors[r.Door]
		a, err := netip.ParseAddr(r.Source)
		if r.Event != audit.EventLogin || r.Login == nil || of == nil || err != nil {
			continue
		}
		of.logins.add(netip.AddrPortFrom(a.WithZone(""), r.Login.Port), reportedLogin{user: r.Login.User, grant: r.Login.Grant, at: r.Time, told: r.Time,
			earliest: r.Time.Add(-tellsWithin), until: r.Time.Add(sameLogin)})
	}
}

// arrival is a login through a door, and its session if that is still there.
type arrival struct {
	presence.Login
	session *session
}

// recentSessions finds the sessions of logins.
func (t *sessionTable) recentSessions(name string, logins []presence.Login) []arrival {
	if len(logins) == 0 {
		return nil
	}
	t.lists.Lock()
	defer t.lists.Unlock()
	by := make(map[netip.AddrPort]*session)
	for _, s := range t.of(name).in {
		by[s.Remote] = s
	}
	all := make([]arrival, 0, len(logins))
	for _, l := range logins {
		all = append(all, arrival{l, by[cameFrom(l)]})
	}
	return all
}

// loggedIn records the logins that the audit trail does not have. A session keeps the
// name that it had first: sshd logs a connection's one login when it begins, and whoever
// may write to a log may write more.
func (d *guarded) loggedIn(now time.Time, all []arrival) {
	if len(all) == 0 {
		return
	}
	t := &d.gw.sessionTable
	told := &t.of(d.name()).logins
	t.mu.Lock()
	defer t.mu.Unlock()
	told.notAhead(now)
	for _, l := range all {
		if told.has(l.Login) {
			continue
		}
		if told.tooMany(now, cameFrom(l.Login)) {
			d.doubt(now, told, l.Login)
			continue
		}
		user := userOf(l.Login)
		var grant *audit.Grant
		if l.session != nil {
			grant = l.session.grant
		}
		if grant == nil {
			grant = d.letIn(now, l.Time.Add(-loginGrace), l.Source)
		}
		if l.session != nil && l.session.user == "" {
			l.session.loggedIn(l.Login, user, grant)
		}
		told.add(cameFrom(l.Login), reportedLogin{user: user, grant: grant, at: l.Time, told: now,
			earliest: l.Time.Add(-sameLogin), until: l.Time.Add(sameLogin)})
		d.gw.tell(audit.Record{Time: now, Door: d.name(), Event: audit.EventLogin, Source: cameFrom(l.Login).Addr().String(),
			Reason: fmt.Sprintf("user %q by %s, %s", user, l.Method, whatLetIn(grant)),
			Login:  &audit.Login{User: user, Port: l.Port, Method: l.Method, Grant: grant}}, byGrant(grant))
	}
}

// doubt records, once, that a log has logins from an address and port that are not to be
// believed: the true one may be among them.
func (d *guarded) doubt(now time.Time, told *logins, l presence.Login) {
	all := told.told[cameFrom(l)]
	latest := &all[len(all)-1]
	if latest.doubted {
		return
	}
	latest.doubted = true
	d.gw.tell(audit.Record{Time: now, Door: d.name(), Event: audit.EventError, Source: cameFrom(l).Addr().String(),
		Reason: fmt.Sprintf("user %q by %s from port %d is not recorded as a login, nor are more, since %d came from this port within %s: something other than sshd writes to %s",
			userOf(l), l.Method, l.Port, maxAlike, tables.Short(rememberedFor), l.Where)}, "")
}

// loggedIn notes whose session it is. It is at least as old as its login.
func (s *session) loggedIn(l presence.Login, user string, grant *audit.Grant) {
	s.user, s.grant = user, grant
	if (s.since.IsZero() || l.Time.Before(s.since)) && !l.Time.Before(s.from) {
		s.since = l.Time
	}
}

// byGrant is on whose behalf the grant is that let a login in, if it is one's alone.
func byGrant(grant *audit.Grant) string {
	if grant == nil || len(grant.Whose) != 1 {
		return ""
	}
	return grant.Whose[0]
}

// whatLetIn says for people what let a login in.
func whatLetIn(grant *audit.Grant) string {
	switch {
	case grant == nil:
		return "and it is not known what let it in"
	case grant.By == control.CoverAlways:
		return "and " + grant.Source + " never needs to knock"
	}
	return "let in by " + grant.By
}
