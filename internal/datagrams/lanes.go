//go:build linux

package datagrams

import (
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// lanes is how many lanes a class has. Of ten prefixes that flood it, one shares the lane
// of a given visitor for one second in thirteen.
const lanes = 128

// class is what waits of one rank at one place, in lanes by the prefixes that it came
// from, so that no prefix crowds out another.
type class struct {
	lanes  [lanes][]*waiting // each oldest first
	n      int               // in all of them
	last   int               // the lane that was served last
	spread spread
}

// room returns an entry for one more datagram, behind all others of its source: a new one
// while there are fewer than most, else one whose datagram is thrown away for it. nil:
// the new datagram is thrown away.
func (c *class) room(source netip.Addr, most int, now time.Time) *waiting {
	if c.spread.fresh(now) {
		c.respread()
	}
	lane := c.spread.of(source, lanes)
	var w *waiting
	if c.n < most {
		w = new(waiting)
		c.n++
	} else if w = c.crowdOut(lane); w == nil {
		return nil
	}
	c.lanes[lane] = append(c.lanes[lane], w)
	return w
}

// respread moves all that waits to the lanes of a fresh seed. What a source sent stays in
// its order.
func (c *class) respread() {
	all := make([]*waiting, 0, c.n)
	for i := range c.lanes {
		all = append(all, c.lanes[i]...)
	}
	n := c.n
	c.clear()
	for _, w := range all {
		lane := c.spread.of(w.datagram.Path.From.Addr(), lanes)
		c.lanes[lane] = append(c.lanes[lane], w)
	}
	c.n = n
}

// crowdOut removes one to make room for a new one in a lane: of what waits and the new
// one, a random one of a random longest lane. nil: that is the new one.
func (c *class) crowdOut(lane int) *waiting {
	longest, of := c.longest(lane)
	chosen := rand.IntN(of)
	for i := range c.lanes {
		if c.with(i, lane) != longest {
			continue
		}
		if chosen--; chosen >= 0 {
			continue
		}
		at := rand.IntN(longest)
		if at == len(c.lanes[i]) {
			return nil
		}
		return c.remove(i, at)
	}
	return nil // not reached: of lanes are that long
}

// longest is how many wait in the longest lanes, and how many lanes that is, with a new
// one in a lane.
func (c *class) longest(lane int) (length, of int) {
	for i := range c.lanes {
		switch n := c.with(i, lane); {
		case n > length:
			length, of = n, 1
		case n == length:
			of++
		}
	}
	return length, of
}

// with is how many wait in lane i, with a new one in a lane.
func (c *class) with(i, lane int) int {
	n := len(c.lanes[i])
	if i == lane {
		n++
	}
	return n
}

func (c *class) remove(lane, at int) *waiting {
	w := c.lanes[lane][at]
	c.lanes[lane] = slices.Delete(c.lanes[lane], at, at+1)
	return w
}

// take removes the oldest of the next lane in turn that has one.
func (c *class) take() *waiting {
	for i := range lanes {
		at := (c.last + 1 + i) % lanes
		if len(c.lanes[at]) > 0 {
			c.last = at
			c.n--
			return c.remove(at, 0)
		}
	}
	return nil
}

// clear throws away all that waits.
func (c *class) clear() {
	for i := range c.lanes {
		clear(c.lanes[i])
		c.lanes[i] = c.lanes[i][:0]
	}
	c.n = 0
}

// spread tells the prefixes of sources apart by a number below a bound. Its seed is
// secret, and another one each second, so that nobody can choose to meet a certain
// visitor, nor meets one by chance for long. The zero value is ready to use.
type spread struct {
	seed maphash.Seed
	from time.Time // when the seed was drawn
}

// fresh draws another seed if this is not the second of the last one any more, and says
// whether it did.
func (s *spread) fresh(now time.Time) bool {
	if now.Sub(s.from) < time.Second {
		return false
	}
	s.seed, s.from = maphash.MakeSeed(), now
	return true
}

// of returns the number of a source's prefix, below n.
func (s *spread) of(source netip.Addr, n uint64) int {
	p := prefixOf(source)
	return int(maphash.Bytes(s.seed, p[:]) % n)
}

// prefix is what counts as one source: an IPv4 /24, or an IPv6 /48, which one subscriber
// can have (RFC 6177).
type prefix [7]byte

func prefixOf(a netip.Addr) (p prefix) {
	if a.Is4() {
		four := a.As4()
		p[0] = 4
		copy(p[1:], four[:3])
		return p
	}
	six := a.As16()
	copy(p[1:], six[:6])
	return p
}
