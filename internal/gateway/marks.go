package gateway

import (
	"slices"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/store"
)

// marks are what knocks have left behind, for the recognisers that are made later: at a
// start, and when a rule becomes another. They belong to a door and a kind, not to one
// knock, whose name changes with its place in the file: a kind's keys say whose they
// are.
type marks map[store.KnockKey]map[string][]byte

// keep stores a mark, or forgets it if it has no value. Those under no door are in the
// hands of their kind's Kept.
func (ms marks) keep(m store.Mark) {
	if m.Door == "" {
		return
	}
	of := store.KnockKey{Door: m.Door, Knock: m.Knock}
	if m.Value == nil {
		delete(ms[of], m.Key)
		return
	}
	if ms[of] == nil {
		ms[of] = make(map[string][]byte)
	}
	ms[of][m.Key] = m.Value
}

// of returns the marks that a knock's recogniser is to have.
func (ms marks) of(door string, c config.Knock) (all []knock.Mark) {
	for key, value := range ms[store.KnockKey{Door: door, Knock: c.Kind}] {
		all = append(all, knock.Mark{Key: key, Value: value})
	}
	return all
}

// marks returns marks of a kind's verdict as the store has them.
func (d *guarded) marks(kind string, of []knock.Mark) (all []store.Mark) {
	for _, m := range of {
		name := d.name()
		if m.Common {
			name = ""
		}
		all = append(all, storedMark(name, kind, m))
	}
	return all
}

// storedMark returns a mark as the store has it.
func storedMark(door, kind string, m knock.Mark) store.Mark {
	kept := store.Mark{Door: door, Knock: kind, Key: m.Key}
	if len(m.Value) > 0 {
		kept.Value = slices.Clone(m.Value)
	}
	return kept
}

// remember saves marks with the turn's other changes.
func (g *Gateway) remember(all []store.Mark) {
	for _, m := range all {
		if err := g.changes.mark(m); err != nil {
			g.marksLost = true
			g.log.Error("cannot save the marks of a knock; a restart would forget them", "door", m.Door, "kind", m.Knock, "err", err)
		}
	}
}

// markAhead saves what kinds are to have on disk ahead of knocks.
func (g *Gateway) markAhead(now time.Time) {
	for _, k := range g.keeps {
		of, ok := k.of.(knock.MarksAhead)
		if !ok || g.marksLost {
			continue
		}
		if marks, done := of.Ahead(now); len(marks) > 0 {
			g.first(k.stored(marks), func(_ time.Time, err error) { done(err == nil) })
		}
	}
}

// markLast saves what kinds are to have on disk when the daemon has ended as it should.
func (g *Gateway) markLast() {
	for _, k := range g.keeps {
		if of, ok := k.of.(knock.MarksAhead); ok && !g.marksLost {
			g.remember(k.stored(of.Leave()))
		}
	}
}

// stored returns marks of a kind's under no door.
func (k *keep) stored(of []knock.Mark) (all []store.Mark) {
	for _, m := range of {
		all = append(all, storedMark("", k.kind, m))
	}
	return all
}

// forgetMarks forgets those of knocks that are gone: neither the configuration in use
// has their kind at their door, nor the one that may come back. Could those be
// forgotten, a knock that was overheard would be right again afterwards.
func (g *Gateway) forgetMarks() {
	for of := range g.marks {
		if knocksWith(g.config, of) || g.applied.Pending != nil && knocksWith(g.fallback.config, of) {
			continue
		}
		delete(g.marks, of)
		g.changes.endKnock(of)
	}
}

// knocksWith says whether a door of a configuration has a knock of the kind.
func knocksWith(c *config.Config, of store.KnockKey) bool {
	return c != nil && slices.ContainsFunc(c.Doors, func(d config.Door) bool {
		return d.Name == of.Door && slices.ContainsFunc(d.Knocks, func(k config.Knock) bool { return k.Kind == of.Knock })
	})
}

// keepMarks keeps the marks of a door, which the store forgets with the door, while the
// configuration that has it may come back.
func (g *Gateway) keepMarks(door string) {
	for of, all := range g.marks {
		if of.Door != door {
			continue
		}
		for key, value := range all {
			g.remember([]store.Mark{{Door: door, Knock: of.Knock, Key: key, Value: value}})
		}
	}
}
