package gateway

import (
	"errors"
	"log/slog"
	"slices"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/listen"
	"github.com/doorward/doorward/internal/port"
)

// ear keeps the listeners as the doors want them. A port that cannot be had is
// said once and tried again at each upkeep.
type ear struct {
	log     *slog.Logger
	ear     Ear
	wanted  listen.Ports
	problem string // why some port is not as it should be, "" when all are
	repairs uint64
}

// set has the ear do with ports as they say. Each list is sorted.
func (e *ear) set(ports listen.Ports) {
	if slices.Equal(ports.Open, e.wanted.Open) && slices.Equal(ports.Shut, e.wanted.Shut) &&
		slices.Equal(ports.Same, e.wanted.Same) {
		return
	}
	e.wanted = ports
	e.apply()
}

func (e *ear) apply() {
	problem := ""
	if err := e.ear.Set(e.wanted); err != nil {
		problem = err.Error()
	}
	if problem != "" && problem != e.problem {
		e.log.Error("some knocks cannot be heard; trying again", "err", problem)
	}
	if problem == "" && e.problem != "" {
		e.log.Info("all knocks can be heard again")
	}
	e.problem = problem
}

// check opens listeners again that have died, and says which.
func (e *ear) check() (died []uint16) {
	missing := e.ear.Check()
	if len(missing) == 0 {
		return nil
	}
	known := e.problem != ""
	e.apply()
	if known {
		return nil
	}
	e.repairs++
	return missing
}

func (e *ear) close() {
	if err := e.ear.Close(); err != nil {
		e.log.Warn("cannot close the listeners", "err", err)
	}
}

// Hear takes in the touches of a moment. While it waits for the gateway, the
// ear's queue fills, and no more.
func (g *Gateway) Hear(ts []port.Touch) {
	g.pulse.hear(ts)
	select {
	case g.touches <- ts:
	case <-g.ended:
	}
}

// listening is what the ear is to do with the doors' ports now. What it does not
// listen on it holds all the same, so that nobody else listens there and learns
// a knock.
func (g *Gateway) listening() (all listen.Ports) {
	for _, d := range g.doors {
		rest := &all.Shut
		if !d.door.Looked() {
			rest = &all.Same // it will be known in a moment
		}
		all.Open = append(all.Open, d.listening()...)
		*rest = append(*rest, knockPorts(d.conf)...)
	}
	for _, ports := range []*[]uint16{&all.Open, &all.Shut, &all.Same} {
		slices.Sort(*ports)
		*ports = slices.Compact(*ports)
	}
	return all
}

// knockPorts are the ports of all knocks of a door.
func knockPorts(c config.Door) (ports []uint16) {
	for _, k := range c.Knocks {
		ports = append(ports, k.Listen...)
	}
	return ports
}

// tryPorts has the ear hold what a new configuration adds, so that a port that is
// taken is found before anything changes.
func (g *Gateway) tryPorts(c *config.Config) error {
	before := g.ear.wanted
	wanted := before
	wanted.Shut = slices.Clone(before.Shut)
	for _, d := range c.Doors {
		wanted.Shut = append(wanted.Shut, knockPorts(d)...)
	}
	slices.Sort(wanted.Shut)
	wanted.Shut = slices.Compact(wanted.Shut)
	had := g.ear.problem
	g.ear.set(wanted)
	if problem := g.ear.problem; problem != "" && problem != had {
		g.ear.set(before)
		return errors.New(problem)
	}
	return nil
}
