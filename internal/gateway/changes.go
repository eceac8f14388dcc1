package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/store"
)

// maxUnsaved bounds the records of the audit trail that wait in memory while
// the disk takes none.
const maxUnsaved = 10000

// seenEvery is how far presence must have moved on to be worth a write: a
// session of hours costs the disk one a minute, and a crash forgets less.
const seenEvery = time.Minute

// changes are what a turn has to do to the world. Of several changes to the
// same thing the last one counts.
type changes struct {
	grants    map[grantKey]time.Time              // when they end, zero: revoke
	flows     map[grantKey]bool                   // whose flows to end
	claims    map[store.GrantKey]*store.Grant     // nil: ended
	penalties map[store.PenaltyKey]*store.Penalty // nil: ended
	doors     map[string]store.Door
	ended     []string       // doors that the configuration no longer has
	applied   *store.Applied // nil: as it was
	records   []audit.Record
	refusals  int // of records
	lost      int // records that were too many to keep
	replies   []func(error)
	spending  *spending // what the kernel is being asked beside the turns, nil for nothing
}

type grantKey struct {
	door   string
	source netip.Prefix
}

func newChanges() changes {
	return changes{
		grants:    make(map[grantKey]time.Time),
		flows:     make(map[grantKey]bool),
		claims:    make(map[store.GrantKey]*store.Grant),
		penalties: make(map[store.PenaltyKey]*store.Penalty),
		doors:     make(map[string]store.Door),
	}
}

// add takes in an effect of a door.
func (c *changes) add(name string, e door.Effect) {
	switch e := e.(type) {
	case door.Give:
		c.grants[grantKey{name, e.Source}] = e.Until
		c.spending.gives(grantKey{name, e.Source})
	case door.Revoke:
		c.grants[grantKey{name, e.Source}] = time.Time{}
	case door.EndFlows:
		c.flows[grantKey{name, e.Source}] = true
	case door.Keep:
		c.claims[store.GrantKey{Door: name, Source: e.Source, By: e.By}] =
			&store.Grant{Door: name, Source: e.Source, By: e.By, Until: e.Until, For: e.For}
	case door.Drop:
		c.claims[store.GrantKey{Door: name, Source: e.Source, By: e.By}] = nil
	case door.Punish:
		c.penalties[store.PenaltyKey{Door: name, Source: e.Source}] = &store.Penalty{
			Door: name, Source: e.Source, Until: e.Until, For: e.For, Times: e.Times, Reason: e.Reason}
	case door.Over: // For 0: whatever the clock says, no time is left
		c.penalties[store.PenaltyKey{Door: name, Source: e.Source}] = &store.Penalty{
			Door: name, Source: e.Source, Until: e.Until, Times: e.Times, Reason: e.Reason}
	case door.Pardon:
		c.penalties[store.PenaltyKey{Door: name, Source: e.Source}] = nil
	}
}

// record adds a record. Refusals, which strangers can cause, take at most half of
// the room.
func (c *changes) record(r audit.Record) {
	refusal := r.Event == audit.EventRefused
	if len(c.records) >= maxUnsaved || refusal && c.refusals >= maxUnsaved/2 {
		c.lost++
		return
	}
	if refusal {
		c.refusals++
	}
	c.records = append(c.records, r)
}

func (c *changes) recordAll(rs []audit.Record) {
	for _, r := range rs {
		c.record(r)
	}
}

// fence returns the turn's grants and revocations for the fence, and forgets
// them.
func (c *changes) fence() (give, revoke []fence.Grant) {
	for k, until := range c.grants {
		for _, source := range families(k.source) {
			g := fence.Grant{Door: k.door, Source: source, Until: until}
			if until.IsZero() {
				revoke = append(revoke, g)
			} else {
				give = append(give, g)
			}
		}
	}
	clear(c.grants)
	return give, revoke
}

// endFlows returns whose flows the fence is to end, and forgets them. Doors that
// has says have no ports that flows go to are left out.
func (c *changes) endFlows(has func(door string) bool) (ends []fence.Grant) {
	for k := range c.flows {
		if !has(k.door) {
			continue
		}
		for _, source := range families(k.source) {
			ends = append(ends, fence.Grant{Door: k.door, Source: source})
		}
	}
	clear(c.flows)
	return ends
}

// families is a source as the fence knows it: everybody is both families.
func families(source netip.Prefix) []netip.Prefix {
	if source == door.Any {
		return []netip.Prefix{
			netip.PrefixFrom(netip.IPv4Unspecified(), 0),
			netip.PrefixFrom(netip.IPv6Unspecified(), 0),
		}
	}
	return []netip.Prefix{source}
}

// commit returns the turn's changes for the store, and whether there are any.
func (c *changes) commit() (store.Change, bool) {
	var s store.Change
	for k, g := range c.claims {
		if g == nil {
			s.EndGrants = append(s.EndGrants, k)
		} else {
			s.Grants = append(s.Grants, *g)
		}
	}
	for k, p := range c.penalties {
		if p == nil {
			s.EndPenalties = append(s.EndPenalties, k)
		} else {
			s.Penalties = append(s.Penalties, *p)
		}
	}
	for _, d := range c.doors {
		s.Doors = append(s.Doors, d)
	}
	s.Records, s.EndDoors, s.Applied = c.records, c.ended, c.applied
	return s, c.applied != nil || len(c.ended)+len(c.claims)+len(c.penalties)+len(c.doors)+len(c.records) > 0
}

// saved forgets what commit returned, since it is on disk.
func (c *changes) saved() {
	clear(c.claims)
	clear(c.penalties)
	clear(c.doors)
	c.records, c.ended, c.applied, c.refusals, c.lost = nil, nil, nil, 0, 0
}

// flush has the turn's changes take effect, in the order that the package
// comment promises.
func (g *Gateway) flush(now time.Time) {
	changed := len(g.changes.grants) > 0
	give, revoke := g.changes.fence()
	if len(give)+len(revoke) > 0 {
		if err := g.world.Fence.Change(fence.Changes{Revoke: revoke, Give: give}); err != nil {
			g.log.Error("cannot change grants in the fence; comparing it anew", "err", err)
			g.resync = true
			for _, f := range give {
				g.ungiven[grantKey{f.Door, f.Source}] = true
			}
		} else {
			for _, f := range give {
				delete(g.ungiven, grantKey{f.Door, f.Source})
			}
		}
	}
	if g.resync || !g.retryFence.IsZero() && !now.Before(g.retryFence) {
		g.reconcile(now)
		changed = true
	}
	g.endFlows(now)
	for _, d := range g.doors {
		if s := d.door.Saved(); worthSaving(d.saved, s) {
			d.saved = s
			g.changes.doors[d.name()] = storedDoor(d.name(), s)
		}
	}
	commit, dirty := g.changes.commit()
	var err error
	if dirty {
		err = g.save(commit)
	}
	if err != nil {
		err = fmt.Errorf("it is done, but a restart would forget it: %w", err)
	}
	if g.broken != "" {
		err = errors.Join(fmt.Errorf("the kernel does not have it yet, which is tried again: %s", g.broken), err)
	}
	for _, reply := range g.changes.replies {
		reply(err)
	}
	changed = changed || dirty || len(g.changes.replies) > 0
	g.changes.replies = nil
	if changed {
		g.changed()
		g.newer.Lock()
		close(g.newer.c)
		g.newer.c = make(chan struct{})
		g.newer.Unlock()
	}
}

// endFlows ends the flows of those who were let in and are no more, once the fence
// lets no others in. What cannot be ended is said in the trail: it lasts for as
// long as it is used.
func (g *Gateway) endFlows(now time.Time) {
	ends := g.changes.endFlows(func(name string) bool {
		d := g.door(name)
		return d != nil && port.Has(d.conf.Ports, port.UDP)
	})
	if len(ends) == 0 {
		return
	}
	if err := g.world.Fence.EndFlows(ends); err != nil {
		g.record(now, audit.EventError, "", "flows over UDP may go on for as long as they are used: "+err.Error())
	}
}

// save commits, logs what is on disk now, and says once when the disk takes
// nothing and when it does again. What could not be saved stays for the next
// turn: the doors go on, since memory and kernel hold all that guards them.
func (g *Gateway) save(commit store.Change) error {
	records, err := g.store.Commit(commit)
	if err != nil {
		if g.unsaved == "" {
			g.log.Error("cannot save; the doors go on, but a restart would forget the latest changes", "err", err)
		}
		g.unsaved = err.Error()
		return err
	}
	if g.unsaved != "" {
		g.log.Info("saving works again", "lost_records", g.changes.lost)
		g.unsaved = ""
	}
	g.changes.saved()
	for _, r := range records {
		g.told[r.Event] += r.Times()
		g.logRecord(r)
	}
	return nil
}

// worthSaving says whether a door has changed by more than a little presence.
func worthSaving(old, now door.Saved) bool {
	moved := now.LastSeen.Sub(old.LastSeen)
	old.LastSeen = now.LastSeen
	return old != now || moved >= seenEvery
}

func storedDoor(name string, s door.Saved) store.Door {
	return store.Door{Name: name, State: s.State.String(), Reason: s.Reason, Since: s.Since,
		Opened: s.Opened, LastSeen: s.LastSeen, Armed: s.Armed, ForAll: s.ForAll}
}

func loadedDoor(d store.Door) door.Saved {
	state, _ := door.ParseState(d.State)
	return door.Saved{State: state, Reason: d.Reason, Since: d.Since,
		Opened: d.Opened, LastSeen: d.LastSeen, Armed: d.Armed, ForAll: d.ForAll}
}
