package gateway

import (
	"fmt"
	"maps"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/store"
)

// maxUnsaved limits the audit records of a class that wait in memory while the disk cannot
// be written, and the marks of knocks.
const maxUnsaved = 10000

// delta is what the store does not have yet. Of several changes to the same thing the
// last one counts. Like a store.Change it is carried out in this order: what is cleared,
// what ends, and then what is kept.
type delta struct {
	clearedGrants    map[string]bool                     // doors
	clearedPenalties map[string]bool                     // doors
	claims           map[store.GrantKey]*store.Grant     // nil: ended
	penalties        map[store.PenaltyKey]*store.Penalty // nil: ended
	doors            map[string]store.Door
	marks            map[markKey][]byte // nil: forgotten
	ended            map[string]bool    // doors that the configuration no longer has
	endedKnocks      map[store.KnockKey]bool
	applied          *store.Applied // nil: as it was; never changed
	records          []audit.Record
	kept             map[audit.Class]int // of these
	lost             int                 // records that did not fit
}

type markKey struct{ door, knock, key string }

func newDelta() delta {
	return delta{
		clearedGrants:    make(map[string]bool),
		clearedPenalties: make(map[string]bool),
		claims:           make(map[store.GrantKey]*store.Grant),
		penalties:        make(map[store.PenaltyKey]*store.Penalty),
		doors:            make(map[string]store.Door),
		marks:            make(map[markKey][]byte),
		ended:            make(map[string]bool),
		endedKnocks:      make(map[store.KnockKey]bool),
		kept:             make(map[audit.Class]int),
	}
}

// empty says whether the store has everything.
func (d *delta) empty() bool {
	return d.applied == nil && len(d.clearedGrants)+len(d.clearedPenalties)+len(d.claims)+len(d.penalties)+
		len(d.doors)+len(d.marks)+len(d.ended)+len(d.endedKnocks)+len(d.records) == 0
}

// clearGrants ends all claims at a door. It walks through what is gathered.
func (d *delta) clearGrants(name string) {
	maps.DeleteFunc(d.claims, func(k store.GrantKey, _ *store.Grant) bool { return k.Door == name })
	d.clearedGrants[name] = true
}

// clearPenalties ends all penalties at a door, at the same cost.
func (d *delta) clearPenalties(name string) {
	maps.DeleteFunc(d.penalties, func(k store.PenaltyKey, _ *store.Penalty) bool { return k.Door == name })
	d.clearedPenalties[name] = true
}

// penalise records an effect of a door on its penalties.
func (d *delta) penalise(name string, e door.Effect) {
	switch e := e.(type) {
	case door.Penalise:
		d.setPenalty(store.PenaltyKey{Door: name, Knock: e.Name, Source: e.Source}, &store.Penalty{
			Door: name, Knock: e.Name, Source: e.Source, Until: e.Until, For: e.For, Times: e.Times, Reason: e.Reason})
	case door.PenaltyEnded: // For 0: whatever the clock says, no time is left
		d.setPenalty(store.PenaltyKey{Door: name, Knock: e.Name, Source: e.Source}, &store.Penalty{
			Door: name, Knock: e.Name, Source: e.Source, Until: e.Until, Times: e.Times, Reason: e.Reason})
	case door.Pardon:
		d.setPenalty(store.PenaltyKey{Door: name, Knock: e.Name, Source: e.Source}, nil)
	case door.PardonAll:
		d.clearPenalties(name)
	}
}

// setPenalty records a penalty, or (nil) its end, which is implied at a door that was
// cleared.
func (d *delta) setPenalty(k store.PenaltyKey, p *store.Penalty) {
	if p == nil && d.clearedPenalties[k.Door] {
		delete(d.penalties, k)
		return
	}
	d.penalties[k] = p
}

// boundPenalties keeps strangers from filling the memory while the disk cannot be
// written: a door drops early those that it has no room for, but their ends pile up here,
// since the disk may have them. When they are too many, the penalties that the doors have
// replace all that the disk has. That is work for each of them, once.
func (g *Gateway) boundPenalties(d *delta) {
	if len(d.penalties) <= maxUnsaved {
		return
	}
	most := maxUnsaved
	for _, of := range g.doors {
		most += 2 * of.door.KeptPenalties()
	}
	if len(d.penalties) <= most {
		return
	}
	for _, of := range g.doors {
		d.clearPenalties(of.name())
		for e := range of.door.Penalties() {
			d.penalise(of.name(), e)
		}
	}
}

// endDoor forgets a door, and what its knocks remember.
func (d *delta) endDoor(name string) {
	delete(d.doors, name)
	maps.DeleteFunc(d.marks, func(k markKey, _ []byte) bool { return k.door == name })
	d.ended[name] = true
}

// endKnock forgets what a door's knocks of a kind remember.
func (d *delta) endKnock(of store.KnockKey) {
	maps.DeleteFunc(d.marks, func(k markKey, _ []byte) bool { return k.door == of.Door && k.knock == of.Knock })
	d.endedKnocks[of] = true
}

// mark records a mark, or says why it cannot be kept: the amount of unsaved data is
// bounded, and a mark that no store accepts (knock.Mark) would keep everything else from
// being saved.
func (d *delta) mark(m store.Mark) error { return d.markUpTo(m, maxUnsaved) }

// markByOrder is mark of what operators order: knocks leave room for it.
func (d *delta) markByOrder(m store.Mark) error { return d.markUpTo(m, 2*maxUnsaved) }

func (d *delta) markUpTo(m store.Mark, most int) error {
	k := markKey{m.Door, m.Knock, m.Key}
	if len(m.Key) == 0 || len(m.Key) > 128 || len(m.Value) > 1024 {
		return fmt.Errorf("a mark has a key of %d bytes and a value of %d: allowed are 1 to 128, and at most 1024",
			len(m.Key), len(m.Value))
	}
	if _, known := d.marks[k]; !known && len(d.marks) >= most {
		return fmt.Errorf("%d marks are already waiting for the disk", most)
	}
	d.marks[k] = m.Value
	return nil
}

// record adds a record. No class takes the room of another.
func (d *delta) record(r audit.Record) {
	class := r.Class()
	if d.kept[class] >= unsavedOf[class] {
		d.lost++
		return
	}
	d.kept[class]++
	d.records = append(d.records, r)
}

// unsavedOf are how many records of each class wait at most.
var unsavedOf = map[audit.Class]int{audit.Decided: maxUnsaved, audit.Refused: maxUnsaved / 2, audit.Visits: maxUnsaved}

func (d *delta) recordAll(rs []audit.Record) {
	for _, r := range rs {
		d.record(r)
	}
}

// follow merges what came after d. Its cost grows with that, and with d only where later
// doors were cleared.
func (d *delta) follow(later *delta) {
	for name := range later.clearedGrants {
		d.clearGrants(name)
	}
	for name := range later.clearedPenalties {
		d.clearPenalties(name)
	}
	for name := range later.ended {
		d.endDoor(name)
	}
	for of := range later.endedKnocks {
		d.endKnock(of)
	}
	maps.Copy(d.claims, later.claims)
	for k, p := range later.penalties {
		d.setPenalty(k, p)
	}
	maps.Copy(d.doors, later.doors)
	maps.Copy(d.marks, later.marks) // none may be lost: a knock waits for it
	if later.applied != nil {
		d.applied = later.applied
	}
	d.recordAll(later.records)
	d.lost += later.lost
}

// change returns all of it as the store expects it.
func (d *delta) change() store.Change {
	s := store.Change{Records: d.records, Applied: d.applied}
	for name := range d.clearedGrants {
		s.ClearGrants = append(s.ClearGrants, name)
	}
	for name := range d.clearedPenalties {
		s.ClearPenalties = append(s.ClearPenalties, name)
	}
	for name := range d.ended {
		s.EndDoors = append(s.EndDoors, name)
	}
	for of := range d.endedKnocks {
		s.EndKnocks = append(s.EndKnocks, of)
	}
	for k, g := range d.claims {
		if g == nil {
			s.EndGrants = append(s.EndGrants, k)
		} else {
			s.Grants = append(s.Grants, *g)
		}
	}
	for k, p := range d.penalties {
		if p == nil {
			s.EndPenalties = append(s.EndPenalties, k)
		} else {
			s.Penalties = append(s.Penalties, *p)
		}
	}
	for k, value := range d.marks {
		s.Marks = append(s.Marks, store.Mark{Door: k.door, Knock: k.knock, Key: k.key, Value: value})
	}
	for _, kept := range d.doors {
		s.Doors = append(s.Doors, kept)
	}
	return s
}
