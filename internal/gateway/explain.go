package gateway

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/service"
)

// How the trail is searched for a source's refusals.
const (
	refusalsTold     = 8
	refusalsSearched = 1000 // records of the source, of which some are of other events
)

// explained is the material for an explanation of a source at a door. What the loop knows
// is read in a turn, the rest outside the loop.
type explained struct {
	conf     config.Door
	source   netip.Addr
	at       time.Time // when the loop was asked
	standing door.Standing
	deaf     bool     // the door has not looked for log data yet
	heard    bool     // one of the knocks hears the source
	service  string   // "" for none
	running  bool     // the service was last seen to run
	failed   bool     // it died, or did not start
	detail   string   // what its manager says about it, or why it did not start; "" for nothing
	useless  bool     // it could not be started the last time, so that right knocks come to nothing
	refused  string   // why the daemon may not start it, "" when it may
	unheard  bool     // some knock of some door cannot be heard
	broken   string   // what differs in the fence, "" for nothing
	own      bool     // the source is this machine
	kernel   kernelIn // what the kernel says
	silent   []string // ports of the door where nothing of this machine listens
	refusals []audit.Record
}

// kernelIn is which grant lets a source in, as far as the kernel knows.
type kernelIn struct {
	source netip.Prefix
	until  time.Time // zero: none does
	err    error     // it does not answer
}

// Explain says what would happen to a new connection from a source (control.Backend). The
// doors are asked in one turn, which takes a few dozen look-ups for each; the kernel,
// which has the last word, and the trail are asked in the background.
func (g *Gateway) Explain(ctx context.Context, source netip.Addr, name string) (control.Explanation, error) {
	e := control.Explanation{Source: source.String(), Config: g.opts.Path,
		Doors: []control.ExplainedFor{}}
	doors, err := g.asked(ctx, source, name, &e)
	if err != nil {
		return control.Explanation{}, err
	}
	// A grant given or revoked between the two queries looks like a difference.
	for tries := 0; slices.ContainsFunc(doors, (*explained).differs) && tries < 2; tries++ {
		if doors, err = g.asked(ctx, source, name, &e); err != nil {
			return control.Explanation{}, err
		}
	}
	own, err := g.world.Own(source)
	if err != nil {
		g.log.Warn("cannot tell which addresses are this machine's", "err", err)
	}
	refusals, err := g.refusalsOf(source, name)
	if err != nil {
		e.Unread = err.Error()
	}
	for _, d := range doors {
		d.own, d.refusals = own, refusals[d.conf.Name]
		for _, r := range d.conf.Ports {
			if r.Proto == port.TCP && !g.world.Listening(r) {
				d.silent = append(d.silent, r.String())
			}
		}
		e.Doors = append(e.Doors, d.explain())
	}
	return e, nil
}

// asked asks the doors in a turn, and then the kernel. It notes in e what belongs to no
// door.
func (g *Gateway) asked(ctx context.Context, source netip.Addr, name string, e *control.Explanation) ([]*explained, error) {
	type said struct {
		doors   []*explained
		at      time.Time
		pending *control.Pending
	}
	s, err := await(ctx, g, func(now time.Time, answer func(said, error)) {
		doors, err := g.explained(now, source, name)
		answer(said{doors, now, g.pending()}, err)
	})
	if err != nil {
		return nil, err
	}
	e.Time, e.Pending = s.at, s.pending
	for _, d := range s.doors {
		d.kernel = g.kernelLetsIn(d.conf.Name, source)
	}
	return s.doors, nil
}

// explained returns what the loop knows.
func (g *Gateway) explained(now time.Time, source netip.Addr, name string) ([]*explained, error) {
	doors := g.doors
	if name != "" {
		d, err := g.named(name)
		if err != nil {
			return nil, err
		}
		doors = []*guarded{d}
	}
	all := make([]*explained, len(doors))
	for i, d := range doors {
		x := &explained{conf: d.conf, source: source, at: now, standing: d.door.Explain(now, door.Source(source)), deaf: !d.door.Looked(),
			running: true, broken: g.fenceProblem, unheard: g.listeners.problem != ""}
		for j := range d.knocks {
			k := &d.knocks[j]
			x.heard = x.heard || !d.door.Deaf(k.conf.Name, k.source(source))
		}
		if s := d.service; s != nil {
			x.service, x.running, x.refused = s.svc.String(), s.running, s.permission.refused
			x.failed = s.news.State == service.Failed || x.standing.Reason == door.NotStarted
			x.detail, x.useless = cmp.Or(s.news.Detail, s.metered.failed), !s.running && s.metered.failed != ""
		}
		all[i] = x
	}
	return all, nil
}

// kernelLetsIn asks the kernel for each grant that would let a source in.
func (g *Gateway) kernelLetsIn(name string, source netip.Addr) kernelIn {
	var grants []fence.Grant
	for bits := source.BitLen(); bits >= 0; bits-- {
		grants = append(grants, fence.Grant{Door: name, Source: netip.PrefixFrom(source, bits).Masked()})
	}
	ends, err := g.world.Fence.Ends(grants)
	if err != nil {
		return kernelIn{err: err}
	}
	var in kernelIn
	for i, end := range ends {
		if end.After(in.until) {
			in = kernelIn{source: grants[i].Source, until: end}
		}
	}
	if in.source.IsValid() && in.source.Bits() == 0 {
		in.source = door.Any
	}
	return in
}

// refusalsOf finds the latest refusals that a source had a part in, by door, newest
// first. The trail is read once for all doors.
func (g *Gateway) refusalsOf(source netip.Addr, name string) (map[string][]audit.Record, error) {
	page, err := g.Log(control.LogQuery{Door: name, Source: source.String(), Events: []string{audit.EventRefused}, Limit: refusalsSearched})
	of := make(map[string][]audit.Record)
	for _, r := range slices.Backward(page.Records) {
		if r.Event == audit.EventRefused && len(of[r.Door]) < refusalsTold {
			of[r.Door] = append(of[r.Door], r)
		}
	}
	return of, err
}

// pending is the configuration that waits to be confirmed, nil for none.
func (g *Gateway) pending() *control.Pending {
	if g.applied.Pending == nil {
		return nil
	}
	return &control.Pending{ID: g.applied.ID, Until: g.applied.Deadline, By: g.applied.By}
}
