package client

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/seal"
)

// race is one handshake over each family, at all of a gateway's addresses: the first path
// of a family that is challenged is the family's. One goroutine owns it.
type race struct {
	c       *Client
	k       *Knock
	peer    seal.Peer
	fetched bool // peer's bundle, by this race
	events  chan event
	found   chan found
	proofs  chan proof
	beside  sync.WaitGroup

	began   time.Time
	silent  time.Time // when it is given up that anybody answers
	unnamed int       // hosts that are still being looked up
	names   []error
	starts  []start
	counts  map[bool]int // addresses by whether they are IPv4's
	paths   []*path

	chosen []*path   // those that are challenged, one of each family
	until  time.Time // when the chosen ones are as many as there will be; zero: none is
	proving,
	waking bool
	lost time.Time // when answers to the requests are given up
	last time.Time // when further answers are; zero: there is none yet
}

// found is what a host's name has led to.
type found struct {
	addrs []netip.Addr
	err   error
}

// start is a path that is to be opened later.
type start struct {
	at     netip.AddrPort
	stream bool
	when   time.Time
}

// proof is what the Prover has returned.
type proof struct {
	transcripts []seal.Transcript
	proof       []byte
	err         error
}

func newRace(c *Client, k *Knock) *race {
	return &race{c: c, k: k, peer: k.Profile.Gateway, counts: map[bool]int{},
		events: make(chan event), found: make(chan found), proofs: make(chan proof)}
}

// run races until there is something to say.
func (r *race) run(ctx context.Context) error {
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer r.beside.Wait()
	defer func() {
		cancel()
		for _, p := range r.paths {
			p.die()
		}
	}()
	r.began = time.Now()
	r.silent = r.began.Add(lookupWithin)
	for _, host := range r.k.Profile.Hosts {
		r.unnamed++
		r.beside.Go(func() { r.resolve(ctx, host) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if ended, err := r.judge(ctx, time.Now()); ended {
			return err
		}
		timer.Reset(time.Until(r.due()))
		select {
		case <-outer.Done():
			return outer.Err()
		case <-timer.C:
		case f := <-r.found:
			r.resolved(f)
		case e := <-r.events:
			if err := r.happened(e); err != nil {
				return err
			}
		case p := <-r.proofs:
			if err := r.request(ctx, p); err != nil {
				return err
			}
		}
	}
}

// resolve looks a host up, beside the race.
func (r *race) resolve(ctx context.Context, host string) {
	f := r.c.find(ctx, host)
	select {
	case r.found <- f:
	case <-ctx.Done():
	}
}

// resolved plans the paths to the addresses of a host.
func (r *race) resolved(f found) {
	r.unnamed--
	if f.err != nil {
		r.names = append(r.names, f.err)
	}
	for _, a := range f.addrs {
		a = a.Unmap() // an IPv4-mapped address is reached over IPv4
		at := netip.AddrPortFrom(a, r.k.Profile.Port)
		known := slices.ContainsFunc(r.starts, func(s start) bool { return s.at == at }) ||
			slices.ContainsFunc(r.paths, func(p *path) bool { return p.at == at })
		unwanted := r.k.Family == IPv4 && !a.Is4() || r.k.Family == IPv6 && a.Is4()
		if known || unwanted || r.counts[a.Is4()] >= mostOfEach || r.won(a.Is4()) {
			continue
		}
		when := later(time.Now(), r.began.Add(time.Duration(r.counts[a.Is4()])*nextAddress))
		r.counts[a.Is4()]++
		carriers := r.k.Profile.Carriers
		if slices.Contains(carriers, "udp") || len(carriers) == 0 {
			r.starts = append(r.starts, start{at, false, when})
			when = when.Add(nextCarrier)
		}
		if slices.Contains(carriers, "tcp") {
			r.starts = append(r.starts, start{at, true, when})
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// won says whether a family's path has been chosen.
func (r *race) won(is4 bool) bool {
	return slices.ContainsFunc(r.chosen, func(p *path) bool { return p.is4() == is4 })
}

// due is when something is to be done next, if nothing happens before.
func (r *race) due() time.Time {
	due := r.silent
	if len(r.chosen) > 0 {
		due = r.until
	}
	if r.proving || r.requested() {
		due = r.lost
	}
	if !r.last.IsZero() && r.last.Before(due) {
		due = r.last
	}
	sooner := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	for _, s := range r.starts {
		sooner(s.when)
	}
	for _, p := range r.paths {
		if len(p.sent) > 0 {
			sooner(p.again)
		}
	}
	return due
}

// requested says whether the requests were sent.
func (r *race) requested() bool {
	return slices.ContainsFunc(r.chosen, func(p *path) bool { return p.stage >= requested })
}

// judge does what is due, and says whether the race has ended.
func (r *race) judge(ctx context.Context, now time.Time) (ended bool, err error) {
	r.begin(ctx, now)
	for _, p := range r.paths {
		if len(p.sent) > 0 && !now.Before(p.again) {
			p.sendAgain(now)
		}
	}
	switch {
	case r.k.Prover == nil && r.peer.Bundle != nil:
		return true, nil
	case r.proving:
		return false, nil // Prove ends with its context
	case r.requested():
		return r.judgeAnswers(now)
	case len(r.chosen) > 0:
		if !r.contested() || !now.Before(r.until) || r.single() {
			r.prove(ctx, now)
		}
		return false, nil
	case !now.Before(r.silent), r.hopeless():
		return true, r.nobody()
	}
	return false, nil
}

// begin opens the paths whose time has come.
func (r *race) begin(ctx context.Context, now time.Time) {
	r.starts = slices.DeleteFunc(r.starts, func(s start) bool {
		if now.Before(s.when) {
			return false
		}
		if len(r.paths) == 0 {
			r.silent = now.Add(r.k.Patience)
		}
		r.open(ctx, &path{at: s.at, stream: s.stream})
		return true
	})
}

// open opens a path beside the race.
func (r *race) open(ctx context.Context, p *path) {
	r.paths = append(r.paths, p)
	r.beside.Go(func() { p.open(ctx, r.c.dial, r.events) })
}

// single says whether the request is for one family alone: an address that is named has
// one, whatever the family that it is asked over.
func (r *race) single() bool { return r.k.Request.Address.IsValid() }

// contested says whether another family can still be challenged.
func (r *race) contested() bool {
	return r.unnamed > 0 || slices.ContainsFunc(r.starts, func(s start) bool { return !r.won(s.at.Addr().Is4()) }) ||
		slices.ContainsFunc(r.paths, func(p *path) bool { return p.stage < challenged && !r.won(p.is4()) })
}

// hopeless says whether no path is left that anything could come from.
func (r *race) hopeless() bool {
	return r.unnamed == 0 && len(r.starts) == 0 && !slices.ContainsFunc(r.paths, func(p *path) bool { return p.stage != dead })
}

// happened goes on with a path.
func (r *race) happened(e event) error {
	p, now := e.path, time.Now()
	switch {
	case p.stage == dead:
		if e.conn != nil {
			e.conn.Close()
		}
	case e.conn != nil:
		p.conn = e.conn
		if p.request != nil {
			p.send(now, p.request)
			return nil
		}
		return r.greet(p, now)
	case e.err != nil:
		p.err = e.err
		if e.ended {
			p.die()
		}
	case e.ended:
		p.die()
	case p.stage == asking:
		return r.part(p, e.datagram, now)
	default:
		return r.read(p, e.datagram, now)
	}
	return nil
}

// greet begins a handshake, or asks for the keys that it needs.
func (r *race) greet(p *path, now time.Time) error {
	if r.peer.Bundle == nil {
		p.stage = asking
		var questions [][]byte
		for part := range seal.BundleParts {
			questions = append(questions, seal.AskPart(r.peer, part))
		}
		p.send(now, questions...)
		return nil
	}
	v, err := seal.NewVisitor(r.peer, r.k.Profile.Suite)
	if err != nil {
		return err
	}
	p.v, p.stage, p.helloAt = v, greeting, now
	p.send(now, v.Hello())
	return nil
}

// part takes a part of the gateway's keys. With the last one, all paths go on.
func (r *race) part(p *path, d []byte, now time.Time) error {
	n, of, ok := seal.ReadPart(r.peer, d)
	if !ok {
		return nil
	}
	p.parts[n] = of
	whole := r.peer
	whole.Bundle = slices.Concat(p.parts[:]...)
	if slices.ContainsFunc(p.parts[:], func(b []byte) bool { return b == nil }) {
		return nil
	}
	if !whole.Complete() {
		p.parts = [seal.BundleParts][]byte{} // one of them is somebody else's: ask on
		return nil
	}
	r.peer, r.fetched = whole, true
	if r.k.Prover == nil {
		return nil
	}
	for _, p := range r.paths {
		if p.stage != asking {
			continue
		}
		if err := r.greet(p, now); err != nil {
			return err
		}
	}
	return nil
}

// read reads what came on a path whose handshake has begun.
func (r *race) read(p *path, d []byte, now time.Time) error {
	if p.v == nil {
		return nil
	}
	e, a := p.v.Read(d)
	switch {
	case e == seal.Busy && p.busy < mostBusy:
		p.busy++
		p.send(now, p.v.Hello())
	case e == seal.Challenged:
		r.challenged(p, now)
	case e == seal.Answered:
		r.answered(p, a, now)
	}
	return nil
}

// challenged chooses a path for its family.
func (r *race) challenged(p *path, now time.Time) {
	p.quiet()
	p.stage, p.roundTrip = challenged, now.Sub(p.helloAt)
	if r.won(p.is4()) || r.proving || r.requested() {
		p.die()
		return
	}
	r.chosen = append(r.chosen, p)
	if r.until.IsZero() {
		r.until = now.Add(otherFamily + min(p.roundTrip, otherFamily))
	}
	r.starts = slices.DeleteFunc(r.starts, func(s start) bool { return s.at.Addr().Is4() == p.is4() })
	for _, other := range r.paths {
		if other != p && other.is4() == p.is4() {
			other.die()
		}
	}
}
