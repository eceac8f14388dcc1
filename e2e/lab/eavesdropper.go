//go:build linux

package lab

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sync"
)

// Eavesdropper has seen datagrams, the latest of them, and makes others of these. The zero
// value has seen nothing. Its methods may be called by several goroutines.
type Eavesdropper struct {
	mu   sync.Mutex // guards seen
	seen [][]byte
}

// mostSeen is how many datagrams an eavesdropper remembers.
const mostSeen = 500

// See notes a datagram.
func (e *Eavesdropper) See(d []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.seen = append(e.seen, bytes.Clone(d)); len(e.seen) > mostSeen {
		e.seen = slices.Delete(e.seen, 0, mostSeen/5)
	}
}

// any returns one that was seen, nil for none.
func (e *Eavesdropper) any(by *rand.Rand) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.seen) == 0 {
		return nil
	}
	return bytes.Clone(e.seen[by.IntN(len(e.seen))])
}

// Forge returns a datagram that was seen, as it was or with a bit flipped, cut short, longer
// than it was, or with the end or the middle of another one, be that of the same handshake
// or of another, to whomever. It is nil before any was seen.
func (e *Eavesdropper) Forge(by *rand.Rand) []byte {
	one, other := e.any(by), e.any(by)
	n := min(len(one), len(other))
	if n == 0 {
		return one
	}
	switch at := by.IntN(n); by.IntN(6) {
	case 0:
		one[at] ^= 1 << by.IntN(8)
	case 1:
		return one[:at]
	case 2:
		return append(one, other[at:]...)
	case 3:
		return append(one[:at:at], other[at:]...)
	case 4:
		copy(one[at:], other[at:at+by.IntN(n-at)+1])
	}
	return one
}
