package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// replier is called once with the result of an order.
type replier func(control.Reply, error)

// Do carries out an operator's order (control.Backend) and returns when it has taken
// effect: the fence is changed, the store has it. It does not wait for a slow disk: the
// error then says that the order is done, and that a restart would forget it.
func (g *Gateway) Do(ctx context.Context, by control.Caller, order any) (control.Reply, error) {
	return await(ctx, g, func(now time.Time, answer func(control.Reply, error)) { g.order(ctx, now, by, order, answer) })
}

// Reload puts the configuration file into use at once, as SIGHUP asks.
func (g *Gateway) Reload(ctx context.Context) (control.Reply, error) {
	return g.Do(ctx, control.Caller{Name: bySignal}, control.ApplyRequest{Action: "apply"})
}

// order carries out an order and calls done when it has taken effect, or at once with an
// error if it is refused. Waiting for more than that ends with ctx.
func (g *Gateway) order(ctx context.Context, now time.Time, by control.Caller, order any, done replier) {
	g.callers.now = by
	defer func() { g.callers.now = control.Caller{} }()
	switch o := order.(type) {
	case control.ApplyRequest:
		before, back := g.applying, g.rollingBack
		g.orderApply(now, by.Name, o, done)
		if g.applying != before || g.rollingBack != back { // the order was taken on
			g.callers.wait("", noSource, by)
		}
	case control.Open:
		g.open(ctx, now, by, o, done)
	case control.Close:
		g.close(now, by, o, done)
	case control.KindRequest:
		g.orderKind(now, by, o, done)
	case control.Arm:
		reply, err := g.arm(now, by.Name, o)
		g.answer(reply, err, done)
	default:
		done(control.Reply{}, unknown(order))
	}
}

// answer answers an order: at once with an error, since it has changed nothing.
func (g *Gateway) answer(reply control.Reply, err error, done func(control.Reply, error)) {
	if err != nil {
		done(control.Reply{}, err)
		return
	}
	g.changes.replies = append(g.changes.replies, func(err error) {
		if e, failed := errors.AsType[*control.Error](err); failed && len(reply.Covered) > 0 {
			e.Message = reply.Message + "; " + e.Message
		}
		done(reply, err)
	})
}

func unknown(order any) error {
	return &control.Error{Code: control.CodeUsage, Message: fmt.Sprintf("order %T %v is not known", order, order)}
}

// arm makes doors listen again, or forgets the penalties of one source.
func (g *Gateway) arm(now time.Time, by string, o control.Arm) (control.Reply, error) {
	doors, reply := g.doors, control.Reply{}
	if o.Door != "" {
		d, err := g.named(o.Door)
		if err != nil {
			return control.Reply{}, err
		}
		doors = []*guarded{d}
	}
	var names []string
	for _, d := range doors {
		names = append(names, d.name())
		if o.Source == noSource {
			reply.Changed = d.armAll(now, by) || reply.Changed
			continue
		}
		effects, had := d.door.ArmSource(now, o.Source, by)
		d.apply(effects)
		reply.Changed = reply.Changed || had
	}
	if o.Door != "" {
		reply.Door, reply.State = o.Door, doors[0].state()
	}
	reply.Message = armedMessage(o, names, reply.Changed)
	if o.Source != noSource {
		reply.Source = door.SourceString(o.Source)
	}
	for _, d := range doors {
		if d.mute() {
			reply.Message += fmt.Sprintf("; door %s ignores knocks now: doorward status %[1]s says why", d.name())
		}
	}
	return reply, nil
}

// noSource is the source of an order that is not about one.
var noSource netip.Prefix

// mute says whether nobody is heard by one of the door's knocks.
func (d *guarded) mute() bool {
	return slices.ContainsFunc(d.knocks, func(k heardKnock) bool { return d.door.Mute(k.conf.Name) })
}

// armAll arms a door, and says whether there was anything to forget or to end.
func (d *guarded) armAll(now time.Time, by string) (changed bool) {
	changed = d.door.KeptPenalties() > 0 || d.door.Saved().State == door.Failsafe
	d.apply(d.door.Arm(now, by))
	return changed
}

// armedMessage says what arming did.
func armedMessage(o control.Arm, names []string, changed bool) string {
	at := "door " + strings.Join(names, ", ")
	if o.Door == "" {
		at = "any door"
	}
	switch {
	case o.Source == noSource && changed:
		return "armed, and all penalties lifted: " + strings.Join(names, ", ")
	case o.Source == noSource:
		return "already armed, and nobody is penalised: " + strings.Join(names, ", ")
	case changed:
		return door.SourceString(o.Source) + " may knock again"
	}
	return fmt.Sprintf("%s has no penalty at %s", door.SourceString(o.Source), at)
}

// named finds a door, or returns an error that names those there are.
func (g *Gateway) named(name string) (*guarded, error) {
	if d := g.door(name); d != nil {
		return d, nil
	}
	var names []string
	for _, d := range g.doors {
		names = append(names, d.name())
	}
	slices.Sort(names)
	return nil, &control.Error{Code: control.CodeNoDoor,
		Message: fmt.Sprintf("there is no door %q: the doors are %s", name, strings.Join(names, ", ")), Hint: "doorward status"}
}

// state returns the state of the door, as status shows it.
func (d *guarded) state() string { return d.door.Saved().State.String() }

// duration reads a duration that was checked; the empty string is unset.
func duration(s string, unset time.Duration) (time.Duration, error) {
	if s == "" {
		return unset, nil
	}
	return time.ParseDuration(s)
}
