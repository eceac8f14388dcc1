package sealed

import (
	"sync"
	"time"

	"github.com/doorward/doorward/internal/seal"
)

// handshakes are those whose request was heard and had a right proof, for as long as it
// could be sent again. A request that comes again is only answered again.
type handshakes struct {
	mu         sync.Mutex
	now, old   map[number]*answered
	since, ago time.Time      // when now and old began
	many       map[string]int // of now, by whose they are
}

type number = [12]byte

// answered is what a request was answered last.
type answered struct {
	answer seal.Answer
	at     time.Time
	any    bool
}

// mostHandshakes is how many are remembered of a minute: 16 MB. mostOfOne is how many of
// these one visitor has, so that nobody takes everybody's room. Beyond that no handshake
// is accepted, since it could be one that was used.
const (
	mostHandshakes = 1 << 16
	mostOfOne      = mostHandshakes / 16
)

func newHandshakes() *handshakes {
	return &handshakes{now: make(map[number]*answered), old: make(map[number]*answered), many: make(map[string]int)}
}

// first says whether a request with a right proof of somebody's has not been heard before,
// and there is room to remember it.
func (h *handshakes) first(k *seal.Knock, whose string, at time.Time) (first, room bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at.Sub(h.since) > seal.HandshakeLife+time.Second {
		h.now, h.old, h.many = make(map[number]*answered), h.now, make(map[string]int)
		h.since, h.ago = at, h.since
	}
	if h.now[k.Number] != nil || h.old[k.Number] != nil || k.Issued.Before(h.ago) { // that is before what is remembered
		return false, true
	}
	if len(h.now) >= mostHandshakes || h.many[whose] >= mostOfOne {
		return true, false
	}
	h.now[k.Number] = new(answered)
	h.many[whose]++
	return true, true
}

// note remembers what a request was answered.
func (h *handshakes) note(k *seal.Knock, a seal.Answer, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, in := range []map[number]*answered{h.now, h.old} {
		if e := in[k.Number]; e != nil {
			*e = answered{a, at, true}
		}
	}
}

// again answers a request that was heard before as it was answered last, and says whether
// it was heard.
func (h *handshakes) again(k *seal.Knock, now time.Time) ([]byte, bool) {
	h.mu.Lock()
	e := h.now[k.Number]
	if e == nil {
		e = h.old[k.Number]
	}
	var last answered
	if e != nil {
		last = *e
	}
	h.mu.Unlock()
	if e == nil || !last.any {
		return nil, e != nil
	}
	if last.answer.Status == seal.Opened {
		last.answer.Left -= now.Sub(last.at)
	}
	return k.Answer(last.answer), true
}
