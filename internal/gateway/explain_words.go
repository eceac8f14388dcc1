package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// byKernel is named as the giver of a grant that the kernel has and the daemon does not
// know.
const byKernel = "the kernel alone"

// always returns the `always` prefix of the door that contains the source.
func (x *explained) always() (netip.Prefix, bool) {
	i := slices.IndexFunc(x.conf.Always, func(p netip.Prefix) bool { return p.Contains(x.source) })
	if i < 0 {
		return netip.Prefix{}, false
	}
	return x.conf.Always[i], true
}

// differs says whether kernel and daemon disagree about the source's grants. They may
// about one that is about to end.
func (x *explained) differs() bool {
	latest := x.latest()
	switch {
	case x.kernel.err != nil || x.broken != "":
		return false
	case x.kernel.until.IsZero():
		return latest.Sub(x.at) > expirySlack
	}
	return latest.IsZero() && x.kernel.until.Sub(x.at) > expirySlack
}

// latest is when the last of the daemon's grants to the source ends, zero for none.
func (x *explained) latest() (latest time.Time) {
	for _, c := range x.standing.Covers {
		if c.Until.After(latest) {
			latest = c.Until
		}
	}
	return latest
}

// explain assembles what is known.
func (x *explained) explain() control.ExplainedFor {
	e := control.ExplainedFor{Door: x.conf.Name, Ports: portNames(x.conf), State: x.standing.State.String(), Reason: x.standing.Reason,
		By: []control.Cover{}, Obstacles: []control.Obstacle{}, Refusals: append([]audit.Record{}, x.refusals...)}
	endless := false
	if x.own {
		e.By, endless = append(e.By, control.Cover{Source: x.source.String(), By: control.CoverOwn}), true
	}
	if p, ok := x.always(); ok {
		e.By, endless = append(e.By, control.Cover{Source: door.SourceString(p), By: control.CoverAlways}), true
	}
	for _, c := range x.standing.Covers {
		e.By = append(e.By, control.Cover{Source: door.SourceString(c.Source), By: c.By, Until: &c.Until})
	}
	if x.differs() && !x.kernel.until.IsZero() {
		e.By = append(e.By, control.Cover{Source: door.SourceString(x.kernel.source), By: byKernel, Until: &x.kernel.until})
	}
	for _, c := range e.By {
		if !endless && (e.Until == nil || c.Until.After(*e.Until)) {
			e.Until = c.Until
		}
	}
	e.Obstacles = append(e.Obstacles, x.obstacles(len(e.By) > 0)...)
	e.GetsIn = x.getsIn(len(e.By) > 0, endless)
	e.WouldKnock = x.heard && !x.own && !x.unheard && x.broken == "" && x.refused == "" && !x.useless
	return e
}

// getsIn says whether a connection gets in, given what lets it in, if anything; nil where
// that is not known.
func (x *explained) getsIn(letIn, endless bool) *bool {
	no, yes := false, true
	switch {
	case x.broken != "":
		return nil
	case !letIn, !x.running:
		return &no
	case endless:
	case x.kernel.err != nil:
		return nil
	case x.kernel.until.IsZero():
		return &no
	}
	if len(x.silent) == len(x.conf.Ports) {
		return nil
	}
	return &yes
}

// obstacles lists what is in the way, the gravest first.
func (x *explained) obstacles(letIn bool) (all []control.Obstacle) {
	name, s := x.conf.Name, x.standing
	add := func(is bool, code, hint, format string, args ...any) {
		if is {
			all = append(all, control.Obstacle{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint})
		}
	}
	add(x.broken != "", control.ObstacleFence, "doorward status", "the fence is not as it should be, so the wrong people may get in, or "+
		"nobody: %s", x.broken)
	add(s.State == door.Failsafe, control.ObstacleFailsafe, "doorward arm "+name, "the door is in failsafe and ignores knocks: %s", s.Reason)
	add(x.deaf && s.State != door.Failsafe, control.ObstacleDeaf, "journalctl -u doorward", "the door ignores knocks until the daemon has looked for log data, "+
		"which it does when it starts")
	add(s.Waits, control.ObstacleOpening, "doorward status "+name, "it is let in as soon as %s runs", x.service)
	open := fmt.Sprintf("doorward open %s --source %s", name, x.source)
	if s.State == door.Failsafe {
		open = "" // it would be refused
	}
	add(!letIn, control.ObstacleNoGrant, open, "nothing lets it in: neither it nor a prefix that contains it has a grant or is in always")
	for _, p := range s.Penalties {
		all = append(all, x.penalty(p))
	}
	add(x.own, control.ObstacleOwn, "", "it is an address of this machine, whose own knocks do not count")
	add(x.unheard, control.ObstacleListeners, "doorward status", "some knocks cannot be heard: the warnings of doorward status say which")
	add(x.refused != "", control.ObstaclePermission, "doorward doctor", "the daemon may not start %s, so right knocks fail: %s", x.service, x.refused)
	if !letIn || x.own {
		open = "" // already mentioned, or for nobody
	}
	down := fmt.Sprintf("%s does not run, and the door is %s (%s)", x.service, s.State, s.Reason)
	if x.failed && x.detail != "" {
		down += ": " + x.detail
	}
	add(!x.running && x.failed, control.ObstacleFailed, x.why(), "%s", down)
	add(!x.running && !x.failed, control.ObstacleService, open, "%s", down)
	add(x.running && len(x.silent) > 0, control.ObstacleListening, "ss -ltn", "nothing on this machine listens on %s: unless that is forwarded, "+
		"a connection is refused", strings.Join(x.silent, ", "))
	all = append(all, x.kernelDiffers()...)
	return all
}

// why returns what to type to learn why a service does not run.
func (x *explained) why() string {
	if c := x.conf.Service; c != nil && c.Unit != "" {
		return "systemctl status " + c.Unit
	}
	return "doorward log " + x.conf.Name
}

// kernelDiffers says where kernel and daemon disagree.
func (x *explained) kernelDiffers() []control.Obstacle {
	o := control.Obstacle{Code: control.ObstacleKernel, Hint: "doorward explain " + x.source.String() + " " + x.conf.Name}
	switch {
	case x.kernel.err != nil:
		o.Code, o.Message = control.ObstacleUnchecked, "cannot ask the kernel whom it lets in: "+x.kernel.err.Error()
	case !x.differs():
		return nil
	case !x.kernel.until.IsZero():
		o.Message = fmt.Sprintf("the kernel lets %s in, but the daemon knows of no such grant: it will be revoked within seconds",
			door.SourceString(x.kernel.source))
	case x.conf.SingleUse:
		o.Message = "the daemon knows of a grant, but the kernel has none: its one connection was made"
	default:
		o.Message = "the daemon knows of a grant, but the kernel has none: somebody else may have removed it"
	}
	return []control.Obstacle{o}
}

// penalty describes a penalty.
func (x *explained) penalty(p door.Penalty) control.Obstacle {
	whose := "it"
	switch {
	case p.Source == door.Any:
		whose = "everybody"
	case p.Source.Addr().Is6() && p.Source.Bits() < 128:
		whose = "its network " + p.Source.String()
	}
	of := "every knock of the door"
	if p.Name != "" {
		of = "the knock " + p.Name
	}
	return control.Obstacle{Code: control.ObstaclePenalty, Until: &p.Until, Knock: p.Name,
		Message: fmt.Sprintf("%s ignores %s: %s", of, whose, p.Reason),
		Hint:    fmt.Sprintf("doorward arm %s --source %s", x.conf.Name, door.SourceString(p.Source))}
}

// portNames are the ports that a door guards, as status writes them.
func portNames(c config.Door) []string {
	names := []string{}
	for _, p := range c.Ports {
		names = append(names, p.String())
	}
	return names
}
