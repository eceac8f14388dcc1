package sealed

import (
	"sync"
	"time"

	"github.com/doorward/doorward/internal/seal"
)

// handshakes are those whose request was heard, for as long as it could be sent again. A
// request that comes again is only answered again. Only right requests are in it.
type handshakes struct {
	mu       sync.Mutex
	now, old map[number]*answered
	since    time.Time // when now began
	undo     []func()  // for undone
}

type number = [12]byte

// answered is what a request was answered last.
type answered struct {
	answer seal.Answer
	at     time.Time
	any    bool
}

// mostHandshakes is how many are remembered of a minute: 16 MB. Beyond that no handshake
// is accepted, since it could be one that was used.
const mostHandshakes = 1 << 16

func newHandshakes() *handshakes {
	return &handshakes{now: make(map[number]*answered), old: make(map[number]*answered)}
}

// first says whether a request has not been heard before, and there is room to remember
// it.
func (h *handshakes) first(k *seal.Knock, at time.Time) (first, room bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at.Sub(h.since) > seal.HandshakeLife+time.Second {
		h.now, h.old, h.since = make(map[number]*answered), h.now, at
	}
	if h.now[k.Number] != nil || h.old[k.Number] != nil {
		return false, true
	}
	if len(h.now) >= mostHandshakes {
		return true, false
	}
	h.now[k.Number] = new(answered)
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

// later leaves something to undone.
func (h *handshakes) later(undo func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.undo = append(h.undo, undo)
}

// undone does what was left to it, on the gateway's goroutine.
func (h *handshakes) undone() {
	h.mu.Lock()
	all := h.undo
	h.undo = nil
	h.mu.Unlock()
	for _, undo := range all {
		undo()
	}
}
