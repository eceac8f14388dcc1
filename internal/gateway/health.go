package gateway

import (
	"cmp"
	"slices"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
)

// health is what the loop knows about whether the doors are guarded and usable.
type health struct {
	fence string // why the fence is down, "" while it is up
	store string // why a restart would forget what happens now, "" when it would not
	doors []doorHealth
}

// doorHealth is one door's. Each of the other fields says why something is so, "" when it
// is not.
type doorHealth struct {
	name      string
	failsafe  string // the door ignores knocks, since there is no log data
	unstarted string // its service could not be started, and does not run
	unheard   string // no knock can be heard at it
}

// problems lists what keeps doors from being guarded, or from being used, the gravest
// first.
func (h health) problems() []control.Problem {
	all := []control.Problem{}
	add := func(code, door, text, why string) {
		if why != "" {
			all = append(all, control.Problem{Code: code, Door: door, Message: text + ": " + why})
		}
	}
	add(control.ProblemFence, "", "the doors are not guarded, since the fence is down", h.fence)
	for _, d := range h.doors {
		add(control.ProblemFailsafe, d.name, "door "+d.name+" is in failsafe and ignores knocks", d.failsafe)
		add(control.ProblemService, d.name, "the service of door "+d.name+" could not be started, so right knocks do not open it", d.unstarted)
		add(control.ProblemListeners, d.name, "nobody can knock at door "+d.name, d.unheard)
	}
	add(control.ProblemStore, "", "nothing is saved: a restart would forget what happens now", h.store)
	return all
}

// problems returns the current ones.
func (g *Gateway) problems() []control.Problem {
	h := health{fence: g.fenceProblem, store: cmp.Or(g.storeProblem, g.diskProblem, g.slowWarning())}
	for _, d := range g.doors {
		h.doors = append(h.doors, d.health())
	}
	return h.problems()
}

// health returns one door's.
func (d *guarded) health() doorHealth {
	h := doorHealth{name: d.name()}
	saved := d.door.Saved()
	if saved.State == door.Failsafe {
		h.failsafe = saved.Reason
		return h // which is why it ignores knocks
	}
	if d.service != nil {
		h.unstarted = d.service.unstarted()
	}
	switch {
	case len(d.knocks) == 0 || saved.State == door.Open && saved.ForAll || !d.door.Looked():
	case !slices.ContainsFunc(d.knocks, func(k heardKnock) bool { return !d.door.Mute(k.conf.Name) }):
		h.unheard = "after a wrong knock it ignores everybody; doorward status " + d.name() + " says until when"
	case !slices.ContainsFunc(d.knocks, func(k heardKnock) bool { return d.gw.listeners.allHeard(k) }):
		h.unheard = "ports of its knocks cannot be listened on; the warnings say why"
	}
	return h
}

// allHeard says whether the listeners have every place of a right knock.
func (l *listeners) allHeard(k heardKnock) bool {
	if len(l.missing) == 0 {
		return true
	}
	needs := k.conf.Hears()
	if rule, ok := k.conf.Rule.(knock.Touched); ok { // the other ports are there to be left alone
		needs = nil
		for _, p := range rule.Touches() {
			needs = append(needs, knock.Place{Medium: knock.Connections, Port: p})
		}
	}
	return !slices.ContainsFunc(needs, func(p knock.Place) bool { return slices.Contains(l.missing, p.AsPort()) })
}

// unstarted says why the service does not run although it should, "" if it does, or
// need not.
func (c *controller) unstarted() string {
	if c.running {
		return ""
	}
	return cmp.Or(c.metered.failed, c.permission.refused)
}
