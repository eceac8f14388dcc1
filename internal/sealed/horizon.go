package sealed

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/knock"
)

// No disk stands between a single packet and its door where the disk has a horizon that
// the packet's counter does not exceed: after a crash, when the disk may lack counters that
// were used, all up to the horizon are refused. So it is written ahead, as far as a
// visitor can be expected to wait then, and again before it is reached, which is one
// commit in twenty seconds where anybody knocks with single packets, and none elsewhere. A
// clean end puts back what was refused at the start, since the disk has all counters then.
//
// At every moment the horizon that is in memory is at or below those of all commits that
// may be the last before a crash, and counters of packets that were accepted without
// waiting for theirs are at or below it.
const (
	horizonAhead = 30 * time.Second
	horizonLeast = 15 * time.Second // ahead, or it is written again: more than between two upkeeps
	horizonMark  = "horizon"
)

// horizon is up to where single packets are accepted, and refused, without asking the
// disk. All are counters.
type horizon struct {
	floor   uint64 // refused: they may have been used before the start
	safe    uint64 // accepted; at least floor
	writing bool   // one is on its way to the disk
	moved   bool   // one was, since the start
}

// read is the horizon after a start with what the disk has.
func (h *horizon) read(value []byte) {
	if len(value) == 8 {
		h.floor = binary.BigEndian.Uint64(value)
		h.safe = h.floor
	}
}

// mark has a horizon on the disk; 0 for none.
func (h *horizon) mark(at uint64) []knock.Mark {
	m := knock.Mark{Key: horizonMark, Common: true}
	if at > 0 {
		m.Value = binary.BigEndian.AppendUint64(nil, at)
	}
	return []knock.Mark{m}
}

// move returns the mark of another horizon if one is due: this one comes near, or is far
// away, since the clock was set back, and would refuse packets for that long.
func (h *horizon) move(now time.Time) ([]knock.Mark, func(saved bool)) {
	at := func(ahead time.Duration) uint64 { return uint64(max(0, now.Add(ahead).UnixMicro())) }
	next := max(at(horizonAhead), h.floor)
	if h.writing || h.safe >= at(horizonLeast) && h.safe <= next {
		return nil, nil
	}
	h.safe = min(h.safe, next) // whichever of the two the disk will have
	h.writing, h.moved = true, true
	return h.mark(next), func(saved bool) {
		if h.writing = false; saved {
			h.safe = next
		}
	}
}

// Ahead moves the horizon, where somebody has knocked with single packets and may do so.
func (k *kept) Ahead(now time.Time) ([]knock.Mark, func(saved bool)) {
	oneWay := func(u knock.Use) bool { return rule(u.Rule).OneWay }
	if len(k.ledger.counters) == 0 || !slices.ContainsFunc(k.uses, oneWay) {
		return nil, nil
	}
	return k.ledger.horizon.move(now)
}

// Leave puts back the horizon of the start: what was accepted since is on the disk.
func (k *kept) Leave() []knock.Mark {
	h := &k.ledger.horizon
	if !h.moved {
		return nil
	}
	h.safe = h.floor
	return h.mark(h.floor)
}
