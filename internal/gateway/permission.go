package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/doorward/doorward/internal/service"
)

// permission is whether the daemon may start and stop a door's service. It is asked
// before a visitor depends on it: at the start, and again until the answer is yes,
// so that a rule for polkit shows when it is installed and not at the next knock.
type permission struct {
	asking  bool
	given   bool
	refused string // the latest answer when it was no, for people
}

// allower is a service that may be refused to the daemon; *service.Unit is one.
type allower interface {
	Allowed(ctx context.Context) error
}

// namer is a service that others may call by another name; *service.Unit is one.
type namer interface {
	Names() service.Names
}

// ownName is what a service calls itself, as far as that is known.
func ownName(s Service) string {
	if s, ok := s.(namer); ok {
		return s.Names().ID
	}
	return s.String()
}

// askPermission asks, unless leave is given already or asked for just now. While
// nobody answers (D-Bus comes up after the daemon) nothing is said: the watch over
// the service says that.
func (c *controller) askPermission() {
	svc, ok := c.svc.(allower)
	if !ok || c.permission.asking || c.permission.given {
		return
	}
	c.permission.asking = true
	timeout := c.conf.Service.Timeout
	c.gw.async(func() event {
		ctx, cancel := context.WithTimeout(c.ctx, timeout)
		defer cancel()
		err := svc.Allowed(ctx)
		return func(time.Time) {
			c.permission.asking = false
			if c.ctx.Err() == nil {
				c.answered(err)
			}
		}
	})
}

// answered takes in whether an order, or the question for it, was refused.
func (c *controller) answered(err error) {
	switch {
	case errors.Is(err, service.ErrNotAllowed):
		if c.permission.refused == "" {
			c.gw.log.Warn("the daemon may not start and stop the door's service", "door", c.conf.Name, "err", err)
		}
		c.permission.given, c.permission.refused = false, err.Error()
	case err == nil:
		c.permission.given, c.permission.refused = true, ""
	}
}

// ordered takes in how an order ended. One that went well is no leave for the
// other: a service that runs already is started without asking anybody.
func (c *controller) ordered(err error) {
	if err != nil {
		c.answered(err)
	}
}

// serviceWarnings are about services that the daemon may not touch, and about
// those that two doors would start and stop under each other's visitors: the
// configuration refuses that by one name (config), and cannot know the others.
func (g *Gateway) serviceWarnings() (all []string) {
	users := make(map[string]string) // door that has a unit, by the unit's own name
	for _, d := range g.doors {
		if d.service == nil {
			continue
		}
		if why := d.service.permission.refused; why != "" {
			all = append(all, fmt.Sprintf("door %s: the daemon may not start and stop %s, so right knocks fail: %s",
				d.name(), d.service.svc, why))
		}
		svc, ok := d.service.svc.(namer)
		if !ok {
			continue
		}
		names := svc.Names()
		for _, unit := range append([]string{names.ID}, names.Feeds...) {
			if other, taken := users[unit]; taken {
				all = append(all, fmt.Sprintf("doors %s and %s have the same service, %s: when one goes dark, "+
					"it is stopped for both; make it one door: its ports may be several", other, d.name(), unit))
				continue
			}
			users[unit] = d.name()
		}
	}
	return all
}
