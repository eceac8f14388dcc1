package gateway

import (
	"fmt"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/config"
)

// reconfigure gives a door that stays its new configuration. It returns what an operator
// should know about a service that the door no longer has, which is left as it is.
func (d *guarded) reconfigure(now time.Time, c config.Door) (left string) {
	old, before := d.conf, d.service
	d.conf = c
	d.door.Configure(d.gw.rules(c))
	d.setKnocks(c.Knocks, now)
	switch {
	case !sameService(old, c): // a look that is under way ends with the old one
		d.cancel()
		d.service = nil
		d.start(d.gw.ctx)
		d.apply(d.door.LookElsewhere(now))
		d.apply(d.door.Renew(now))
		return d.serviceLeft(before)
	case !sameLook(old, c):
		d.lookElsewhere()
		d.apply(d.door.LookElsewhere(now))
	}
	if d.service != nil {
		d.service.conf = c
	}
	return ""
}

// serviceLeft says what becomes of the previous service, nil for none: it is the
// operator's from now on, unlike one that is stopped while another is behind the door.
func (d *guarded) serviceLeft(before *controller) string {
	switch {
	case before == nil:
	case d.service == nil:
		return fmt.Sprintf("door %s has no service now, and the one before, %s, %s", d.name(), before.svc, before.state())
	case before.running && ownName(before.svc) != ownName(d.service.svc):
		return fmt.Sprintf("door %s has another service now, and the one before, %s, %s", d.name(), before.svc, before.state())
	}
	return ""
}

// sameLook says whether two configurations of a door look for presence in the same way.
func sameLook(a, b config.Door) bool {
	return slices.Equal(a.Ports, b.Ports) && a.Presence.Connections == b.Presence.Connections &&
		a.Presence.Logins == b.Presence.Logins && slices.Equal(a.Presence.Files, b.Presence.Files)
}

// sameService says whether two configurations of a door have the same service
// behind it.
func sameService(a, b config.Door) bool {
	if a.Service == nil || b.Service == nil {
		return a.Service == b.Service
	}
	return a.Service.Unit == b.Service.Unit && slices.Equal(a.Service.Start, b.Service.Start) &&
		slices.Equal(a.Service.Stop, b.Service.Stop) && slices.Equal(a.Service.Status, b.Service.Status)
}

// leave stops the work for a door that the configuration no longer has. Its service is
// left as it is, and the returned words say so to the operator.
func (d *guarded) leave() string {
	d.cancel()
	d.goes()
	if d.service == nil {
		return fmt.Sprintf("door %s is no longer guarded", d.name())
	}
	return fmt.Sprintf("door %s is no longer guarded, its service %s %s", d.name(), d.service.svc, d.service.state())
}
