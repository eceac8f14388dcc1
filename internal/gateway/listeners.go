package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/listen"
	"github.com/doorward/doorward/internal/port"
)

// places are what the listeners are to do with places. Each list is sorted and has each
// place once.
type places struct {
	Open []knock.Place // heard
	Shut []knock.Place // not heard, but held: those that are in Open as well are heard
	Same []knock.Place // as they are

	openers map[knock.Place]knock.Opener // of datagrams and streams, at those of Open
	of      *config.Config               // whose doors' places and openers they are
	tries   *config.Config               // whose are held, too; nil for nobody's
}

func (p *places) lists() [3]*[]knock.Place { return [3]*[]knock.Place{&p.Open, &p.Shut, &p.Same} }

func (p *places) sort() {
	for _, list := range p.lists() {
		slices.SortFunc(*list, func(a, b knock.Place) int {
			return cmp.Or(cmp.Compare(a.Medium, b.Medium), cmp.Compare(a.Port, b.Port))
		})
		*list = slices.Compact(*list)
	}
}

func (p *places) equal(o places) bool {
	return p.of == o.of && p.tries == o.tries && slices.Equal(p.Open, o.Open) && slices.Equal(p.Shut, o.Shut) && slices.Equal(p.Same, o.Same)
}

// connections are the TCP ports.
func (p *places) connections() (ports listen.Ports) {
	into := [3]*[]uint16{&ports.Open, &ports.Shut, &ports.Same}
	for i, list := range p.lists() {
		for _, at := range *list {
			switch {
			case at.Medium == knock.Streams && i == 0:
				ports.Streams = append(ports.Streams, at.Port)
			case at.Medium != knock.Datagrams:
				*into[i] = append(*into[i], at.Port)
			}
		}
	}
	return ports
}

// datagrams are where datagrams and streams are heard or held. Where it is not known yet
// whether they are to be heard nothing is: the door hears nothing before it knows.
func (p *places) datagrams() map[knock.Place]knock.Opener {
	all := make(map[knock.Place]knock.Opener)
	for _, list := range p.lists() {
		for _, at := range *list {
			if at.Medium != knock.Connections {
				all[at] = nil
			}
		}
	}
	for _, at := range p.Open {
		if at.Medium != knock.Connections {
			all[at] = p.openers[at]
		}
	}
	return all
}

// unopened says which places are to be heard by a rule that opens no datagrams, which is a
// mistake of its kind.
func (p *places) unopened() (err error) {
	for _, at := range p.Open {
		if at.Medium != knock.Connections && p.openers[at] == nil {
			err = errors.Join(err, fmt.Errorf("%s: its kind of knock opens no datagrams", at.AsPort()))
		}
	}
	return err
}

// listeners keeps the listeners as the doors want them, in the background, one thing at a time:
// sockets of thousands of ports take long to open and to close, and so does finding out who has
// one. What is heard at a place that is about to close is ignored once it has closed. A port
// that is not available is reported once and tried again at each upkeep.
type listeners struct {
	log     *slog.Logger
	tcp     Listener
	udp     Datagrams
	wanted  places
	applied places         // what was last passed to the listeners
	busy    bool           // something is under way
	check   bool           // they are to be checked
	trying  *config.Config // a configuration about to be used, whose places are held, too; nil for none
	onTried event          // called when they are held, as far as they are available
	problem string         // why some place is not as it should be, "" when all are
	missing []port.Port    // those places
	repairs uint64
}

// updateListeners passes to the listeners what has changed, and checks them if that is due:
// what has died is opened again.
func (g *Gateway) updateListeners() {
	l := g.listeners
	wanted, look := l.wanted, l.check
	if l.busy || wanted.equal(l.applied) && !look {
		return
	}
	same := wanted.equal(l.applied)
	l.busy, l.check, l.applied = true, false, wanted
	g.async(func() event {
		var died []port.Port
		if look {
			died = l.checkDied()
		}
		told := !same || len(died) > 0
		var err error
		if told {
			carried := l.udp.Set(wanted.datagrams()) // before the first stream is handed over
			err = errors.Join(l.tcp.Set(wanted.connections()), carried, wanted.unopened())
		}
		var missing []port.Port
		if err != nil {
			missing = l.checkDied()
		}
		return func(now time.Time) {
			l.busy = false
			if told {
				l.missing = missing
				g.listenersUpdated(now, died, err)
			}
			if tried := l.onTried; tried != nil && l.applied.tries == l.trying {
				l.onTried = nil
				tried(now)
			}
		}
	})
}

// listenersUpdated handles the result of an update, before which some places had died.
func (g *Gateway) listenersUpdated(now time.Time, died []port.Port, err error) {
	l := g.listeners
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if l.problem == "" && len(died) > 0 {
		l.repairs++
		for _, p := range died {
			g.record(now, audit.EventRepaired, "", fmt.Sprintf("the listener on %s had died; reopened", p))
		}
	}
	if problem != "" && problem != l.problem {
		l.log.Error("some knocks cannot be heard; trying again", "err", problem)
	}
	if problem == "" && l.problem != "" {
		l.log.Info("all knocks can be heard again")
	}
	l.problem = problem
}

// checkDied returns the ports of what has died.
func (l *listeners) checkDied() (died []port.Port) {
	for _, p := range l.tcp.Check() {
		died = append(died, knock.Place{Medium: knock.Connections, Port: p}.AsPort())
	}
	for _, p := range l.udp.Check() {
		died = append(died, knock.Place{Medium: knock.Datagrams, Port: p}.AsPort())
	}
	return died
}

func (l *listeners) close() {
	if err := errors.Join(l.tcp.Close(), l.udp.Close()); err != nil {
		l.log.Warn("cannot close the listeners", "err", err)
	}
}

// behind says whether one of the listeners is.
func (w *World) behind() bool {
	touches, datagrams := w.Touches.Behind(), w.Datagrams.Behind() // both must be asked: each looks at the time since it was last asked
	return touches || datagrams
}

// Hear hands over what was heard. While it waits for the gateway, only the listener's
// queue fills. What is heard when the gateway ends is dropped.
func (g *Gateway) Hear(hs []knock.Heard) {
	g.stalls.queued(hs)
	select {
	case g.heard <- hs:
	case <-g.ending:
	}
}

// waitingToo adds whatever else is waiting to what was heard: each listener hears in order
// of time, and this merges what both have heard by now. What is heard later cannot be taken
// into account.
func (g *Gateway) waitingToo(hs []knock.Heard) []knock.Heard {
	all := [][]knock.Heard{hs}
	for n, waits := len(hs), true; waits && n < maxBatch; {
		select {
		case more := <-g.heard:
			g.stalls.dequeued()
			all = append(all, more)
			n += len(more)
		default:
			waits = false
		}
	}
	if len(all) == 1 {
		return hs
	}
	hs = slices.Concat(all...)
	slices.SortStableFunc(hs, func(a, b knock.Heard) int { return a.Time.Compare(b.Time) })
	return hs
}

// syncListeners passes to the listeners what they are to do with the doors' places. It does
// so only when something has changed, so that a turn does not cost more the more ports
// there are.
func (g *Gateway) syncListeners() {
	changed := g.listeners.wanted.of != g.config || g.listeners.wanted.tries != g.listeners.trying
	for _, d := range g.doors {
		for i := range d.knocks {
			k := &d.knocks[i]
			if now := d.listenState(k); !now.equal(k.heard) {
				k.heard, changed = now, true
			}
		}
	}
	if changed {
		g.listeners.wanted = g.places()
	}
	g.updateListeners()
}

// places are what the listener is to do with the doors' places now. A port that it does
// not listen on it still holds, so that nobody else listens there and learns a knock.
func (g *Gateway) places() places {
	all := places{openers: make(map[knock.Place]knock.Opener), of: g.config, tries: g.listeners.trying}
	if all.tries != nil {
		for _, d := range all.tries.Doors {
			all.Shut = append(all.Shut, hears(d)...)
		}
	}
	for _, d := range g.doors {
		for _, k := range d.knocks {
			rest := &all.Shut
			if !k.heard.known {
				rest = &all.Same // that will soon be known
			}
			for _, p := range k.conf.Hears() {
				if k.heard.open && !slices.Contains(k.heard.closed, p) {
					all.Open = append(all.Open, p)
					if by := g.opener(k.conf, p.Port); by != nil && p.Medium != knock.Connections {
						all.openers[p] = by
					}
				}
				*rest = append(*rest, p)
			}
		}
	}
	all.sort()
	return all
}

// knockOf is a knock of a door.
type knockOf struct {
	door  *guarded
	knock int // of the door's, from 0
}

// knockAt returns whose knock is heard at a place, nil for nobody's. Of several doors that
// share it, it is the one of that name, and the first if none has it.
func (g *Gateway) knockAt(p knock.Place, door string) (*guarded, *heardKnock) {
	if g.knocksByPlace == nil || g.knocksByPlaceOf != g.config {
		g.knocksByPlace, g.knocksByPlaceOf = make(map[knock.Place][]knockOf), g.config
		for _, d := range g.doors {
			for i, k := range d.knocks {
				for _, p := range k.conf.Hears() {
					g.knocksByPlace[p] = append(g.knocksByPlace[p], knockOf{d, i})
				}
			}
		}
	}
	all := g.knocksByPlace[p]
	if len(all) == 0 {
		return nil, nil
	}
	of := all[0]
	if len(all) > 1 && door != "" {
		if i := slices.IndexFunc(all, func(k knockOf) bool { return k.door.name() == door }); i >= 0 {
			of = all[i]
		}
	}
	return of.door, &of.door.knocks[of.knock]
}

// hears are the places of all knocks of a door.
func hears(c config.Door) (all []knock.Place) {
	for _, k := range c.Knocks {
		all = append(all, k.Hears()...)
	}
	return all
}

// tryPorts makes the listeners hold what a new configuration adds, until trying is over,
// so that a port that is in use is found before anything changes. Then it calls then.
func (g *Gateway) tryPorts(c *config.Config, then after) {
	had := g.listeners.problem
	g.listeners.trying = c
	g.listeners.onTried = func(now time.Time) {
		var err error
		if problem := g.listeners.problem; problem != "" && problem != had {
			err = errors.New(problem)
		}
		then(now, err)
	}
}
