package gateway

import (
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/store"
)

// keep is what all knocks of one kind have in common. There is one for each kind that has
// a knock.Keeper, from the start on, whether the configuration has such a knock or not:
// what it remembers must survive a configuration without one.
type keep struct {
	kind     string
	of       knock.Kept
	digest   func(knock.File, []byte) (any, error)
	identity func(by string) string
	warnings []string             // about the rules in use
	files    map[string]*keepFile // that it goes by, by path
}

// makeKeeps makes one for each Keeper, of what the store has under no door. It returns
// the marks of doors.
func (g *Gateway) makeKeeps(all []store.Mark) (ofDoors []store.Mark) {
	shared := make(map[string][]knock.Mark)
	for _, m := range all {
		if m.Door == "" {
			shared[m.Knock] = append(shared[m.Knock], knock.Mark{Key: m.Key, Value: m.Value})
			continue
		}
		ofDoors = append(ofDoors, m)
	}
	for _, kind := range kinds.All {
		if k, ok := kind.(knock.Keeper); ok {
			g.keeps = append(g.keeps, &keep{kind: k.Name(), of: k.Keep(rand.Reader, shared[k.Name()]), digest: k.Digest,
				identity: k.Identity, files: make(map[string]*keepFile)})
		}
	}
	return ofDoors
}

// keepOf returns what a kind's knocks have in common, nil for nothing.
func (g *Gateway) keepOf(kind string) *keep {
	i := slices.IndexFunc(g.keeps, func(k *keep) bool { return k.kind == kind })
	if i < 0 {
		return nil
	}
	return g.keeps[i]
}

// useKeeps has each go by the rules of a configuration, before recognisers are made of
// them, and reads the files that these name.
func (g *Gateway) useKeeps(now time.Time, c *config.Config) {
	for _, k := range g.keeps {
		var rules []knock.Use
		for _, d := range c.Doors {
			for _, of := range d.Knocks {
				if of.Kind == k.kind {
					rules = append(rules, knock.Use{Door: d.Name, Rule: of.Rule})
				}
			}
		}
		k.warnings = k.of.Use(now, rules)
		k.nameFiles()
	}
	g.strangersDue = true
	g.readFiles(now, true)
}

// recogniser makes one for a door's knock.
func (d *guarded) recogniser(c config.Knock, now time.Time) knock.Recogniser {
	marks := d.gw.marks.of(d.name(), c)
	if k := d.gw.keepOf(c.Kind); k != nil {
		return k.of.Recogniser(d.name(), c.Rule, now, marks)
	}
	return c.Rule.Recogniser(now, marks)
}

// opener returns what opens the datagrams of a knock at a port, nil for nothing.
func (g *Gateway) opener(c config.Knock, port uint16) knock.Opener {
	if k := g.keepOf(c.Kind); k != nil {
		return k.of.Opener(port)
	}
	by, _ := c.Rule.(knock.Opener)
	return by
}

// keepWarnings returns what operators should know about the kinds' rules and files.
func (g *Gateway) keepWarnings(now time.Time) (all []string) {
	for _, k := range g.keeps {
		all = append(append(all, k.warnings...), k.fileWarnings()...)
	}
	return append(all, g.keepReading.warning(now)...)
}

// standing says which grants somebody, as grants and records have them, may still have at a
// door.
func (k *keep) standing(now time.Time, door, party string) knock.Standing {
	by, ours := whoOf(k.kind, party)
	if !ours {
		return knock.Anywhere
	}
	return k.of.Stands(now, door, by)
}

// whoIs is who somebody is, by a name that grants and records have. It is the one place
// that says whether two names are one visitor's.
func (g *Gateway) whoIs(name string) string {
	for _, k := range g.keeps {
		if by, ours := whoOf(k.kind, name); ours {
			return party(k.kind, k.identity(by))
		}
	}
	return name
}

// party is who knocked, as grants and records have it.
func party(kind, by string) string { return strings.TrimSpace(kind + " " + by) }

// carryOut carries out what follows from a file or an order: marks, records, and the ends
// of grants, which take more than one turn where there are very many. It calls then, if
// that is not nil, when all of them have ended, with how many that were, or with an error
// if a mark cannot be saved.
func (g *Gateway) carryOut(now time.Time, k *keep, by control.Caller, c knock.Change, then func(now time.Time, ended int, err error)) {
	g.callers.now = by
	defer func() { g.callers.now = control.Caller{} }()
	var unsaved error
	for _, m := range c.Marks {
		if err := g.changes.markByOrder(storedMark("", k.kind, m)); err != nil {
			unsaved = err
			g.log.Error("cannot save what a kind of knock is to remember; a restart would forget it", "kind", k.kind, "err", err)
		}
	}
	for _, n := range c.Notes {
		g.record(now, noteEvent(n.Event), by.Name, n.Detail)
	}
	done := func(now time.Time, ended int) {
		if then != nil {
			then(now, ended, unsaved)
		}
	}
	end := &partyEnd{of: door.Withdrawal{Reason: endReason(by)}, by: by, then: done}
	if c.Recheck {
		end.judged, end.nobodys = k, g.rechecked
	}
	if c.Cut != nil {
		end.cut = func(party string) bool { by, ours := whoOf(k.kind, party); return ours && c.Cut(by) }
	}
	if end.judged == nil && end.cut == nil {
		done(now, 0)
		return
	}
	g.endParties(now, end)
}

// noteEvent is the event of the audit trail that a note is of.
func noteEvent(event string) string {
	switch event {
	case knock.NoteKeys:
		return audit.EventKeys
	case knock.NoteAlarm:
		return audit.EventAlarm
	}
	return audit.EventError
}

// endReason is why somebody's grants end: an order, or that a file has changed.
func endReason(by control.Caller) string {
	const why = "they may not knock any more"
	if by.Name != "" {
		return why + ", by order of " + by.Name
	}
	return why
}
