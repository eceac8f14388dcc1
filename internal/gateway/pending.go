package gateway

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/store"
)

// keptEnds is how many configurations that once waited to be confirmed are remembered.
const keptEnds = 8

// spelled formats a moment for people.
func spelled(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") }

// nextID returns an ID that no configuration has had. It contains the time, since a store
// that was lost has lost the earlier IDs, too.
func (g *Gateway) nextID(now time.Time) uint64 {
	id := max(1, now.Unix())
	last := g.applied.ID
	for _, e := range g.applied.Ended {
		last = max(last, e.ID)
	}
	return max(uint64(id), last+1)
}

// waits says whether the configuration that waits to be confirmed has the given ID, 0 for
// any.
func (g *Gateway) waits(id uint64) bool {
	return g.applied.Pending != nil && (id == 0 || id == g.applied.ID)
}

// mayReplace says why no other configuration can be put into use: one waits to be
// confirmed.
func (g *Gateway) mayReplace(force bool) error {
	if force || g.applied.Pending == nil {
		return nil
	}
	return &control.Error{Code: control.CodeRefused,
		Message: fmt.Sprintf("nothing was changed: a configuration is waiting to be confirmed, by %s, until %s",
			g.applied.By, spelled(g.applied.Deadline)),
		Hint: "doorward apply --keep or doorward apply --undo, then try again; doorward apply --force discards it"}
}

// endsBy returns the configurations that waited, including the current one as ending now.
func (g *Gateway) endsBy(now time.Time, how, by string) []store.Ended {
	if g.applied.Pending == nil {
		return g.applied.Ended
	}
	all := append([]store.Ended{{ID: g.applied.ID, Time: now, How: how, By: by}}, g.applied.Ended...)
	return all[:min(len(all), keptEnds)]
}

// replacing says how the one that waits ends when another is put into use.
func replacing(was, next store.Applied) string {
	if next.Pending == nil && bytes.Equal(next.Confirmed, was.Pending) {
		return control.EndKept
	}
	return control.EndReplaced
}

// settled returns the configurations that waited, as the API shows them.
func (g *Gateway) settled() (latest *control.Settled, all []control.Settled) {
	all = []control.Settled{}
	for _, e := range g.applied.Ended {
		all = append(all, control.Settled{ID: e.ID, Time: e.Time, By: e.By, Kept: e.How == control.EndKept, End: e.How})
	}
	if len(all) > 0 {
		latest = &all[0]
	}
	return latest, all
}

// endedAlready answers an order about a configuration that does not wait: it succeeds if
// it ended as ordered.
func (g *Gateway) endedAlready(o control.ApplyRequest) (control.Reply, error) {
	latest, all := g.settled()
	refuse := func(format string, args ...any) (control.Reply, error) {
		message := fmt.Sprintf(format, args...)
		hint := "doorward log"
		if g.applied.Pending != nil {
			message += fmt.Sprintf("; %d waits, by %s, until %s", g.applied.ID, g.applied.By, spelled(g.applied.Deadline))
			hint = fmt.Sprintf("doorward apply --%s --id %d, if that is meant", o.Action, g.applied.ID)
		}
		return control.Reply{}, &control.Error{Code: control.CodeRefused, Message: message, Hint: hint}
	}
	if o.ID == 0 && latest == nil {
		return refuse("no configuration is waiting to be confirmed")
	}
	if o.ID == 0 {
		return refuse("no configuration is waiting to be confirmed; the latest that was: %s, at %s", latest.Words(), spelled(latest.Time))
	}
	for _, s := range all {
		if s.ID != o.ID {
			continue
		}
		words := fmt.Sprintf("%s, at %s", s.Words(), spelled(s.Time))
		if s.Kept && o.Action == "keep" || s.WentBack() && o.Action == "undo" {
			return control.Reply{Message: "already done: " + words}, nil
		}
		return refuse("configuration %d is no longer waiting: %s", s.ID, words)
	}
	return refuse("no configuration %d is waiting, and none that did is known", o.ID)
}

// keep confirms the configuration that waits. The reply says so when that is on disk; if
// it was rolled back by then, it is not kept.
func (g *Gateway) keep(now time.Time, by string, done func(control.Reply, error)) {
	a := &applying{by: by, done: done}
	g.applying = a
	next := store.Applied{Confirmed: g.applied.Pending, Ended: g.endsBy(now, control.EndKept, by)}
	g.saveApplied(next)
	g.onDisk(now, func(now time.Time, err error) {
		if g.applying != a {
			return
		}
		if err == nil && (g.applied.Pending == nil || g.rollingBack) {
			err = &control.Error{Code: control.CodeFailed, Message: "the new configuration was rolled back before its confirmation was on disk"}
		}
		if err != nil {
			g.saveApplied(g.applied)
			g.settle(a, control.Reply{}, err)
			return
		}
		g.applied, g.fallback = next, checked{}
		g.forgetMarks()
		reply := control.Reply{Message: "the new configuration is kept", Changed: true}
		g.recordConfig(now, by, reply.Message, g.inUse(), g.inUse())
		g.settleKept(a, reply)
	})
}

// undo goes back to the configuration before the one that waits, and then calls then. A
// port of a knock that is in use meanwhile is no reason not to: the listener tries it
// again.
func (g *Gateway) undo(now time.Time, by, how string, then func(time.Time, control.Reply, error)) {
	if g.fallback.config == nil {
		then(now, control.Reply{}, fmt.Errorf("the previous configuration cannot be read: %w", g.fallback.problem))
		return
	}
	why := "nobody confirmed the new one in time"
	if how == control.EndUndone {
		why = "undone by " + by
	}
	g.rollingBack = true
	g.use(now, g.fallback, func(now time.Time, before checked, _ []string, err error) {
		g.rollingBack = false
		if err != nil {
			then(now, control.Reply{}, fmt.Errorf("roll back: %w", err))
			return
		}
		g.forgetPending(now, how, by)
		message := "the previous configuration is in use again: " + why
		g.recordConfig(now, by, message, before, g.fallback)
		g.fallback = checked{}
		g.saveApplied(g.applied)
		g.forgetMarks()
		g.warnings = append(g.warnings, fmt.Sprintf("%s was rolled back (%s) and is not in use", g.opts.Path, why))
		if err := g.confine(g.config); err != nil { // there was a restart while it waited
			g.warnings = append(g.warnings, "the previous configuration cannot be served in full until the file contains it again "+
				"and the daemon is restarted: "+err.Error())
		}
		then(now, control.Reply{Message: message, Changed: true}, nil)
	})
}

// forgetPending rolls back the record of a configuration that nobody kept.
func (g *Gateway) forgetPending(now time.Time, how, by string) {
	g.applied = store.Applied{Confirmed: g.applied.Confirmed, Rejected: g.applied.Pending, Ended: g.endsBy(now, how, by)}
}

// lapses returns when a configuration that nobody keeps is rolled back, zero for never:
// there may be none that could come back. Work that is under way at the fence ends first:
// it may be putting another in its place.
func (g *Gateway) lapses() time.Time {
	if g.applied.Pending == nil || g.fallback.config == nil || g.rollingBack || g.fencing.busy {
		return time.Time{}
	}
	return g.applied.Deadline
}

// checkApplied rolls back a configuration that nobody kept.
func (g *Gateway) checkApplied(now time.Time) {
	if t := g.lapses(); t.IsZero() || now.Before(t) {
		return
	}
	g.undo(now, "", control.EndExpired, func(now time.Time, _ control.Reply, err error) {
		if err != nil {
			g.log.Error("cannot roll the configuration back", "err", err)
			g.applied.Deadline = now.Add(fenceRetry)
		}
	})
}

// inUse returns the configuration in use.
func (g *Gateway) inUse() checked {
	text := g.applied.Confirmed
	if g.applied.Pending != nil {
		text = g.applied.Pending
	}
	return checked{config: g.config, text: text, hash: g.hash, machineMistakes: g.machineMistakes}
}

// recordConfig records what became of the configuration in use.
func (g *Gateway) recordConfig(now time.Time, by, reason string, before, after checked) {
	g.changes.record(g.sign(audit.Record{Time: now, Event: audit.EventApplied, By: by, Reason: reason,
		Config: &audit.Config{Before: before.hash, After: after.hash, Changed: after.keysSince(before), Salt: rand.Text()}}))
}

// compareWith notes the keys that differ from those of other configurations.
func (c *checked) compareWith(others ...checked) {
	c.differs = make(map[string][]string)
	for _, o := range others {
		if o.text != nil {
			c.differs[o.hash] = changedKeys(o.text, c.text)
		}
	}
}

// keysSince returns the keys that differ from those of another one; never nil.
func (c *checked) keysSince(o checked) []string {
	if c.hash == o.hash {
		return []string{}
	}
	if keys, ok := c.differs[o.hash]; ok {
		return keys
	}
	return changedKeys(o.text, c.text)
}

// maxKeys and maxDoors limit what one record lists.
const (
	maxKeys  = 100
	maxDoors = 500
)

// changedKeys are the keys that differ: those of the doors alone where they are too
// many for a record.
func changedKeys(before, after []byte) []string {
	all := config.Differences(before, after)
	keys := make([]string, 0, len(all))
	for _, d := range all {
		keys = append(keys, d.Key)
	}
	if len(keys) <= maxKeys {
		return keys
	}
	for i, key := range keys {
		if parts := strings.SplitN(key, ".", 3); len(parts) == 3 {
			keys[i] = parts[0] + "." + parts[1]
		}
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	if more := len(keys) - maxDoors; more > 0 {
		keys = append(keys[:maxDoors], fmt.Sprintf("and %d more", more))
	}
	return keys
}
