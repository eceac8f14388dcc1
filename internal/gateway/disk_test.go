package gateway

import (
	"cmp"
	"maps"
	"slices"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/store"
)

// disk is a machine's disk, with the store on it.
type disk machine

func (d *disk) Load() (store.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost != nil {
		return store.State{}, d.lost
	}
	var marks []store.Mark
	for k, value := range d.marks {
		marks = append(marks, store.Mark{Door: k.door, Knock: k.knock, Key: k.key, Value: value})
	}
	slices.SortFunc(marks, func(a, b store.Mark) int {
		return cmp.Or(cmp.Compare(a.Door, b.Door), cmp.Compare(a.Knock, b.Knock), cmp.Compare(a.Key, b.Key))
	})
	return store.State{
		Rebooted: d.rebooted, Applied: d.applied, Marks: marks,
		Doors: sorted(d.disk, func(a, b store.Door) int { return cmp.Compare(a.Name, b.Name) }),
		Penalties: sorted(d.banned, func(a, b store.Penalty) int {
			return cmp.Or(cmp.Compare(a.Door, b.Door), cmp.Compare(a.Knock, b.Knock), a.Source.Compare(b.Source))
		}),
		Grants: slices.Values(sorted(d.claims, func(a, b store.Grant) int {
			return cmp.Or(cmp.Compare(a.Door, b.Door), a.Source.Compare(b.Source), cmp.Compare(a.By, b.By))
		})),
	}, nil
}

func sorted[K comparable, V any](m map[K]V, by func(a, b V) int) []V {
	return slices.SortedFunc(maps.Values(m), by)
}

// Commit makes a change in the order that store.Change documents.
func (d *disk) Commit(c store.Change) ([]audit.Record, error) {
	d.effect()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full != nil {
		return nil, d.full
	}
	d.rebooted = false
	d.told = max(d.told, len(c.Records)+len(c.EndGrants))
	d.end(&c)
	for _, x := range c.Doors {
		x.Since, x.Opened, x.LastSeen = x.Since.Round(0), x.Opened.Round(0), x.LastSeen.Round(0)
		d.disk[x.Name] = x
	}
	for _, p := range c.Penalties {
		p.Until = p.Until.Round(0)
		d.banned[store.PenaltyKey{Door: p.Door, Knock: p.Knock, Source: p.Source}] = p
	}
	for _, g := range c.Grants {
		g.Until = g.Until.Round(0)
		d.claims[store.GrantKey{Door: g.Door, Source: g.Source, By: g.By}] = g
	}
	for _, m := range c.Marks {
		if k := (markKey{m.Door, m.Knock, m.Key}); m.Value == nil {
			delete(d.marks, k)
		} else {
			d.marks[k] = m.Value
		}
	}
	if c.Applied != nil {
		d.applied = *c.Applied
		d.applied.Deadline = d.applied.Deadline.Round(0)
	}
	d.trail = append(d.trail, c.Records...)
	return c.Records, nil
}

// end carries out the parts of a change that come first.
func (d *disk) end(c *store.Change) {
	maps.DeleteFunc(d.claims, func(k store.GrantKey, _ store.Grant) bool { return slices.Contains(c.ClearGrants, k.Door) })
	maps.DeleteFunc(d.banned, func(k store.PenaltyKey, _ store.Penalty) bool { return slices.Contains(c.ClearPenalties, k.Door) })
	maps.DeleteFunc(d.marks, func(k markKey, _ []byte) bool {
		return slices.Contains(c.EndDoors, k.door) || slices.Contains(c.EndKnocks, store.KnockKey{Door: k.door, Knock: k.knock})
	})
	for _, name := range c.EndDoors {
		delete(d.disk, name)
	}
	for _, k := range c.EndPenalties {
		delete(d.banned, k)
	}
	for _, k := range c.EndGrants {
		delete(d.claims, k)
	}
}

func (d *disk) SetAside() string { return "" }

func (d *disk) Records(q store.Query) (p store.Page, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.unreadable != nil {
		return p, d.unreadable
	}
	for _, r := range d.trail {
		if (q.Door == "" || r.Door == q.Door) && (!q.Source.Addr().IsValid() || r.Source == door.SourceString(q.Source)) &&
			(len(q.Events) == 0 || slices.Contains(q.Events, r.Event)) {
			p.Records = append(p.Records, r)
		}
	}
	return p, nil
}
