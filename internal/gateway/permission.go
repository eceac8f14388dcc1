package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/doorward/doorward/internal/service"
)

// permission is whether the daemon may start and stop a door's service. It is asked for
// before a visitor depends on it: at the start, and again until the answer is yes, so
// that a new polkit rule takes effect when it is installed and not at the next knock.
type permission struct {
	asking  bool
	given   bool
	refused string // the latest answer if it was no, for people
}

// allower is a service that the daemon may be forbidden to control; *service.Unit is one.
type allower interface {
	Allowed(ctx context.Context) error
}

// namer is a service that may have other names; *service.Unit is one.
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

// askPermission asks, unless permission is already given or being asked for. While nobody
// answers (D-Bus comes up after the daemon) it reports nothing: the watch on the service
// does.
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

// answered notes whether an order, or the question whether it is allowed, was refused.
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

// ordered notes how an order ended. The success of one does not mean permission for the
// other: a start of a service that runs already asks nobody.
func (c *controller) ordered(err error) {
	if err != nil {
		c.answered(err)
	}
}

// serviceWarnings warns about services that the daemon may not control, and about those
// that two doors would start and stop under each other's visitors: config refuses that
// for a single name, and cannot know aliases.
func (g *Gateway) serviceWarnings() (all []string) {
	users := make(map[string]string) // the door that has a unit, by the unit's canonical name
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
