package gateway

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/store"
)

// seenEvery is how far presence must have advanced to be worth a write: a session of
// hours costs one write a minute, and a crash loses less than that.
const seenEvery = time.Minute

// changes are what a turn has to do to the world. Of several changes to the same thing
// the last one counts. Changes for the store stay until it has them.
type changes struct {
	emptied map[string]bool        // doors all of whose grants end, before the changes below
	grants  map[grantKey]time.Time // when they end, zero: revoke
	flows   map[grantKey]bool      // whose flows to end
	replies []func(error)
	page    *page // the query to the kernel that is under way, nil for none
	delta

	// What the turn has added for the fence.
	added int             // grants, given or revoked
	walks int             // how often the kernel looks for a door's sets
	at    map[string]bool // doors whose grants it added
}

// What a turn adds to the changes of the fence is bounded by what it costs the kernel: some
// 10 µs for a grant, and for each door a walk through the sets of all doors, which finds
// that door's by their names (nf_tables_api.c, nft_set_lookup) and takes 0.4 ms with a
// thousand doors.
const (
	maxCost       = 500 // in grants: 5 ms
	doorsPerGrant = 25  // a walk past the sets of so many doors takes as long as a grant
	emptying      = 10  // walks for a door that is emptied, at most
)

// cost is what the turn has added for the fence among so many doors, in grants.
func (c *changes) cost(doors int) int { return c.added + c.walks*doors/doorsPerGrant }

// beginTurn has the cost counted from nothing.
func (c *changes) beginTurn() {
	c.added, c.walks = 0, 0
	clear(c.at)
}

// grant adds a grant that ends then, or is revoked for a zero time.
func (c *changes) grant(k grantKey, until time.Time) {
	c.grants[k] = until
	c.page.markChanged(k)
	c.added++
	if !c.at[k.door] {
		c.at[k.door] = true
		c.walks++
	}
}

type grantKey struct {
	door   string
	source netip.Prefix
}

func newChanges() changes {
	return changes{emptied: make(map[string]bool), grants: make(map[grantKey]time.Time), flows: make(map[grantKey]bool),
		delta: newDelta(), at: make(map[string]bool)}
}

// add records an effect of a door.
func (c *changes) add(name string, e door.Effect) {
	switch e := e.(type) {
	case door.Give:
		c.grant(grantKey{name, e.Source}, e.Until)
	case door.Revoke:
		c.grant(grantKey{name, e.Source}, time.Time{})
	case door.Clear:
		maps.DeleteFunc(c.grants, func(k grantKey, _ time.Time) bool { return k.door == name })
		c.emptied[name] = true
		c.walks += emptying
		c.page.markChanged(grantKey{door: name})
		c.clearGrants(name)
	case door.EndFlows:
		c.flows[grantKey{name, e.Source}] = true
	case door.KeepClaim:
		c.claims[store.GrantKey{Door: name, Source: e.Source, By: e.By}] =
			&store.Grant{Door: name, Source: e.Source, By: e.By, Until: e.Until, For: e.For}
	case door.DropClaim:
		c.claims[store.GrantKey{Door: name, Source: e.Source, By: e.By}] = nil
	case door.Penalise, door.PenaltyEnded, door.Pardon, door.PardonAll:
		c.penalise(name, e)
	}
}

// fence returns the grants and revocations of some doors as the fence takes them.
func (c *changes) fence(guards func(door string) bool) (all fence.Changes) {
	for name := range c.emptied {
		if guards(name) {
			all.Empty = append(all.Empty, name)
		}
	}
	for k, until := range c.grants {
		if !guards(k.door) {
			continue
		}
		for _, source := range families(k.source) {
			g := fence.Grant{Door: k.door, Source: source, Until: until}
			if until.IsZero() {
				all.Revoke = append(all.Revoke, g)
			} else {
				all.Give = append(all.Give, g)
			}
		}
	}
	return all
}

// atDoors are those of some doors at which the fence has something to change.
func (c *changes) atDoors(some func(name string) bool) []string {
	doors := maps.Clone(c.emptied)
	for k := range c.grants {
		doors[k.door] = true
	}
	maps.DeleteFunc(doors, func(name string, _ bool) bool { return !some(name) })
	return slices.Sorted(maps.Keys(doors))
}

// endFlows returns whose flows at some doors the fence is to end, and forgets them.
func (c *changes) endFlows(doors func(name string) bool) (ends []fence.Grant) {
	for k := range c.flows {
		if !doors(k.door) {
			continue
		}
		delete(c.flows, k)
		for _, source := range families(k.source) {
			ends = append(ends, fence.Grant{Door: k.door, Source: source})
		}
	}
	return ends
}

// families returns a source as the fence knows it: everybody is both families.
func families(source netip.Prefix) []netip.Prefix {
	if source == door.Any {
		return []netip.Prefix{
			netip.PrefixFrom(netip.IPv4Unspecified(), 0),
			netip.PrefixFrom(netip.IPv6Unspecified(), 0),
		}
	}
	return []netip.Prefix{source}
}

// flush puts the turn's changes into effect, in the order that the package comment
// promises.
func (g *Gateway) flush(now time.Time) {
	changed := len(g.changes.grants)+len(g.changes.emptied) > 0
	outcomes := g.outcomes()
	if g.fenceProblem == "" && !g.fencing.doubt {
		if err := g.changeFence(); err != nil {
			g.log.Error("cannot change grants in the fence; checking the fence", "err", err)
			g.fencing.doubt = true
		}
	}
	g.repairIfDue(now)
	g.compareOn(now)
	g.endFlows()
	g.answerVisitors(now, outcomes)
	for _, d := range g.doors {
		// With a grant it costs nothing, and a restart must not find the door idle.
		if s := d.door.Saved(); worthSaving(d.saved, s) || g.changes.at[d.name()] && s != d.saved {
			d.saved = s
			g.changes.doors[d.name()] = storedDoor(d.name(), s)
		}
	}
	changed = changed || !g.changes.empty() || len(g.changes.replies) > 0 || g.sessionsChanged
	g.sessionsChanged = false
	if len(g.changes.replies) > 0 {
		g.writer.tryAgain()
	}
	g.boundPenalties(&g.changes.delta)
	g.write(now)
	if len(g.changes.flows) == 0 && !g.untaken() {
		g.reply(now, g.changes.takeReplies())
	}
	g.tellWatchers(changed)
}

// untaken says whether the fence has not accepted the changes, and may still accept them.
func (g *Gateway) untaken() bool {
	return len(g.changes.grants)+len(g.changes.emptied) > 0 && g.fenceProblem == ""
}

func (c *changes) takeReplies() []func(error) {
	replies := c.replies
	c.replies = nil
	return replies
}

// reply answers the orders that have reached the fence, once they are in the store, too.
func (g *Gateway) reply(now time.Time, replies []func(error)) {
	for _, reply := range replies {
		g.onDisk(now, func(_ time.Time, err error) {
			var unsaved error
			if err != nil {
				unsaved = &unsavedError{err}
				err = unsaved
			}
			if g.fenceProblem != "" {
				err = errors.Join(fmt.Errorf("the kernel does not have it yet; trying again: %s", g.fenceProblem), err)
				unsaved = nil // it is not the only failure
			}
			if err != nil {
				err = &control.Error{Code: control.CodeFailed, Message: err.Error(), Hint: "doorward status", Cause: unsaved}
			}
			reply(err)
		})
	}
}

// unsavedError is why what is done is not on disk.
type unsavedError struct{ why error }

func (e *unsavedError) Error() string {
	return "it is done, but a restart would forget it: " + e.why.Error()
}

func (e *unsavedError) Unwrap() error { return e.why }

// tellWatchers makes watchers look again when something has changed. They hear of what is
// on its way to the disk when it is there.
func (g *Gateway) tellWatchers(changed bool) {
	if changed {
		g.invalidateSnapshots()
	}
	w := &g.writer
	if !w.news && !(changed && w.commit == nil) {
		return
	}
	w.news = false
	g.newer.Lock()
	close(g.newer.c)
	g.newer.c = make(chan struct{})
	g.newer.Unlock()
}

// endFlows ends the flows of sources that are no longer let in, once the fence lets no
// new ones in. It runs in the background, since it reads all flows that there are. An
// operator who ordered it is answered when they are ended; what comes meanwhile is ended,
// and answered, in the next run. The trail names flows that cannot be ended: they last
// for as long as they are used.
func (g *Gateway) endFlows() {
	maps.DeleteFunc(g.changes.flows, func(k grantKey, _ bool) bool {
		d := g.door(k.door)
		return d == nil || !port.Has(d.conf.Ports, port.UDP)
	})
	if len(g.changes.flows) == 0 || g.endingFlows || g.untaken() {
		return
	}
	// A door that is about to go may be gone by then.
	ends := g.changes.endFlows(func(name string) bool { return !g.fencing.goes[name] })
	if len(ends) == 0 {
		return
	}
	g.endingFlows = true
	var replies []func(error)
	if len(g.changes.flows) == 0 {
		replies = g.changes.takeReplies()
	}
	g.async(func() event {
		err := g.world.Fence.EndFlows(ends)
		return func(now time.Time) {
			g.endingFlows = false
			if err != nil {
				g.record(now, audit.EventError, "", "flows over UDP may go on for as long as they are used: "+err.Error())
			}
			g.reply(now, replies)
		}
	})
}

// worthSaving says whether a door has changed by more than a little presence.
func worthSaving(old, now door.Saved) bool {
	moved := now.LastSeen.Sub(old.LastSeen)
	old.LastSeen = now.LastSeen
	return old != now || moved >= seenEvery
}

func storedDoor(name string, s door.Saved) store.Door {
	return store.Door{Name: name, State: s.State.String(), Reason: s.Reason, Since: s.Since,
		Opened: s.Opened, LastSeen: s.LastSeen, Armed: s.Armed, ForAll: s.ForAll, Ran: s.Ran}
}

func loadedDoor(d store.Door) door.Saved {
	state, _ := door.ParseState(d.State)
	return door.Saved{State: state, Reason: d.Reason, Since: d.Since,
		Opened: d.Opened, LastSeen: d.LastSeen, Armed: d.Armed, ForAll: d.ForAll, Ran: d.Ran}
}
