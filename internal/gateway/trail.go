package gateway

import (
	"context"
	"log/slog"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// tell adds what a door has to tell to this turn's commit. Refusals that come in
// floods are summed up.
func (g *Gateway) tell(r audit.Record) {
	g.changes.recordAll(g.sums.Add(g.world.Now(), g.sign(r)))
}

// record adds a record about the gateway as a whole to this turn's commit.
func (g *Gateway) record(now time.Time, event, by, reason string) {
	g.changes.record(g.sign(audit.Record{Time: now, Event: event, By: by, Reason: reason}))
}

// count counts a record that the audit trail has.
func (g *Gateway) count(r audit.Record) {
	g.told[r.Event] += r.Times()
	of := g.metered.told[r.Door]
	if of == nil {
		of = make(map[string]uint64)
		g.metered.told[r.Door] = of
	}
	of[r.Event] += r.Times()
}

// logRecord tells the log what the audit trail has.
func (g *Gateway) logRecord(r audit.Record) {
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
	g.log.Log(context.Background(), level(r.Event), r.Event, args...)
}

// level is how loud an event is told: at info unless an operator acts on it.
func level(event string) slog.Level {
	switch event {
	case audit.EventFailsafe, audit.EventError:
		return slog.LevelError
	case audit.EventRepaired:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// Log reads the audit trail (control.Backend).
func (g *Gateway) Log(q control.LogQuery) ([]audit.Record, error) {
	return g.store.Records(q.Door, q.Source, q.After, q.Limit)
}
