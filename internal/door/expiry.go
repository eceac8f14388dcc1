package door

import (
	"container/heap"
	"iter"
	"net/netip"
	"time"
)

// expiries knows which source's time ends next, of any number of sources, at
// the cost of a heap. The zero value is ready.
type expiries struct{ h timeHeap }

// expiry is one source's end; at is its place in the heap.
type expiry struct {
	source netip.Prefix
	until  time.Time
	at     int
}

// add puts a source in; the returned expiry is for move and remove.
func (x *expiries) add(source netip.Prefix, until time.Time) *expiry {
	e := &expiry{source: source, until: until}
	heap.Push(&x.h, e)
	return e
}

// move gives a source another end.
func (x *expiries) move(e *expiry, until time.Time) {
	e.until = until
	heap.Fix(&x.h, e.at)
}

func (x *expiries) remove(e *expiry) { heap.Remove(&x.h, e.at) }

// next returns the source that ends first.
func (x *expiries) next() (*expiry, bool) {
	if len(x.h) == 0 {
		return nil, false
	}
	return x.h[0], true
}

// due takes the first source out if its end is not after now.
func (x *expiries) due(now time.Time) (netip.Prefix, bool) {
	e, ok := x.next()
	if !ok || now.Before(e.until) {
		return netip.Prefix{}, false
	}
	heap.Pop(&x.h)
	return e.source, true
}

// timeHeap is container/heap's interface over expiries.
type timeHeap []*expiry

func (h timeHeap) Len() int           { return len(h) }
func (h timeHeap) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h timeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

func (h *timeHeap) Push(x any) {
	e := x.(*expiry)
	e.at = len(*h)
	*h = append(*h, e)
}

func (h *timeHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}

// Sources are those who have a grant, in no order, each with its end.
func (d *Door) Sources() iter.Seq2[netip.Prefix, time.Time] {
	return func(yield func(netip.Prefix, time.Time) bool) {
		for source, g := range d.grants {
			if !yield(source, g.end.until) {
				return
			}
		}
	}
}

// GrantEnd is when a source's grant ends, zero if it has none.
func (d *Door) GrantEnd(source netip.Prefix) time.Time {
	if g := d.grants[source]; g != nil {
		return g.end.until
	}
	return time.Time{}
}
