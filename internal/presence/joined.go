//go:build linux

package presence

import (
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/port"
)

// What looks may take: after one that was for all who asked, the next is begun when so
// many times what it took are over, or mostRest.
const (
	lookShare = 10
	mostRest  = 500 * time.Millisecond
)

// joined has those who ask at about the same time answered by one look at the kernel,
// which walks its tables for each, however few ports it is about: a thousand doors that
// are open, each of which looks every few seconds, took a core otherwise. Who asks
// while nobody else does is answered at once.
type joined struct {
	mu   sync.Mutex
	next *look // gathers who asks, nil while nobody does

	// rest has when the next look may begin. The first who asks for one takes it out for
	// as long as that rests and looks.
	rest chan time.Time
}

func newJoined() *joined {
	j := &joined{rest: make(chan time.Time, 1)}
	j.rest <- time.Time{}
	return j
}

// look is one look at the kernel for several who have asked.
type look struct {
	ports []port.Range
	done  chan struct{}
	in    []Connection
	err   error
}

// ask returns who is in by ports, as one look at the kernel that began after the call
// has it.
func (j *joined) ask(ports []port.Range, see func([]port.Range) ([]Connection, error)) ([]Connection, error) {
	j.mu.Lock()
	l, first := j.next, j.next == nil
	if first {
		l = &look{done: make(chan struct{})}
		j.next = l
	}
	l.ports = append(l.ports, ports...)
	j.mu.Unlock()
	if first {
		j.look(l, see)
	}
	<-l.done
	return slices.DeleteFunc(slices.Clone(l.in), func(c Connection) bool {
		return !port.Within(ports, port.Port{Proto: c.Proto, Number: c.Local.Port()})
	}), l.err
}

// look looks for all who have asked until the look before is over.
func (j *joined) look(l *look, see func([]port.Range) ([]Connection, error)) {
	time.Sleep(time.Until(<-j.rest))
	j.mu.Lock()
	j.next = nil
	j.mu.Unlock()
	begun := time.Now()
	l.in, l.err = see(l.ports)
	close(l.done)
	j.rest <- time.Now().Add(min(lookShare*time.Since(begun), mostRest))
}
