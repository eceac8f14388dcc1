//go:build linux

package listen

import (
	"log/slog"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/knock"
)

// queueLimit is how many touches wait for a slow receiver (5 MiB of them). Beyond that
// touches are dropped, rather than accepting stopped: memory stays bounded either way,
// but in the kernel's queues each would hold a socket, in memory that the whole machine's
// connections share, and old touches would get new times. A visitor whose touch was lost
// can knock again.
const queueLimit = 1 << 15

// queue is between the loop, which never waits, and the receiver.
type queue struct {
	ready chan struct{} // has room for one: something waits
	stop  chan struct{} // closed by Listener.Close
	log   *slog.Logger

	mu      sync.Mutex // guards what follows
	waiting []knock.Heard
	dropped uint64
	full    logLimit
}

func (q *queue) put(touches []knock.Heard) {
	if len(touches) == 0 {
		return
	}
	q.mu.Lock()
	room := min(len(touches), queueLimit-len(q.waiting))
	q.waiting = append(q.waiting, touches[:room]...)
	if lost := len(touches) - room; lost > 0 {
		q.dropped += uint64(lost)
		q.full.every = time.Minute
		if q.full.allow() {
			q.log.Warn("touches come faster than they can be judged; some are dropped", "dropped", q.dropped)
		}
	}
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default: // it has been signalled already
	}
}

// deliver hands what waits to touched, until stop.
func (q *queue) deliver(touched func([]knock.Heard)) {
	for {
		select {
		case <-q.stop:
			return
		case <-q.ready:
		}
		q.mu.Lock()
		batch := q.waiting
		q.waiting = nil
		q.mu.Unlock()
		if len(batch) > 0 {
			touched(batch)
		}
	}
}

func (q *queue) lost() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}
