//go:build linux

package listen

import (
	"time"

	"golang.org/x/sys/unix"
)

// closer ends connections, as the package comment says. It belongs to the loop.
type closer struct {
	max   int       // connections at a time, of either kind; at least 1
	fresh []int     // accepted and not yet ended
	held  []closing // ended with FIN, oldest first

	since time.Time // begin of the second that count is for
	count int
}

// closing is a connection that is held until it has had time to end well.
type closing struct {
	fd    int
	until time.Time
}

// closeFresh ends the fresh connections.
func (p *closer) closeFresh(now time.Time) {
	for _, fd := range p.fresh {
		// Shutting down fails if the visitor has already gone. Closing sends RST if they
		// have not hung up: see configure.
		if len(p.held) >= p.max-p.batch() || !p.mayFIN(now) || unix.Shutdown(fd, unix.SHUT_WR) != nil {
			unix.Close(fd)
			continue
		}
		p.held = append(p.held, closing{fd, now.Add(closeDelay)})
	}
	p.fresh = p.fresh[:0]
}

// batch is how many connections are accepted before they are ended.
func (p *closer) batch() int { return max(1, min(maxBurst, p.max/2)) }

// full says that connections must be ended before another is accepted.
func (p *closer) full() bool { return len(p.fresh) >= p.batch() }

// mayFIN allows maxFINPerSecond connections in each second.
func (p *closer) mayFIN(now time.Time) bool {
	if now.Sub(p.since) >= time.Second {
		p.since, p.count = now, 0
	}
	p.count++
	return p.count <= maxFINPerSecond
}

// nextDue returns the time in milliseconds until a connection is due, -1 for none.
func (p *closer) nextDue(now time.Time) int {
	if len(p.fresh) > 0 {
		return 0
	}
	if len(p.held) == 0 {
		return -1
	}
	left := p.held[0].until.Sub(now)
	return max(0, int((left+time.Millisecond-1)/time.Millisecond))
}

// closeDue closes what is due at now.
func (p *closer) closeDue(now time.Time) {
	n := 0
	for n < len(p.held) && !now.Before(p.held[n].until) {
		unix.Close(p.held[n].fd)
		n++
	}
	p.held = append(p.held[:0], p.held[n:]...)
}

// closeAll closes all at once.
func (p *closer) closeAll() {
	for _, fd := range p.fresh {
		unix.Close(fd)
	}
	for _, l := range p.held {
		unix.Close(l.fd)
	}
	p.fresh, p.held = p.fresh[:0], p.held[:0]
}
