package sealed

import (
	"fmt"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/seal"
)

// handshakes are those whose request was heard and had a right proof, for as long as it
// could be sent again. A request that comes again is only answered again.
type handshakes struct {
	mu       sync.Mutex
	now, old *minute
	seed     maphash.Seed
}

// minute is what was heard from a time on. A handshake takes 16 bytes here and no pointer,
// so that hundreds of thousands are nothing to the garbage collector.
type minute struct {
	since   time.Time
	answers map[number]answered
	many    []uint16          // handshakes, by whose they are: visitors are told apart by a hash
	ports   [][]seal.Port     // doors' that were told, the first none
	places  map[string]uint16 // in that list, by the text of the ports
	last    uint16            // the place of those that were told last
}

// number is the first two thirds of a handshake's number, which the gateway has drawn.
// Of a million handshakes that are remembered, one in 2^44 later ones has another's, and is
// ignored.
type number [8]byte

func numberOf(k *seal.Knock) number { return number(k.Number[:8]) }

// answered is what a request was answered last. The rest of the answer is the same whenever
// it is given, or follows from the request.
type answered struct {
	left   uint32 // milliseconds: of Opened from when the challenge was sent, else as they are told
	ports  uint16 // in the list
	status seal.Status
	reason seal.Reason
	asked  bool // the answer has the address that was asked for, not the visitor's
}

// mostHandshakes is how many are remembered of a minute: 8,500 a second, which take 23 MB.
// mostOfOne is how many of these one visitor has, so that nobody takes everybody's room.
// Beyond that no handshake is accepted, since it could be one that was used.
const (
	mostHandshakes = 1 << 19
	mostOfOne      = mostHandshakes / 16
	lanes          = 1 << 16 // in which visitors are counted
)

func newHandshakes() *handshakes {
	return &handshakes{now: newMinute(time.Time{}), old: newMinute(time.Time{}), seed: maphash.MakeSeed()}
}

func newMinute(since time.Time) *minute {
	return &minute{since: since, answers: make(map[number]answered), ports: [][]seal.Port{nil}, places: make(map[string]uint16)}
}

// has says whether a handshake was heard in this minute.
func (m *minute) has(n number) bool {
	_, ok := m.answers[n]
	return ok
}

// first says whether a request with a right proof of somebody's has not been heard before,
// and there is room to remember it.
func (h *handshakes) first(k *seal.Knock, whose string, at time.Time) (first, room bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at.Sub(h.now.since) > seal.HandshakeLife+time.Second {
		h.now, h.old = newMinute(at), h.now
		h.now.many = make([]uint16, lanes) // only where somebody has knocked rightly
	}
	n := numberOf(k)
	if h.now.has(n) || h.old.has(n) || k.Issued.Before(h.old.since) { // that is before what is remembered
		return false, true
	}
	many := &h.now.many[maphash.String(h.seed, whose)%lanes]
	if len(h.now.answers) >= mostHandshakes || int(*many) >= mostOfOne {
		return true, false
	}
	h.now.answers[n] = answered{}
	*many++
	return true, true
}

// note remembers what a request was answered.
func (h *handshakes) note(k *seal.Knock, a seal.Answer, at time.Time) {
	e := answered{status: a.Status, reason: a.Reason, asked: a.Source == k.Request.Address}
	left := a.Left
	if a.Status == seal.Opened {
		left += at.Sub(k.Issued)
	}
	e.left = uint32(min(max(left/time.Millisecond, 0), math.MaxUint32)) // as much as can be told
	n := numberOf(k)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, in := range [...]*minute{h.now, h.old} {
		if in.has(n) {
			e.ports = in.place(a.Ports)
			in.answers[n] = e
		}
	}
}

// place is where a door's ports are in the list. Most are where the last ones were.
func (m *minute) place(ports []seal.Port) uint16 {
	if slices.Equal(m.ports[m.last], ports) {
		return m.last
	}
	text := fmt.Sprint(ports)
	at, ok := m.places[text]
	if !ok && len(m.ports) < math.MaxUint16 { // nobody has more doors: they would be told none
		at = uint16(len(m.ports))
		m.ports, m.places[text] = append(m.ports, ports), at
	}
	m.last = at
	return at
}

// again answers a request that was heard before as it was answered last, and says whether
// it was heard. next is the gateway's newest key.
func (h *handshakes) again(k *seal.Knock, from netip.Addr, next seal.Fingerprint, now time.Time) ([]byte, bool) {
	n := numberOf(k)
	h.mu.Lock()
	in := h.now
	e, heard := in.answers[n]
	if !heard {
		in = h.old
		e, heard = in.answers[n]
	}
	a := seal.Answer{Status: e.status, Reason: e.reason, Left: time.Duration(e.left) * time.Millisecond, Source: from, Next: next, Ports: in.ports[e.ports]}
	h.mu.Unlock()
	switch {
	case e.status == 0:
		return nil, heard
	case e.status == seal.Opened:
		a.Left -= now.Sub(k.Issued)
	}
	if e.asked {
		a.Source = k.Request.Address
	}
	return k.Answer(a), true
}
