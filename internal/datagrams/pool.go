//go:build linux

package datagrams

import (
	"container/list"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorward/doorward/internal/knock"
)

const (
	// shownInARow is how many datagrams that are Shown are opened at a place before one
	// that is Claimed.
	shownInARow = 7

	// few is how many datagrams that are Claimed may wait in a flood at a place that is not
	// busy.
	few = 4

	// While more that are Shown wait to be opened, which takes a processor much longer than
	// all else, what was heard is told together: each time it is told costs the gateway a
	// turn. So much is told at once, and nothing waits longer than that and what is being
	// opened.
	toldTogether, toldWithin = 32, 2 * time.Millisecond
)

// pool has the goroutines that open datagrams, and what waits before and after them.
type pool struct {
	heard func([]knock.Heard)

	mu      sync.Mutex // guards what follows
	work    sync.Cond  // an opener may have something to do
	news    sync.Cond  // there is something to deliver
	each    int        // how many may wait at a UDP port, of each rank
	turns   list.List  // *queue, those where something waits, the next one first
	opening list.List  // *waiting, in the order of their turns: what is being opened, and what came after that
	openers int        // how many open at once; 0: as many as call run
	active  int        // how many are being opened
	latest  time.Time  // of all that was opened
	told    []knock.Heard
	since   time.Time // when the first of told was
	shown   int       // how many that are Shown wait
	crowded uint64
	closed  bool
}

// queue is what waits at one place. The pool's mutex guards it.
type queue struct {
	place   knock.Place
	heard   bool // what comes may wait
	most    int  // how many may wait of each rank; 0: as the pool says
	shown   *class
	claimed *class
	row     int           // how many that are Shown were taken since one that is Claimed
	turn    *list.Element // in the pool's turns, nil: nothing waits

	pressure atomic.Int32 // how many that are Claimed wait
	many     atomic.Int32 // how many of these may wait while it is not busy
}

// waiting is one datagram that is not Junk.
type waiting struct {
	datagram knock.Datagram
	rank     knock.Rank
	queue    *queue
	origin   origin
	by       *glance

	done, ok bool // it was opened, and was a knock
	answered bool // or was answered
	heard    knock.Heard
}

// origin is what datagrams come by, and answers go back by.
type origin interface {
	// mayAnswer says whether an answer of Open to a source may be sent.
	mayAnswer(source netip.Addr, rank knock.Rank, now time.Time) bool
	send(path knock.Path, payload []byte)
	// opened is told of each datagram that waited: with something when it was a knock or
	// was answered. It does not wait.
	opened(something bool)
}

func (p *pool) init(heard func([]knock.Heard)) {
	p.heard, p.each = heard, maxWaiting
	p.work.L, p.news.L = &p.mu, &p.mu
}

// share sets how many datagrams of each rank may wait at each UDP port.
func (p *pool) share(each int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.each = each
}

// limit sets how many are opened at once, whoever opens them.
func (p *pool) limit(openers int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.openers = openers
}

// listen makes what comes to a place wait to be opened, or throws away what waits and
// what comes.
func (p *pool) listen(q *queue, heard bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q.many.Store(p.patience(true))
	if q.heard = heard; heard || q.turn == nil {
		return
	}
	if q.shown != nil {
		p.shown -= q.shown.n
		q.shown.clear()
	}
	if q.claimed != nil {
		q.claimed.clear()
	}
	p.news.Signal() // what was told may have waited for these
	q.pressure.Store(0)
	p.turns.Remove(q.turn)
	q.turn = nil
}

// put queues copies of what came to a place, with the current time, and says whether all
// of it is to be opened.
func (p *pool) put(q *queue, from origin, by *glance, come []arrival) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || !q.heard {
		return false
	}
	now := time.Now() // under the lock, so that the order is the order of the times
	all := true
	for _, a := range come {
		w := p.room(q, a, now)
		if w == nil {
			all = false
			continue
		}
		if w.origin != nil {
			w.origin.opened(false) // the one before was thrown away
		}
		w.rank, w.queue, w.origin, w.by = a.rank, q, from, by
		w.datagram = knock.Datagram{Path: a.path, Payload: copied(w.datagram.Payload, a.payload), Time: now}
		p.work.Signal()
	}
	if q.claimed != nil {
		q.pressure.Store(int32(q.claimed.n))
	}
	return all
}

// copied returns a copy of payload, in the memory of another one if that has room.
func copied(place, payload []byte) []byte {
	if cap(place) < len(payload) {
		place = make([]byte, len(payload))
	}
	return place[:copy(place[:len(payload)], payload)]
}

// room returns an entry for one more datagram at a place; nil: it is thrown away.
func (p *pool) room(q *queue, a arrival, now time.Time) *waiting {
	c, most := q.class(a.rank), p.each
	if q.most > 0 {
		most = q.most
	}
	if c.n >= most {
		p.crowded++
	}
	before := c.n
	w := c.room(a.path.From.Addr(), most, now)
	if c == q.shown {
		p.shown += c.n - before
	}
	if q.turn == nil {
		q.turn = p.turns.PushBack(q)
	}
	return w
}

// class returns what waits of a rank.
func (q *queue) class(rank knock.Rank) *class {
	c := &q.claimed
	if rank == knock.Shown {
		c = &q.shown
	}
	if *c == nil {
		*c = new(class) // places that nobody asks have none
	}
	return *c
}

// patience is how many datagrams that are Claimed may wait at a place that is not busy,
// where the last one that was opened was something, or was not. Whoever is asked to show
// their source begins anew, and costs both sides more than waiting for some milliseconds
// does, so that a crowd of visitors is not asked. In a flood others would have to wait.
func (p *pool) patience(something bool) int32 {
	if !something {
		return few
	}
	return int32(max(few, p.each/2))
}

// busy says whether more datagrams that are Claimed wait than it has patience for, with so
// many that are about to.
func (q *queue) busy(more int) bool { return int(q.pressure.Load())+more > int(q.many.Load()) }

// run opens datagrams one after another, until close.
func (p *pool) run(open func(*waiting) (knock.Heard, bool)) {
	for {
		w := p.next()
		if w == nil {
			return
		}
		p.open(w, open)
		runtime.Gosched()
	}
}

// open opens one whose turn it is.
func (p *pool) open(w *waiting, open func(*waiting) (knock.Heard, bool)) {
	heard, ok := open(w)
	p.finish(w, heard, ok)
}

// alone returns an entry for a datagram whose turn it is at once, for the caller to open,
// since nothing waits and nothing is being opened; nil: it has to be put.
func (p *pool) alone(q *queue, from origin, by *glance, a arrival) *waiting {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || !q.heard || p.turns.Len() > 0 || p.opening.Len() > 0 || p.full() {
		return nil
	}
	w := &waiting{rank: a.rank, queue: q, origin: from, by: by,
		datagram: knock.Datagram{Path: a.path, Payload: copied(nil, a.payload), Time: time.Now()}}
	p.begin(w)
	return w
}

// begin notes that one is being opened, and when that is heard.
func (p *pool) begin(w *waiting) {
	if w.heard.Time = w.datagram.Time; w.heard.Time.Before(p.latest) {
		w.heard.Time = p.latest
	}
	p.latest = w.heard.Time
	p.opening.PushBack(w)
	p.active++
}

// next waits for one whose turn it is to be opened; nil: there will be no more.
func (p *pool) next() *waiting {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed && (p.turns.Len() == 0 || p.full() || p.openers > 0 && p.active >= p.openers) {
		p.work.Wait()
	}
	if p.closed {
		return nil
	}
	q, _ := p.turns.Front().Value.(*queue)
	w := q.take()
	if w.rank == knock.Shown {
		p.shown--
	}
	if q.empty() {
		p.turns.Remove(q.turn)
		q.turn = nil
	} else {
		p.turns.MoveToBack(q.turn)
	}
	p.begin(w)
	return w
}

// full says whether as much waits for heard as may.
func (p *pool) full() bool { return p.opening.Len()+len(p.told) >= maxHeard }

// roomAgain wakes those who would open something where there was no room for the results.
// All others have been woken when it came, and would find nothing now.
func (p *pool) roomAgain(wasFull bool) {
	if wasFull && !p.full() {
		p.work.Broadcast()
	}
}

// take removes the one whose turn it is at a place where something waits.
func (q *queue) take() *waiting {
	claimed := q.claimed != nil && q.claimed.n > 0
	shown := q.shown != nil && q.shown.n > 0
	if shown && (!claimed || q.row < shownInARow) {
		q.row++
		return q.shown.take()
	}
	q.row = 0
	w := q.claimed.take()
	q.pressure.Store(int32(q.claimed.n))
	return w
}

func (q *queue) empty() bool {
	return (q.claimed == nil || q.claimed.n == 0) && (q.shown == nil || q.shown.n == 0)
}

// finish notes the result of opening one. A result that comes before its turn is
// delivered when the earlier ones are done.
func (p *pool) finish(w *waiting, heard knock.Heard, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.roomAgain(p.full())
	if p.active--; p.active == p.openers-1 && p.turns.Len() > 0 {
		p.work.Signal() // an opener may have waited for one that was opened by who had read it
	}
	heard.Time = w.heard.Time
	w.heard, w.ok, w.done = heard, ok, true
	if w.rank == knock.Claimed {
		w.queue.many.Store(p.patience(ok || w.answered))
	}
	for first := p.opening.Front(); first != nil; first = p.opening.Front() {
		f, _ := first.Value.(*waiting)
		if !f.done {
			break
		}
		p.opening.Remove(first)
		if f.ok && f.queue.heard {
			if len(p.told) == 0 {
				p.since = time.Now()
			}
			p.told = append(p.told, f.heard)
		}
	}
	if p.ripe() {
		p.news.Signal()
	}
}

// ripe says whether what was heard is to be told now.
func (p *pool) ripe() bool {
	n := len(p.told)
	return n > 0 && (p.shown == 0 || n >= toldTogether || time.Since(p.since) >= toldWithin)
}

// deliver passes what was heard to heard, until close.
func (p *pool) deliver() {
	for {
		p.mu.Lock()
		for !p.closed && !p.ripe() {
			p.news.Wait()
		}
		batch, full := p.told, p.full()
		p.told = nil
		p.roomAgain(full)
		closed := p.closed
		p.mu.Unlock()
		if closed {
			return
		}
		p.heard(batch)
	}
}

func (p *pool) lost() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.crowded
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.work.Broadcast()
	p.news.Broadcast()
}
