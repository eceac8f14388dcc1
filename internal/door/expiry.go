package door

import (
	"container/heap"
	"iter"
	"time"
)

// slab keeps values under small numbers, which stay the same until the value is dropped.
// If the values contain no pointers, the garbage collector does not look at them, however
// many there are. The zero value is empty.
type slab[T any] struct {
	parts []*[slabPart]T // so that growing moves nothing
	free  []int32
	most  int32 // numbers that were ever in use
}

const slabPart = 1 << 8

// put keeps a value and returns its number.
func (s *slab[T]) put(v T) int32 {
	n := s.most
	if last := len(s.free) - 1; last >= 0 {
		n, s.free = s.free[last], s.free[:last]
	} else {
		s.most++
		if int(n)/slabPart == len(s.parts) {
			s.parts = append(s.parts, new([slabPart]T))
		}
	}
	*s.at(n) = v
	return n
}

// at returns the value with a number that is in use.
func (s *slab[T]) at(n int32) *T { return &s.parts[n/slabPart][n%slabPart] }

func (s *slab[T]) drop(n int32) {
	var zero T
	*s.at(n) = zero
	s.free = append(s.free, n)
}

// expiryQueue keeps track of which of a number of things ends next, at the cost of a
// heap, and which was added last, at the cost of a list.
type expiryQueue struct {
	epoch  time.Time // the ends are nanoseconds since then, which take less room than times
	heap   []end
	of     []links // by number
	newest int32   // number plus one, 0 for none
}

// end is when a thing ends.
type end struct {
	at int64
	of int32
}

// links are a thing's places in the heap and in the list. All are increased by one,
// and 0 is none, so that a number that is not in use has zeros.
type links struct{ heap, older, newer int32 }

func (a *expiryQueue) nanos(t time.Time) int64 { return int64(t.Sub(a.epoch)) }

// time returns a moment by the clock of now, which may have been set since the thing was
// added.
func (a *expiryQueue) time(now time.Time, nanos int64) time.Time {
	return now.Add(time.Duration(nanos - a.nanos(now)))
}

// add adds a thing that is not there.
func (a *expiryQueue) add(n int32, until time.Time) {
	for int(n) >= len(a.of) {
		a.of = append(a.of, links{})
	}
	a.heap = append(a.heap, end{a.nanos(until), n})
	a.of[n] = links{heap: int32(len(a.heap))}
	a.link(n)
	heap.Fix((*ends)(a), len(a.heap)-1)
}

// move gives a thing another end.
func (a *expiryQueue) move(n int32, until time.Time) {
	at := int(a.of[n].heap - 1)
	a.heap[at].at = a.nanos(until)
	heap.Fix((*ends)(a), at)
}

// renew makes a thing the one that was added last.
func (a *expiryQueue) renew(n int32) {
	a.unlink(n)
	a.link(n)
}

func (a *expiryQueue) remove(n int32) {
	a.unlink(n)
	at, last := int(a.of[n].heap-1), len(a.heap)-1
	(*ends)(a).Swap(at, last)
	a.heap = a.heap[:last]
	if at < last {
		heap.Fix((*ends)(a), at)
	}
	a.of[n] = links{}
}

func (a *expiryQueue) link(n int32) {
	a.of[n].older, a.of[n].newer = a.newest, 0
	if a.newest > 0 {
		a.of[a.newest-1].newer = n + 1
	}
	a.newest = n + 1
}

func (a *expiryQueue) unlink(n int32) {
	l := a.of[n]
	if l.older > 0 {
		a.of[l.older-1].newer = l.newer
	}
	if l.newer > 0 {
		a.of[l.newer-1].older = l.older
	} else {
		a.newest = l.older
	}
}

// has says whether a thing is there.
func (a *expiryQueue) has(n int32) bool { return int(n) < len(a.of) && a.of[n].heap > 0 }

// until returns when a thing ends, in nanoseconds since the epoch.
func (a *expiryQueue) until(n int32) int64 { return a.heap[a.of[n].heap-1].at }

// next returns what ends first, and when.
func (a *expiryQueue) next() (n int32, at time.Time, ok bool) {
	if len(a.heap) == 0 {
		return 0, time.Time{}, false
	}
	return a.heap[0].of, a.epoch.Add(time.Duration(a.heap[0].at)), true
}

// due returns what ends first if its end is not after now.
func (a *expiryQueue) due(now time.Time) (n int32, ok bool) {
	n, at, ok := a.next()
	return n, ok && !now.Before(at)
}

// latest iterates over the things, the one added last first.
func (a *expiryQueue) latest() iter.Seq[int32] {
	return func(yield func(int32) bool) {
		for n := a.newest; n > 0; n = a.of[n-1].older {
			if !yield(n - 1) {
				return
			}
		}
	}
}

// ends is container/heap's interface over an expiry queue, as far as Fix needs it.
type ends expiryQueue

func (e *ends) Len() int           { return len(e.heap) }
func (e *ends) Less(i, j int) bool { return e.heap[i].at < e.heap[j].at }
func (e *ends) Swap(i, j int) {
	e.heap[i], e.heap[j] = e.heap[j], e.heap[i]
	e.of[e.heap[i].of].heap, e.of[e.heap[j].of].heap = int32(i+1), int32(j+1)
}
func (e *ends) Push(any) { panic("door: internal error: add puts things in") }
func (e *ends) Pop() any { panic("door: internal error: remove takes things out") }
