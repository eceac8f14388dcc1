//go:build linux

package listen

import (
	"time"

	"golang.org/x/sys/unix"
)

// parting ends connections, as the package comment has it. It is the loop's
// own.
type parting struct {
	most  int       // connections at a time, of either kind; 1 even if it is less
	fresh []int     // accepted and not yet ended
	held  []leaving // ended with FIN, oldest first

	since time.Time // begin of the second that polite counts for
	count int
}

// leaving is a connection that is held until it has had time to end well.
type leaving struct {
	fd    int
	until time.Time
}

// begin ends the fresh connections.
func (p *parting) begin(now time.Time) {
	for _, fd := range p.fresh {
		// Shutting down fails if the visitor is gone already. Closing sends RST
		// if they have not hung up: see configure.
		if len(p.held) >= p.most-p.batch() || !p.polite(now) || unix.Shutdown(fd, unix.SHUT_WR) != nil {
			unix.Close(fd)
			continue
		}
		p.held = append(p.held, leaving{fd, now.Add(farewell)})
	}
	p.fresh = p.fresh[:0]
}

// batch is how many connections are accepted before they are ended.
func (p *parting) batch() int { return max(1, min(hurry, p.most/2)) }

// full says that connections must be ended before another is accepted.
func (p *parting) full() bool { return len(p.fresh) >= p.batch() }

// polite allows politeRate connections in each second.
func (p *parting) polite(now time.Time) bool {
	if now.Sub(p.since) >= time.Second {
		p.since, p.count = now, 0
	}
	p.count++
	return p.count <= politeRate
}

// wait is the time in milliseconds until a connection is due, -1 for none.
func (p *parting) wait(now time.Time) int {
	if len(p.fresh) > 0 {
		return 0
	}
	if len(p.held) == 0 {
		return -1
	}
	left := p.held[0].until.Sub(now)
	return max(0, int((left+time.Millisecond-1)/time.Millisecond))
}

// end closes what is due at now.
func (p *parting) end(now time.Time) {
	n := 0
	for n < len(p.held) && !now.Before(p.held[n].until) {
		unix.Close(p.held[n].fd)
		n++
	}
	p.held = append(p.held[:0], p.held[n:]...)
}

// endAll closes all at once.
func (p *parting) endAll() {
	for _, fd := range p.fresh {
		unix.Close(fd)
	}
	for _, l := range p.held {
		unix.Close(l.fd)
	}
	p.fresh, p.held = p.fresh[:0], p.held[:0]
}
