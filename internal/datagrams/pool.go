//go:build linux

package datagrams

import (
	"container/list"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/knock"
)

// pool has the goroutines that open datagrams, and what waits before and after them.
type pool struct {
	heard func([]knock.Heard)

	mu      sync.Mutex // guards what follows
	work    sync.Cond  // an opener may have something to do
	news    sync.Cond  // there is something to deliver
	each    int        // how many may wait at a port
	waiting list.List  // *waiting, oldest first
	opening list.List  // *waiting, oldest first: what is being opened, and what came after that
	told    []knock.Heard
	crowded uint64
	closed  bool
}

// waiting is one datagram that passed its opener's glance.
type waiting struct {
	datagram knock.Datagram
	socket   *socket
	by       *glance
	at       int // in its socket's waiting
	listed   *list.Element

	done, ok bool // it was opened, and was a knock
	heard    knock.Heard
}

func (p *pool) init(heard func([]knock.Heard)) {
	p.heard, p.each = heard, maxWaiting
	p.work.L, p.news.L = &p.mu, &p.mu
}

// share sets how many may wait at each port.
func (p *pool) share(each int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.each = each
}

// put queues copies of what came to a socket, with the current time.
func (p *pool) put(s *socket, by *glance, come []arrival) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || s.opener.Load() == nil {
		return
	}
	now := time.Now() // under the lock, so that the order is the order of the times
	for _, a := range come {
		if w := p.room(s); w != nil {
			w.by = by
			w.datagram = knock.Datagram{Path: a.path, Payload: copied(w.datagram.Payload, a.payload), Time: now}
			p.work.Signal()
		}
	}
}

// copied returns a copy of payload, in the memory of another one if that has room.
func copied(place, payload []byte) []byte {
	if cap(place) < len(payload) {
		place = make([]byte, len(payload))
	}
	return place[:copy(place[:len(payload)], payload)]
}

// room returns an entry at the end of the queue for one more datagram of the socket: a
// new one, or one whose datagram is thrown away for it. nil: the new datagram is thrown
// away.
func (p *pool) room(s *socket) *waiting {
	n := len(s.waiting)
	if n < p.each {
		w := &waiting{socket: s, at: n}
		w.listed = p.waiting.PushBack(w)
		s.waiting = append(s.waiting, w)
		return w
	}
	p.crowded++
	at := rand.IntN(n + 1)
	if at == n {
		return nil
	}
	w := s.waiting[at]
	p.waiting.MoveToBack(w.listed)
	return w
}

// take removes one from the queue.
func (p *pool) take(w *waiting) {
	p.waiting.Remove(w.listed)
	all := w.socket.waiting
	last := all[len(all)-1]
	all[w.at], last.at = last, w.at
	all[len(all)-1] = nil
	w.socket.waiting = all[:len(all)-1]
}

// forget throws away what waits at a socket.
func (p *pool) forget(s *socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(s.waiting) > 0 {
		p.take(s.waiting[len(s.waiting)-1])
	}
}

// run opens datagrams one after another, until close.
func (p *pool) run(open func(*waiting) (knock.Heard, bool)) {
	for {
		w := p.next()
		if w == nil {
			return
		}
		heard, ok := open(w)
		p.finish(w, heard, ok)
		runtime.Gosched()
	}
}

// next waits for the oldest that is to be opened; nil: there will be no more.
func (p *pool) next() *waiting {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closed && (p.waiting.Len() == 0 || p.opening.Len()+len(p.told) >= maxHeard) {
		p.work.Wait()
	}
	if p.closed {
		return nil
	}
	w, _ := p.waiting.Front().Value.(*waiting)
	p.take(w)
	p.opening.PushBack(w)
	return w
}

// finish notes the result of opening one. A result that comes before its turn is
// delivered when the earlier ones are done.
func (p *pool) finish(w *waiting, heard knock.Heard, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.heard, w.ok, w.done = heard, ok, true
	for first := p.opening.Front(); first != nil; first = p.opening.Front() {
		f, _ := first.Value.(*waiting)
		if !f.done {
			break
		}
		p.opening.Remove(first)
		if f.ok && f.socket.opener.Load() != nil {
			p.told = append(p.told, f.heard)
			p.news.Signal()
		}
	}
	p.work.Broadcast()
}

// deliver passes what was heard to heard, until close.
func (p *pool) deliver() {
	for {
		p.mu.Lock()
		for !p.closed && len(p.told) == 0 {
			p.news.Wait()
		}
		batch := p.told
		p.told = nil
		closed := p.closed
		p.work.Broadcast()
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
