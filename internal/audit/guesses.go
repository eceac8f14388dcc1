package audit

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Bounds of what Guesses remembers: the latest hour in parts of five minutes and the
// latest day in parts of an hour, each plus the part that is not over yet.
const (
	hourParts    = 13
	hourPart     = 5 * time.Minute
	dayParts     = 25
	dayPart      = time.Hour
	partPrefixes = 32 // prefixes that are counted separately in a part
	topPrefixes  = 10 // prefixes that a Guessed lists
)

// Guesses counts a door's refused knocks over the last hour and the last day, and
// from which prefixes (IPv4 /24, IPv6 /48) most of them came. Whatever strangers send,
// it looks at no more than 64 counters for a refusal and takes up no more than 32 KiB, a snapshot included.
// So not every prefix is counted exactly: those that are refused most often are never
// missed, and each has the amount by which its count may be too high. It is the
// algorithm Space-Saving (Metwally, Agrawal, El Abbadi: Efficient Computation of
// Frequent and Top-k Elements in Data Streams, 2005), once for each part.
//
// It has no clock: a record with an earlier time than the latest is counted with the
// latest. It is not safe for concurrent use.
type Guesses struct {
	began     time.Time
	before    *Guesses // what was refused before began, nil if that is not known
	hour, day parts
	taken     *Guesses // the latest snapshot, nil if something was counted since
	looks     int      // how many counters were looked at, for tests of what a refusal costs
}

// Guessed is what was refused in a span of time.
type Guessed struct {
	Since   time.Time // when it begins: at most five minutes earlier than an hour ago, or an hour earlier than a day ago
	Refused uint64
	Top     []GuessedFrom // at most ten, in descending order of Refused less Error
}

// GuessedFrom is how many refused knocks came from one prefix: at most Refused, and at
// least Refused less Error.
type GuessedFrom struct {
	Prefix         string // "any" for knocks that belong to everybody
	Refused, Error uint64
}

// NewGuesses returns Guesses that count from now on.
func NewGuesses(now time.Time) *Guesses {
	return &Guesses{began: now,
		hour: parts{length: hourPart, of: make([]*part, hourParts)},
		day:  parts{length: dayPart, of: make([]*part, dayParts)}}
}

// Began returns when they began to count.
func (g *Guesses) Began() time.Time { return g.began }

// Add counts a record if it is of a refused knock, or of many that Sums summed up. The
// penalty of a whole network is not counted: the knocks that led to it are.
func (g *Guesses) Add(r Record) {
	if r.Event != EventRefused {
		return
	}
	from, known := originPrefix(r.Source)
	if !known && r.Count > 0 {
		from, known = networkOf(r.Source)
	} else if !known {
		return
	}
	g.taken = nil
	at := r.Time.Sub(g.began)
	for _, p := range []*part{g.hour.at(at), g.day.at(at)} {
		p.refused += r.Times()
		if known {
			g.looks += p.add(from, r.Times())
		} else {
			p.hidden += r.Times()
		}
	}
}

// After returns g, preceded by before. Neither of them may change any more.
func (g *Guesses) After(before *Guesses) *Guesses {
	return &Guesses{began: g.began, before: before, hour: g.hour, day: g.day}
}

// Snapshot returns a copy of g as it is now, for use in other goroutines, which must not
// change it. It copies only two of the parts, and nothing if nothing was counted since the
// snapshot before.
func (g *Guesses) Snapshot() *Guesses {
	if g.taken == nil {
		g.taken = &Guesses{began: g.began, hour: g.hour.snapshot(), day: g.day.snapshot()}
	}
	return g.taken
}

// snapshot copies the part that is still being counted in. The others do not change any
// more.
func (ps *parts) snapshot() parts {
	s := *ps
	s.of = slices.Clone(ps.of)
	if latest := &s.of[ps.latest%int64(len(ps.of))]; *latest != nil {
		p := **latest
		*latest = &p
	}
	return s
}

// Hour returns what was refused in the last hour up to now.
func (g *Guesses) Hour(now time.Time) Guessed {
	return g.guessed(now, func(g *Guesses) *parts { return &g.hour })
}

// Day returns what was refused in the last day up to now.
func (g *Guesses) Day(now time.Time) Guessed {
	return g.guessed(now, func(g *Guesses) *parts { return &g.day })
}

// guessed adds up the parts of a span, and those of g.before if it reaches back that far.
// In a part that has no counter for a prefix, as many as its least counter has may have
// come from there.
func (g *Guesses) guessed(now time.Time, span func(*Guesses) *parts) Guessed {
	all, since := span(g).within(now.Sub(g.began))
	begins := g.began.Add(since)
	if g.before != nil && since == 0 {
		earlier, from := span(g.before).within(now.Sub(g.before.began))
		if at := g.before.began.Add(from); !at.After(begins) {
			all, begins = append(all, earlier...), at
		}
	}
	told := Guessed{Since: now.Add(-now.Sub(begins)), Top: []GuessedFrom{}}
	var counts []bounds
	var elsewhere uint64 // the most that may have come from a prefix that no part counts
	for _, p := range all {
		least := p.least()
		told.Refused += p.refused
		elsewhere += least + p.hidden
		for _, c := range p.counts[:p.used] {
			counts = append(counts, bounds{c.from, c.n - c.over, c.n - least})
		}
	}
	counts = summed(counts)
	slices.SortFunc(counts, func(a, b bounds) int {
		return cmp.Or(cmp.Compare(b.least, a.least), cmp.Compare(b.more, a.more), bytes.Compare(a.from[:], b.from[:]))
	})
	for _, b := range counts[:min(len(counts), topPrefixes)] {
		most := min(told.Refused, elsewhere+b.more)
		told.Top = append(told.Top, GuessedFrom{b.from.String(), most, most - b.least})
	}
	return told
}

// parts are the latest parts of time, in a ring.
type parts struct {
	length time.Duration
	of     []*part // part n has the index n modulo len(of); nil if nothing was refused in it
	latest int64   // number of the latest part
}

// at returns the part for the time since the beginning, which becomes the latest; if
// there is a later one already, it returns that.
func (ps *parts) at(since time.Duration) *part {
	ps.turn(since)
	p := &ps.of[ps.latest%int64(len(ps.of))]
	if *p == nil {
		*p = new(part)
	}
	return *p
}

// turn forgets the parts that are too old at a time since the beginning.
func (ps *parts) turn(since time.Duration) {
	n, all := int64(since/ps.length), int64(len(ps.of))
	for i := max(ps.latest+1, n-all+1); i <= n; i++ {
		ps.of[i%all] = nil
	}
	ps.latest = max(ps.latest, n)
}

// within returns the parts that there are at a time since the beginning, and when the
// first that there could be begins.
func (ps *parts) within(since time.Duration) (all []*part, begins time.Duration) {
	n, most := max(ps.latest, int64(since/ps.length)), int64(len(ps.of))
	first := max(0, n-most+1)
	for i := first; i <= ps.latest; i++ {
		if p := ps.of[i%most]; p != nil {
			all = append(all, p)
		}
	}
	return all, min(time.Duration(first)*ps.length, max(0, since))
}

// bounds is how many refusals came from a prefix: at least least, and at most more in
// addition to what may have come from any prefix without a counter.
type bounds struct {
	from        origin
	least, more uint64
}

// summed adds up the bounds of each prefix.
func summed(all []bounds) []bounds {
	slices.SortFunc(all, func(a, b bounds) int { return bytes.Compare(a.from[:], b.from[:]) })
	sums := all[:0]
	for _, b := range all {
		if last := len(sums) - 1; last >= 0 && sums[last].from == b.from {
			sums[last].least += b.least
			sums[last].more += b.more
			continue
		}
		sums = append(sums, b)
	}
	return sums
}

// part is what was refused in a part of time.
type part struct {
	refused uint64
	hidden  uint64 // how many of those came from nobody knows where
	used    int
	counts  [partPrefixes]originCount
}

// originCount is how many refusals came from one prefix: at most n, and at least n-over.
type originCount struct {
	from    origin
	n, over uint64
}

// add counts refusals, and returns how many counters it looked at. If all counters belong
// to other prefixes, the least one is taken over.
func (p *part) add(from origin, times uint64) (looks int) {
	least := 0
	for i := range p.counts[:p.used] {
		c := &p.counts[i]
		if c.from == from {
			c.n += times
			return i + 1
		}
		if c.n < p.counts[least].n {
			least = i
		}
	}
	if p.used < len(p.counts) {
		p.counts[p.used] = originCount{from: from, n: times}
		p.used++
		return p.used
	}
	n := p.counts[least].n
	p.counts[least] = originCount{from: from, n: n + times, over: n}
	return p.used
}

// least returns how many refusals may have come from a prefix without a counter: none
// while there are unused counters.
func (p *part) least() uint64 {
	if p.used < len(p.counts) {
		return 0
	}
	return slices.MinFunc(p.counts[:], func(a, b originCount) int { return cmp.Compare(a.n, b.n) }).n
}

// origin is a prefix in eight bytes: its kind, and an IPv4 /24 or an IPv6 /48.
type origin [8]byte

// The kinds of origin.
const (
	fromAnybody = iota
	fromIPv4
	fromIPv6
)

// originPrefix returns where a refused knock came from; false if source is not one of a
// single knock.
func originPrefix(source string) (origin, bool) {
	if source == "any" {
		return origin{fromAnybody}, true
	}
	a, err := netip.ParseAddr(source)
	return originOf(a), err == nil
}

// networkOf returns the origin that a network lies in; false if it is too large for one,
// or not a network.
func networkOf(source string) (origin, bool) {
	p, err := netip.ParsePrefix(source)
	if err != nil || p.Addr().Is4() && p.Bits() < lenIPv4 || p.Addr().Is6() && p.Bits() < lenIPv6 {
		return origin{}, false
	}
	return originOf(p.Addr()), true
}

func originOf(a netip.Addr) (o origin) {
	if a.Is4() {
		four := a.As4()
		return origin{fromIPv4, 1: four[0], 2: four[1], 3: four[2]}
	}
	six := a.As16()
	o[0] = fromIPv6
	copy(o[1:], six[:lenIPv6/8])
	return o
}

// String returns the prefix, or "any".
func (o origin) String() string {
	switch o[0] {
	case fromIPv4:
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{o[1], o[2], o[3]}), lenIPv4).String()
	case fromIPv6:
		var six [16]byte
		copy(six[:], o[1:1+lenIPv6/8])
		return netip.PrefixFrom(netip.AddrFrom16(six), lenIPv6).String()
	}
	return "any"
}
