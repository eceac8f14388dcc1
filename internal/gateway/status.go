package gateway

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// Status returns the current state and a channel that is closed when it has changed
// (control.Backend). A snapshot is made on request, once for all who ask, from lists that
// are bounded however many grants and penalties there are, and at the end of a turn: what
// it shows is in the kernel and on disk. After the gateway's end it shows only that.
func (g *Gateway) Status() (control.Status, <-chan struct{}) {
	newer := g.Newer()
	snap, ok := readSnapshot(g, &g.statusCache)
	if !ok {
		const ends = "the daemon is shutting down"
		return control.Status{Time: g.world.Now(), Version: g.opts.Version, Started: g.started, Config: g.opts.Path,
			Warnings: []string{ends}, Ended: []control.Settled{}, Doors: []control.Door{}, Events: map[string]uint64{},
			Problems: []control.Problem{{Code: control.ProblemEnding, Message: ends}}}, newer
	}
	s := snap.of.Status
	s.Time = g.world.Now() // nothing has changed since it was made
	g.compareFile(&s)
	read := g.measure(snap.doors, measureSoon)
	s.Doors = slices.Clone(snap.of.filled())
	for i := range s.Doors {
		d := &s.Doors[i]
		d.PacketsRefused, d.Sessions, d.Live = read.refused[d.Name], read.sessions[d.Name], read.live[d.Name]
		if d.Live == nil {
			d.Live = []control.Session{}
		}
	}
	return s, newer
}

// Newer returns a channel that is closed at the end of the next turn that
// changes something (control.Backend).
func (g *Gateway) Newer() <-chan struct{} {
	g.newer.Lock()
	defer g.newer.Unlock()
	return g.newer.c
}

// standing is the current state as far as the loop knows. What takes longer to assemble
// is assembled by fill, when somebody reads it, once for all.
type standing struct {
	control.Status // without doors
	filled         func() []control.Door
}

// standing is filled by the loop as far as that must be; Status adds what only the
// kernel knows.
func (g *Gateway) standing(now time.Time) standing {
	s, briefs := g.assemble(now)
	guesses := g.guessesAt(now)
	return standing{s, sync.OnceValue(func() []control.Door {
		doors := statuses(now, briefs)
		guesses(doors)
		return doors
	})}
}

func statuses(now time.Time, briefs []brief) []control.Door {
	doors := make([]control.Door, len(briefs))
	for i, d := range briefs {
		doors[i] = d.status(now)
	}
	return doors
}

// assemble returns the status without doors, and what they are made of.
func (g *Gateway) assemble(now time.Time) (control.Status, []brief) {
	s := control.Status{
		Time: now, Version: g.opts.Version, Started: g.started, Config: g.opts.Path,
		Warnings: g.allWarnings(), Pending: g.pending(), ConfigHash: g.hash, Events: maps.Clone(g.eventCounts),
		Fence:    control.Fence{Up: g.fenceProblem == "", Owned: g.world.Fence.Owned(), Repairs: g.repairs, Mismatch: g.fenceProblem},
		Problems: g.problems(),
	}
	most := g.listed()
	s.Settled, s.Ended = g.settled()
	doors := make([]brief, 0, len(g.doors))
	for _, d := range g.doors {
		doors = append(doors, d.brief(now, most))
	}
	return s, doors
}

// listedInAll bounds the grants, and the penalties, that all doors together list: a
// thousand at each of a thousand doors would hold the loop up for most of a second.
const listedInAll = 5000

// listed is how many grants, and penalties, each door lists at most.
func (g *Gateway) listed() int {
	for most := door.Listed; ; most /= 2 {
		grants, penalties := 0, 0
		for _, d := range g.doors {
			grants += min(most, d.door.Granted())
			penalties += min(most, d.door.Penalised())
		}
		if max(grants, penalties) <= listedInAll || most <= 1 {
			return most
		}
	}
}

// allWarnings returns what an operator should act on.
func (g *Gateway) allWarnings() []string {
	all := append([]string{}, g.opts.Warnings...) // never nil
	all = append(append(all, g.warnings...), g.keepWarnings(g.world.Now())...)
	for _, p := range []struct{ what, problem string }{
		{"the fence is down: ", g.fenceProblem},
		{"", g.listeners.problem},
		{"nothing is saved: a restart would forget penalties, open doors and the audit trail; " +
			"fix this and restart the daemon: ", g.storeProblem},
		{"nothing is saved: a restart would forget what happens now: ", g.diskProblem},
		{"", g.slowWarning()},
	} {
		if p.problem != "" {
			all = append(all, p.what+p.problem)
		}
	}
	if g.opts.Troubles != nil {
		all = append(all, g.opts.Troubles()...)
	}
	all = append(all, g.serviceWarnings()...)
	for _, d := range g.doors {
		for _, o := range d.oddities {
			all = append(all, "door "+d.name()+": "+o)
		}
		if v := d.door.Saved(); v.State == door.Failsafe {
			all = append(all, "door "+d.name()+" is in failsafe and ignores knocks: "+v.Reason)
		}
	}
	return all
}

// brief is what the loop knows of a door. Nothing of it is changed later.
type brief struct {
	conf     config.Door
	view     door.View
	service  string // "" for none
	running  bool
	refusals []audit.Record
}

func (d *guarded) brief(now time.Time, most int) brief {
	b := brief{conf: d.conf, view: d.door.Brief(now, most), running: true, refusals: d.refusals}
	if d.service != nil {
		b.service, b.running = d.service.svc.String(), d.service.running
	}
	return b
}

func (b brief) status(now time.Time) control.Door {
	v := &b.view
	s := control.Door{
		Name: b.conf.Name, State: v.State.String(), Since: v.Since, Reason: v.Reason,
		Ports: portNames(b.conf), Always: []string{}, Service: b.service, Running: b.running,
		LastSeen: moment(v.LastSeen), DarkAt: moment(v.DarkAt),
		Grants: []control.Grant{}, Penalties: []control.Penalty{},
		GrantsTotal: v.Granted, PenaltiesTotal: v.Penalised,
		Refusals: append([]audit.Record{}, b.refusals...),
	}
	for _, p := range b.conf.Always {
		s.Always = append(s.Always, door.SourceString(p))
	}
	for _, c := range v.Grants {
		if c.Since.After(now) {
			c.Since = time.Time{} // it was saved by a version that did not keep this
		}
		last := len(s.Grants) - 1
		source := door.SourceString(c.Source)
		if last < 0 || s.Grants[last].Source != source {
			s.Grants = append(s.Grants, control.Grant{Source: source, Expires: c.Until, For: []string{c.Whose}, Given: moment(c.Since)})
			continue
		}
		s.Grants[last].For = append(s.Grants[last].For, c.Whose)
		if c.Until.After(s.Grants[last].Expires) {
			s.Grants[last].Expires = c.Until
		}
	}
	for _, p := range v.Penalties {
		s.Penalties = append(s.Penalties, control.Penalty{Source: door.SourceString(p.Source), Knock: p.Name, Until: p.Until, Reason: p.Reason})
	}
	return s
}

// moment returns a pointer to a time, nil for the zero time.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
