//go:build linux

package presence

import (
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/port"
)

// The share of time that checks may take: after one for all who asked, the next begins
// after this many times as long as it took, or after mostRest.
const (
	lookShare = 10
	mostRest  = 500 * time.Millisecond
)

// joined answers those who ask at about the same time with one query to the kernel, which
// walks its tables for each, however few ports it is about: a thousand open doors, each
// of which checks every few seconds, would otherwise take a whole core. A caller who is
// alone is answered at once.
type joined struct {
	mu   sync.Mutex
	next *look // gathers the callers, nil while there are none

	// rest holds when the next check may begin. The first caller takes it out while it
	// rests and checks.
	rest chan time.Time
}

func newJoined() *joined {
	j := &joined{rest: make(chan time.Time, 1)}
	j.rest <- time.Time{}
	return j
}

// look is one query to the kernel for several callers.
type look struct {
	ports []port.Range
	done  chan struct{}
	in    []Connection
	err   error
}

// ask returns who is in through ports, according to a query to the kernel that began
// after the call.
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

// look checks for all who have asked by the end of the previous check.
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
