package gateway

import (
	"slices"
	"time"

	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
)

// The kernel's grants and the doors' are compared in the background, a page at a time.
// The doors' grants are queried one by one, which is exact, and costs time for each. The
// kernel's are listed to find those that no door knows, and these are then queried, too,
// since a long list does not show a single moment. Knocks come between any two pages;
// grants given or revoked while a page is being queried are left out, since the answer
// may be older.
//
// The kernel walks a set from its beginning for each 32 KiB of a list: a million take a
// minute of a core's time, and changes of grants wait for it now and then. So doors with
// very many are not listed at a start. A grant given there in the moment before a crash
// stands, unknown, until it ends by itself or with the door, or who may knock changes.
const (
	pageSize  = 1 << 9
	maxListed = 1 << 16 // grants of a door; a walk takes a few milliseconds
	// expirySlack is how much earlier than the doors' clock the kernel may end
	// a grant without somebody else having ended it.
	expirySlack = time.Second
)

// Why a grant that the kernel no longer has has ended.
const (
	spentReason   = "it was spent by its first connection"
	removedReason = "somebody else removed it from the kernel"
	lostReason    = "the kernel lost it while no daemon ran"
)

// comparison is a comparison that is under way.
type comparison struct {
	whole   bool       // all doors' grants, and those that no door knows; else those that doors with single_use know
	doors   []string   // still to come
	from    int        // where the page in the first of them begins
	next    int        // and the page after it
	listed  bool       // the kernel's grants were listed, so that these are all
	strange []grantKey // that no door knows
	failed  bool       // the kernel did not answer; upkeep begins another
}

// page is a query to the kernel.
type page struct {
	of      *comparison
	about   []grantKey
	changed map[grantKey]bool // since the query, or about to be then; without a source: all of a door
	void    bool              // the fence was raised meanwhile
}

// markChanged notes that a grant, or without a source all grants of a door, has changed.
func (p *page) markChanged(k grantKey) {
	if p != nil {
		p.changed[k] = true
	}
}

// invalidate notes that the answer no longer means anything.
func (p *page) invalidate() {
	if p != nil {
		p.void = true
	}
}

func (p *page) hasChanged(k grantKey) bool { return p.changed[k] || p.changed[grantKey{door: k.door}] }

// compareAll requests a comparison of all grants; one that is under way begins again.
func (g *Gateway) compareAll() { g.uncompared, g.comparison = true, nil }

// compareOn begins a comparison that is due, or continues the one under way, unless a
// query is already running. It is called at the end of a turn, so that a turn has one
// page at most.
func (g *Gateway) compareOn(now time.Time) {
	if g.changes.page != nil || g.fenceProblem != "" || g.fencing.busy {
		return
	}
	if g.comparison == nil && g.uncompared {
		g.comparison = g.newComparison(true)
	}
	switch s := g.comparison; {
	case s == nil || s.failed:
	case g.askNext(now, s):
	case s.whole && !s.listed && g.list(s):
	default:
		if g.comparison = nil; s.whole {
			g.uncompared, g.neverCompared, g.grantsLost = false, false, false
		}
	}
}

func (g *Gateway) newComparison(whole bool) *comparison {
	s := &comparison{whole: whole}
	for _, d := range g.doors {
		s.doors = append(s.doors, d.name())
	}
	return s
}

// lookForSpent looks for grants of doors with single_use that are gone.
func (g *Gateway) lookForSpent() {
	if g.comparison == nil || g.comparison.failed {
		g.comparison = g.newComparison(g.uncompared)
	}
}

// askNext asks the kernel about the next page, and says whether there is one.
func (g *Gateway) askNext(now time.Time, s *comparison) bool {
	about := g.nextKnown(now, s)
	if about == nil && len(s.strange) > 0 {
		about = s.strange[:min(len(s.strange), pageSize)]
	}
	if about == nil {
		return false
	}
	p := &page{of: s, about: about, changed: make(map[grantKey]bool)}
	for k := range g.changes.grants {
		p.markChanged(k) // the kernel has not accepted it yet
	}
	for name := range g.changes.emptied {
		p.markChanged(grantKey{door: name})
	}
	g.changes.page = p
	g.async(func() event {
		ends, err := g.kernelEnds(about)
		return func(now time.Time) { g.answered(now, p, ends, err) }
	})
	return true
}

// nextKnown is the next page of what the doors know, nil after the last. What is
// about to run out is left to the doors' own clock.
func (g *Gateway) nextKnown(now time.Time, s *comparison) (about []grantKey) {
	for ; len(s.doors) > 0; s.turn() {
		d := g.door(s.doors[0])
		if s.next = 0; d == nil || !s.whole && !d.conf.SingleUse {
			continue
		}
		var grants []door.Grant
		grants, s.next = d.door.Grants(now, s.from, pageSize)
		for _, f := range grants {
			if f.Until.Sub(now) > expirySlack {
				about = append(about, grantKey{d.name(), f.Source})
			}
		}
		if about != nil {
			return about
		}
	}
	return nil
}

// turn moves on to the next page.
func (s *comparison) turn() {
	if s.from = s.next; s.from == 0 {
		s.doors = s.doors[1:]
	}
}

// kernelEnds asks the kernel when grants end, everybody's with the first of its two
// families. It is called in the background.
func (g *Gateway) kernelEnds(about []grantKey) ([]time.Time, error) {
	var grants []fence.Grant
	for _, k := range about {
		for _, source := range families(k.source) {
			grants = append(grants, fence.Grant{Door: k.door, Source: source})
		}
	}
	all, err := g.world.Fence.Ends(grants)
	if err != nil {
		return nil, err
	}
	ends := make([]time.Time, len(about))
	for i, k := range about {
		n := len(families(k.source))
		ends[i] = slices.MinFunc(all[:n], time.Time.Compare)
		all = all[n:]
	}
	return ends, nil
}

// answered handles the kernel's answer about a page, once it is known whether the fence
// stood.
func (g *Gateway) answered(now time.Time, p *page, ends []time.Time, err error) {
	if f := &g.fencing; f.busy {
		f.waiting = append(f.waiting, func(now time.Time) { g.answered(now, p, ends, err) })
		return
	}
	g.changes.page = nil
	s := p.of
	switch {
	case s != g.comparison || p.void || g.fenceProblem != "":
	case err != nil:
		g.log.Warn("cannot tell which grants the kernel has; asking again", "err", err)
		s.failed = true
	default:
		for i, k := range p.about {
			if !p.hasChanged(k) {
				g.compare(now, k, ends[i])
			}
		}
		if len(s.doors) > 0 {
			s.turn()
		} else {
			s.strange = s.strange[len(p.about):]
		}
	}
}

// compare makes the doors and the kernel agree about one grant; kernel is when it ends
// there, zero if it is not there. The kernel is right about what has ended, unless the
// grant went with the table; the doors are right about what stands, except at the start,
// when a crash may have kept them from learning of it. Nobody knows whether a single-use
// grant that went with the table was spent, so it is not given again.
func (g *Gateway) compare(now time.Time, k grantKey, kernel time.Time) {
	d := g.door(k.door)
	if d == nil {
		return
	}
	until := d.door.GrantEnd(now, k.source)
	left, off := until.Sub(now), kernel.Sub(until)
	switch {
	case until.IsZero() && kernel.IsZero():
	case until.IsZero() && !(g.neverCompared && d.door.Saved().State == door.Open && !d.disowned):
		g.changes.add(k.door, door.Revoke{Source: k.source})
	case until.IsZero(), g.neverCompared && !kernel.IsZero() && off > expirySlack && !d.disowned:
		d.apply(d.door.Adopt(now, door.Claim{Source: k.source, By: nobodys, Until: kernel}))
	case !kernel.IsZero() && g.neverCompared && !(off > expirySlack):
		d.door.EndsAt(now, k.source, kernel)
	case !kernel.IsZero() && off > expirySlack: // somebody else extended it
		g.changes.add(k.door, door.Give{Source: k.source, Until: until})
	case !kernel.IsZero() || left <= expirySlack:
	case g.grantsLost && !d.conf.SingleUse:
		g.changes.add(k.door, door.Give{Source: k.source, Until: until})
	default:
		d.apply(d.door.Ended(now, k.source, g.whyEnded(d)))
		if k.source == door.Any {
			g.changes.add(k.door, door.Revoke{Source: door.Any}) // of whichever family is left
		}
	}
}

// whyEnded says why a grant of a door has left the kernel before its time.
func (g *Gateway) whyEnded(d *guarded) string {
	switch {
	case g.neverCompared:
		return lostReason
	case d.conf.SingleUse:
		return spentReason
	}
	return removedReason
}

// list begins to list the kernel's grants, unless a listing for an abandoned comparison
// is still running. It says whether there is anything to wait for.
func (g *Gateway) list(s *comparison) bool {
	var doors []string
	for _, d := range g.doors {
		if d.unlisted = g.neverCompared && d.door.Granted() > maxListed; !d.unlisted {
			doors = append(doors, d.name())
		}
	}
	if g.listing || len(doors) == 0 {
		return g.listing
	}
	g.listing = true
	g.async(func() event {
		var err error
		piece := make([]fence.Grant, 0, pageSize)
		for f, problem := range g.world.Fence.Grants(doors) {
			if err = problem; err != nil {
				break
			}
			if piece = append(piece, f); len(piece) == pageSize {
				full := slices.Clone(piece)
				g.post(func(time.Time) { g.sift(s, full) })
				piece = piece[:0]
			}
		}
		return func(time.Time) {
			g.listing = false
			if s == g.comparison && err != nil {
				g.log.Warn("cannot list the kernel's grants; trying again", "err", err)
				s.failed = true
			}
			g.sift(s, piece)
			s.listed = true
		}
	})
	return true
}

// sift keeps of some of the kernel's grants those that no door knows.
func (g *Gateway) sift(s *comparison, grants []fence.Grant) {
	if s != g.comparison {
		return
	}
	now := g.world.Now()
	var d *guarded
	for _, f := range grants {
		if d == nil || d.name() != f.Door {
			d = g.door(f.Door)
		}
		k := grantKey{f.Door, f.Source}
		if k.source.Bits() == 0 {
			k.source = door.Any
		}
		if d == nil || !d.door.GrantEnd(now, k.source).IsZero() || k.source == door.Any && slices.Contains(s.strange, k) {
			continue
		}
		s.strange = append(s.strange, k)
	}
}
