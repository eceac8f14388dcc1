package touch

import (
	"net/netip"
	"time"
)

// Limits of the memory that strangers can take. A full prefix pushes out its own source
// that has been quiet longest, without a verdict, and nobody else's: an owner of a /48
// takes at most one in 256. Only when everything is full, which takes 65,536 IPv4
// addresses or 256 networks of a /48, the source that has been quiet longest of all is
// pushed out.
const (
	maxSources = 1 << 16
	max48      = 256 // the most that a site is given (RFC 6177)
	max56      = 64  // what a home is given
)

// level is one of the lists that a source is in.
type level int

// The lists: of all sources, and of those in one /48 and one /56.
const (
	all level = iota
	of48
	of56
	levels
)

// bits and most of a level's prefixes.
var (
	bits = [levels]int{of48: 48, of56: 56}
	most = [levels]int{all: maxSources, of48: max48, of56: max56}
)

// progress is what one source has touched.
type progress struct {
	links  [levels]links
	who    netip.Addr
	last   netip.Addr // whose touch was the latest
	due    time.Time  // the first moment at which it is judged or forgotten without a further touch
	begun  time.Time  // when the latest knock began
	judged bool       // it has had its verdict, and is to be forgotten

	unproven bool

	// Of rules that follow the knocks of a source:
	marks  []mark
	rights int       // right knocks so far
	fresh  time.Time // until when its touches may be leftovers of right ones

	// Of rules that judge a knock as a whole:
	latest  time.Time
	touched []uint16 // in order, each port once
}

// reach returns the i-th mark, with those before it.
func (p *progress) reach(i int) *mark {
	for i >= len(p.marks) {
		p.marks = append(p.marks, mark{})
	}
	return &p.marks[i]
}

// links are a source's neighbours in one list; in is nil while it is in none.
type links struct {
	prev, next *progress
	in         *list
}

// list is a list of sources by due, soonest first.
type list struct {
	level       level
	first, last *progress
	n           int
}

func (l *list) push(p *progress) {
	p.links[l.level] = links{prev: l.last, in: l}
	if l.last == nil {
		l.first = p
	} else {
		l.last.links[l.level].next = p
	}
	l.last = p
	l.n++
}

func (l *list) remove(p *progress) {
	at := p.links[l.level]
	if at.prev == nil {
		l.first = at.next
	} else {
		at.prev.links[l.level].next = at.next
	}
	if at.next == nil {
		l.last = at.prev
	} else {
		at.next.links[l.level].prev = at.prev
	}
	p.links[l.level] = links{}
	l.n--
}

// sources holds all sources whose touches are remembered.
type sources struct {
	whole list
	of    map[netip.Addr]*progress
	near  map[netip.Prefix]*list // those of a /48 or /56
	work  int                    // lists and marks looked at so far, for tests of what a touch costs
}

func newSources() sources {
	return sources{of: make(map[netip.Addr]*progress), near: make(map[netip.Prefix]*list)}
}

// first returns the source that is due first, nil for none.
func (s *sources) first() *progress { return s.whole.first }

// renew gives a source a new due time, which is the latest of all: all get the same time
// from now, so the lists stay sorted. A new source pushes another out if there is no more
// room.
func (s *sources) renew(p *progress, due time.Time) {
	p.due = due
	if p.links[all].in == nil {
		s.makeRoom(p.who)
		s.of[p.who] = p
	}
	for l := range levels {
		s.work++
		in := p.links[l].in
		if in != nil {
			in.remove(p)
		} else if in = s.list(l, p.who); in == nil {
			continue
		}
		in.push(p)
	}
}

// list returns the list of a level that a source belongs to, nil for none.
func (s *sources) list(l level, who netip.Addr) *list {
	if l == all {
		return &s.whole
	}
	if !who.Is6() {
		return nil
	}
	prefix := netip.PrefixFrom(who, bits[l]).Masked()
	in := s.near[prefix]
	if in == nil {
		in = &list{level: l}
		s.near[prefix] = in
	}
	return in
}

// makeRoom pushes out at most one source: the quietest of the narrowest full prefix.
func (s *sources) makeRoom(who netip.Addr) {
	for l := levels - 1; l >= all; l-- {
		s.work++
		if in := s.list(l, who); in != nil && in.n >= most[l] {
			s.forget(in.first)
			return
		}
	}
}

func (s *sources) forget(p *progress) {
	if p.links[all].in == nil {
		return
	}
	delete(s.of, p.who)
	for l := range levels {
		s.work++
		in := p.links[l].in
		if in == nil {
			continue
		}
		in.remove(p)
		if l != all && in.n == 0 {
			delete(s.near, netip.PrefixFrom(p.who, bits[l]).Masked())
		}
	}
}
