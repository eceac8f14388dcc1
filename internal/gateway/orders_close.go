package gateway

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// close makes a door dark, or ends the grants of a source.
func (g *Gateway) close(now time.Time, by control.Caller, o control.Close, done replier) {
	d, err := g.named(o.Door)
	switch {
	case err != nil:
		done(control.Reply{}, err)
	case o.Source == noSource:
		g.answer(d.shut(now, by), nil, done)
	case o.Source == door.Any || o.Source.IsSingleIP():
		effects, had := d.door.Revoke(now, o.Source, by.Name)
		d.apply(effects)
		ended := 0
		if had {
			ended = 1
		}
		g.answer(d.shutOut(now, o.Source, ended), nil, done)
	default:
		g.closeWithin(now, by, d, o.Source, 0, 0, done)
	}
}

// closeWithin ends the grants of a network and of everything within it. Where there are
// very many, that is done in parts, the next when the last is on disk.
func (g *Gateway) closeWithin(now time.Time, by control.Caller, d *guarded, network netip.Prefix, from, before int, done replier) {
	if g.door(d.name()) != d {
		done(control.Reply{}, &control.Error{Code: control.CodeFailed, Hint: "doorward status",
			Message: fmt.Sprintf("door %s is no longer guarded; %d grants had ended", d.name(), before)})
		return
	}
	effects, ended, next := d.door.RevokeWithin(now, network, by.Name, from)
	d.apply(effects)
	ended += before
	if next == 0 {
		g.answer(d.shutOut(now, network, ended), nil, done)
		return
	}
	g.onDisk(now, func(time.Time, error) {
		g.async(func() event {
			return func(now time.Time) {
				g.callers.now = by
				defer func() { g.callers.now = control.Caller{} }()
				g.closeWithin(now, by, d, network, next, ended, done)
			}
		})
	})
}

// shut makes the door dark.
func (d *guarded) shut(now time.Time, by control.Caller) control.Reply {
	before := d.door.Saved().State
	effects := d.door.Close(now, by.Name)
	d.settle(effects, by.Name+" has closed it")
	d.apply(effects)
	if before != door.Closing && d.door.Saved().State == door.Closing {
		d.gw.callers.wait(d.name(), noSource, by)
	}
	r := d.reply(noSource, fmt.Sprintf("door %s is %s; existing sessions continue", d.name(), d.state()))
	r.Changed = len(effects) > 0
	if d.service != nil {
		return r
	}
	var always []string
	for _, p := range d.conf.Always {
		r.Covered = append(r.Covered, control.Cover{Source: door.SourceString(p), By: control.CoverAlways})
		always = append(always, door.SourceString(p))
	}
	if len(always) > 0 {
		r.Message += "; it always lets in " + strings.Join(always, ", ")
	}
	return r
}

// shutOut returns the reply to an order that has ended n grants of a source. Whatever
// still lets the source in comes first.
func (d *guarded) shutOut(now time.Time, source netip.Prefix, ended int) control.Reply {
	covered, whole := d.covered(now, source)
	r := d.reply(source, "")
	r.Changed, r.Covered = ended > 0, covered
	who, done := r.Source, d.ended(source, ended)
	if !whole && len(covered) > 0 {
		who = "a part of " + who
	}
	switch {
	case len(covered) > 0:
		r.Message = fmt.Sprintf("%s %s: %s; %s", who, d.stillGetsIn(), coverWords(now, covered), done)
	case source == door.Any:
		r.Message = done
		if n := d.door.Granted(); n > 0 {
			r.Message += fmt.Sprintf("; others still have grants: %d", n)
		}
	case ended == 0:
		r.Message = done
	case source.IsSingleIP():
		r.Message = fmt.Sprintf("%s can open no new connections to door %s; its existing sessions continue", who, d.name())
	default:
		r.Message = fmt.Sprintf("%s can open no new connections to door %s: %s; existing sessions continue", who, d.name(), done)
	}
	return r
}

// stillGetsIn says that somebody is let in although their grants have ended.
func (d *guarded) stillGetsIn() string {
	if d.service != nil && !d.service.running {
		return fmt.Sprintf("is STILL let in at door %s as soon as %s runs", d.name(), d.service.svc)
	}
	return "can STILL connect to door " + d.name()
}

// ended says which grants of a source have ended.
func (d *guarded) ended(source netip.Prefix, n int) string {
	who, flows := door.SourceString(source), ""
	if port.Has(d.conf.Ports, port.UDP) {
		flows = "; any flows over UDP that it had are ended"
	}
	switch {
	case n == 0 && source == door.Any:
		return fmt.Sprintf("door %s has no grant to everybody", d.name()) + flows
	case n == 0:
		return fmt.Sprintf("%s has no grant at door %s", who, d.name()) + flows
	case source == door.Any:
		return fmt.Sprintf("the grant to everybody at door %s has ended; existing sessions continue", d.name())
	case source.IsSingleIP():
		return "its own grant has ended"
	case n == 1:
		return "1 grant in it has ended"
	}
	return fmt.Sprintf("%d grants in it have ended", n)
}

// covered returns what lets a source in that has no grant of its own, and whether all of
// it or only a part. Nothing is looked up where everybody's grant has ended: others keep
// theirs.
func (d *guarded) covered(now time.Time, source netip.Prefix) (all []control.Cover, whole bool) {
	if source == door.Any {
		return nil, false
	}
	for _, p := range d.conf.Always {
		if p.Overlaps(source) {
			all = append(all, control.Cover{Source: door.SourceString(p), By: control.CoverAlways})
			whole = whole || p.Bits() <= source.Bits()
		}
	}
	for _, c := range d.door.Covers(now, source) {
		all = append(all, control.Cover{Source: door.SourceString(c.Source), By: c.By, Until: moment(c.Until)})
		whole = true
	}
	return all, whole
}

// manyCovers is how many of the things that let a source in a message names.
const manyCovers = 3

// coverWords says what lets a source in.
func coverWords(now time.Time, all []control.Cover) string {
	var words []string
	for i, c := range all {
		if i == manyCovers {
			words = append(words, fmt.Sprintf("%d more", len(all)-i))
			break
		}
		who := strings.ReplaceAll(c.Source, "any", "everybody")
		switch {
		case c.By == control.CoverAlways:
			words = append(words, who+" needs no grant (always)")
		case c.Until == nil:
			words = append(words, fmt.Sprintf("the grant to %s that waits for the service (%s)", who, c.By))
		default:
			words = append(words, fmt.Sprintf("the grant to %s (%s, for another %s)", who, c.By, tables.Short(c.Until.Sub(now).Round(time.Second))))
		}
	}
	return strings.Join(words, ", ")
}
