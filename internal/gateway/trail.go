package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/store"
)

// tell adds a door's record to this turn's commit. What strangers and visitors can cause
// as often as they like is summed up; of visitors that is what was on their behalf.
func (g *Gateway) tell(r audit.Record, whose string) {
	now := g.world.Now()
	r = g.sign(r)
	who, visitor := g.who(whose)
	switch {
	case r.Operator != nil:
		g.changes.record(r)
		return
	case r.Event == audit.EventRefused:
		g.changes.recordAll(g.sums.Add(now, r))
		return
	case r.Event == audit.EventAlarm: // whoever has one such key may have many
		who, visitor = audit.Who{By: r.By}, true
	case r.Event == audit.EventLogin: // also of somebody who need not knock
		visitor = true
	}
	if !visitor || r.Event == audit.EventKeys {
		g.changes.record(r)
		return
	}
	r.Visit = slices.Contains(visits, r.Event)
	g.changes.recordAll(g.shares.Add(now, who, r))
}

// visits are the events that a visitor's knock leads to, of which none says that something
// is wrong.
var visits = []string{audit.EventGranted, audit.EventRevoked, audit.EventExpired, audit.EventOpened, audit.EventDark}

// who returns who somebody is of whom records and grants speak; false for an operator, and
// for nobody. A knock that does not say whose it is, and a grant of which that is not known,
// is of whoever comes from a network.
func (g *Gateway) who(by string) (audit.Who, bool) {
	for _, kind := range kinds.All {
		if of, ours := whoOf(kind.Name(), by); ours && of == "" {
			return audit.Who{By: by}, true
		} else if ours {
			return audit.Who{ID: g.whoIs(by), By: by}, true
		}
	}
	return audit.Who{}, false
}

// record adds a record about the gateway as a whole to this turn's commit.
func (g *Gateway) record(now time.Time, event, by, reason string) {
	g.changes.record(g.sign(audit.Record{Time: now, Event: event, By: by, Reason: reason}))
}

// count counts a record that the audit trail has.
func (g *Gateway) count(r audit.Record) {
	g.eventCounts[r.Event] += r.Times()
	of := g.metered.doorEventCounts[r.Door]
	if of == nil {
		of = make(map[string]uint64)
		g.metered.doorEventCounts[r.Door] = of
	}
	of[r.Event] += r.Times()
}

// tellRecord passes on a record that the audit trail has.
func (g *Gateway) tellRecord(r audit.Record) {
	if g.opts.Tell != nil {
		g.opts.Tell(r)
		return
	}
	LogRecord(g.log, r)
}

// LogRecord writes a record of the audit trail to a log.
func LogRecord(log *slog.Logger, r audit.Record) {
	var args []any
	for _, a := range []struct{ key, value string }{
		{"door", r.Door}, {"source", r.Source}, {"by", r.By}, {"reason", r.Reason},
	} {
		if a.value != "" {
			args = append(args, a.key, a.value)
		}
	}
	if r.Until != nil {
		args = append(args, "until", r.Until.Format(time.RFC3339))
	}
	log.Log(context.Background(), audit.Level(r.Event), r.Event, args...)
}

// Log reads the audit trail (control.Backend). While the daemon starts it waits for
// the store.
func (g *Gateway) Log(q control.LogQuery) (control.LogPage, error) {
	select {
	case <-g.opened:
	case <-g.ended:
		return control.LogPage{}, errEnds
	}
	wanted := store.Query{Door: q.Door, Since: q.Since, Until: q.Until, Events: q.Events,
		After: q.After, Oldest: q.Oldest, Limit: q.Limit}
	if q.Source != "" {
		var err error
		if wanted.Source, err = sourceOf(q.Source); err != nil {
			return control.LogPage{}, fmt.Errorf("source %q: %w", q.Source, err)
		}
	}
	p, err := g.store.Records(wanted)
	if err == nil && len(p.Records) == 0 && q.Door != "" {
		err = g.everHad(q.Door)
	}
	return control.LogPage(p), err
}

// sourceOf reads a source as door.SourceString writes it.
func sourceOf(s string) (netip.Prefix, error) {
	if s == "any" {
		return door.Any, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return door.Source(a), nil
	}
	return netip.ParsePrefix(s)
}

var errEnds = errors.New("the daemon is shutting down")

// everHad returns an error if there is no such door, nor a record of one. A follower of a
// door's records asks again and again, so the loop is asked only once for each door that
// ever existed.
func (g *Gateway) everHad(name string) (err error) {
	if _, ok := g.pastDoors.Load(name); ok {
		return nil
	}
	defer func() {
		if err == nil {
			g.pastDoors.Store(name, true)
		}
	}()
	s, ok := readSnapshot(g, &g.statusCache)
	if !ok {
		return errEnds
	}
	var names []string
	for _, d := range s.doors {
		if d.Name == name {
			return nil
		}
		names = append(names, d.Name)
	}
	p, err := g.store.Records(store.Query{Door: name, Limit: 1})
	if err != nil || len(p.Records) > 0 {
		return err
	}
	return &control.Error{
		Code:    control.CodeNoDoor,
		Message: fmt.Sprintf("there is no door %q, nor has the audit trail a record of one: the doors are %s", name, strings.Join(names, ", ")),
		Hint:    "doorward status",
	}
}
