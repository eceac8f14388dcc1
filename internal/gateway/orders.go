package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/port"
)

// answer is what an order came to.
type answer struct {
	reply control.Reply
	err   error
}

// Do carries out an operator's order (control.Backend) and returns when it has
// taken effect: the fence is changed, the store has it. A disk that is slow is not
// waited for: the error says that it is done, and that a restart would forget it.
func (g *Gateway) Do(ctx context.Context, by string, order any) (control.Reply, error) {
	done := make(chan answer, 1)
	e := func(now time.Time) {
		g.order(now, by, order, func(reply control.Reply, err error) { done <- answer{reply, err} })
	}
	select {
	case g.events <- e:
	case <-ctx.Done():
		return control.Reply{}, ctx.Err()
	case <-g.ended:
		return control.Reply{}, errors.New("the daemon ends")
	}
	select {
	case a := <-done:
		return a.reply, a.err
	case <-ctx.Done():
		return control.Reply{}, ctx.Err()
	case <-g.ended:
		return control.Reply{}, errors.New("the daemon ends")
	}
}

// Reload takes the configuration file into use at once, as SIGHUP asks.
func (g *Gateway) Reload(ctx context.Context) (control.Reply, error) {
	return g.Do(ctx, bySignal, control.ApplyRequest{Action: "apply"})
}

// order carries out an order and has done called when it has taken effect, or with
// an error at once when it is refused.
func (g *Gateway) order(now time.Time, by string, order any, done func(control.Reply, error)) {
	if o, ok := order.(control.ApplyRequest); ok {
		g.orderApply(now, by, o, done)
		return
	}
	var reply control.Reply
	var err error
	switch o := order.(type) {
	case control.OpenRequest:
		reply, err = g.open(now, by, o)
	case control.CloseRequest:
		reply, err = g.close(now, by, o)
	case control.ArmRequest:
		reply, err = g.arm(now, by, o)
	default:
		err = unknown(order)
	}
	g.answer(reply, err, done)
}

// answer has an order answered: with an error at once, since it has changed nothing.
func (g *Gateway) answer(reply control.Reply, err error, done func(control.Reply, error)) {
	if err != nil {
		done(control.Reply{}, err)
		return
	}
	g.changes.replies = append(g.changes.replies, func(err error) { done(reply, err) })
}

func unknown(order any) error {
	return &control.Error{Message: fmt.Sprintf("order %T %v is not known", order, order)}
}

func (g *Gateway) open(now time.Time, by string, o control.OpenRequest) (control.Reply, error) {
	d, err := g.named(o.Door)
	if err != nil {
		return control.Reply{}, err
	}
	source, err := parseSource(o.Source)
	if err != nil {
		return control.Reply{}, err
	}
	length, err := duration(o.For, d.conf.OpenFor)
	if err != nil {
		return control.Reply{}, err
	}
	effects, err := d.door.Open(now, source, length, by)
	if err != nil {
		return control.Reply{}, &control.Error{Message: err.Error(), Hint: "doorward arm " + o.Door}
	}
	d.carry(effects)
	until := now.Add(length)
	message := fmt.Sprintf("door %s is open for %s for %s", d.name(), door.SourceString(source), length)
	if d.door.Saved().State != door.Open {
		message = fmt.Sprintf("door %s opens for %s as soon as %s runs", d.name(), door.SourceString(source), d.service.svc)
		return control.Reply{Message: message}, nil
	}
	return control.Reply{Message: message, Until: &until}, nil
}

func (g *Gateway) close(now time.Time, by string, o control.CloseRequest) (control.Reply, error) {
	d, err := g.named(o.Door)
	if err != nil {
		return control.Reply{}, err
	}
	if o.Source == "" {
		d.carry(d.door.Close(now, by))
		return control.Reply{Message: fmt.Sprintf("door %s is %s; sessions that stand live on", d.name(), d.door.Saved().State)}, nil
	}
	source, err := parseSource(o.Source)
	if err != nil {
		return control.Reply{}, err
	}
	effects, had := d.door.Revoke(now, source, by)
	switch {
	case had:
	case port.Has(d.conf.Ports, port.UDP):
		d.carry(effects)
		return control.Reply{Message: fmt.Sprintf("%s has no grant at door %s; what flows over UDP it had are ended", o.Source, d.name())}, nil
	default:
		return control.Reply{}, &control.Error{Message: fmt.Sprintf("%s has no grant at door %s", o.Source, d.name()),
			Hint: "doorward status " + d.name()}
	}
	d.carry(effects)
	return control.Reply{Message: fmt.Sprintf("%s can open no new connections to door %s; its sessions live on", o.Source, d.name())}, nil
}

func (g *Gateway) arm(now time.Time, by string, o control.ArmRequest) (control.Reply, error) {
	doors := g.doors
	if o.Door != "" {
		d, err := g.named(o.Door)
		if err != nil {
			return control.Reply{}, err
		}
		doors = []*guarded{d}
	}
	if o.Source == "" {
		var names []string
		for _, d := range doors {
			d.carry(d.door.Arm(now, by))
			names = append(names, d.name())
		}
		return control.Reply{Message: "armed, and all penalties forgotten: " + strings.Join(names, ", ")}, nil
	}
	source, err := parseSource(o.Source)
	if err != nil {
		return control.Reply{}, err
	}
	found := false
	for _, d := range doors {
		effects, had := d.door.ArmSource(now, source, by)
		d.carry(effects)
		found = found || had
	}
	if !found {
		return control.Reply{}, &control.Error{Message: o.Source + " has no penalty", Hint: "doorward status"}
	}
	return control.Reply{Message: o.Source + " may knock again"}, nil
}

// named finds a door, or says which there are.
func (g *Gateway) named(name string) (*guarded, error) {
	if d := g.door(name); d != nil {
		return d, nil
	}
	var names []string
	for _, d := range g.doors {
		names = append(names, d.name())
	}
	return nil, &control.Error{Message: fmt.Sprintf("there is no door %q: the doors are %s", name, strings.Join(names, ", ")),
		Hint: "doorward status"}
}

// parseSource reads an address, a prefix or "any".
func parseSource(s string) (netip.Prefix, error) {
	if s == "any" {
		return door.Any, nil
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Bits() == 0 {
		return netip.Prefix{}, &control.Error{Message: fmt.Sprintf("source %q is everybody", s), Hint: "--source any"}
	}
	if a, notOne := netip.ParseAddr(s); notOne == nil {
		p = door.Source(a)
	}
	if p = p.Masked(); !door.Somebody(p) {
		return netip.Prefix{}, &control.Error{Message: fmt.Sprintf("source %q: allowed are an address, a prefix, or any", s)}
	}
	return p, nil
}

// duration reads a positive duration; the empty string is unset.
func duration(s string, unset time.Duration) (time.Duration, error) {
	if s == "" {
		return unset, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, &control.Error{Message: fmt.Sprintf("duration %q: allowed are positive ones such as 30s, 5m, 1h", s)}
	}
	return d, nil
}
