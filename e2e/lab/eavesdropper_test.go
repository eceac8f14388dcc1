//go:build linux

package lab

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// What an eavesdropper sends is what was seen, as it was and in every way altered, and made
// of nothing else; what was seen stays as it was.
func TestEavesdropper(t *testing.T) {
	var e Eavesdropper
	dice := rand.New(rand.NewPCG(1, 2))
	if d := e.Forge(dice); d != nil {
		t.Errorf("before anything was seen it sends %q", d)
	}
	one, other := bytes.Repeat([]byte{0}, 40), bytes.Repeat([]byte{255}, 60)
	e.See(one)
	e.See(other)
	ways := map[string]int{}
	for range 2000 {
		switch d := e.Forge(dice); {
		case bytes.Equal(d, one) || bytes.Equal(d, other):
			ways["as it was"]++
		case bytes.ContainsFunc(d, func(r rune) bool { return r != 0 && r != 255 && r != 0xfffd }):
			ways["a bit flipped"]++
		case len(d) < 40:
			ways["cut short"]++
		case len(d) != 40 && len(d) != 60:
			ways["of another length"]++
		default:
			ways["mixed"]++
		}
	}
	for _, way := range []string{"as it was", "a bit flipped", "cut short", "of another length", "mixed"} {
		if ways[way] == 0 {
			t.Errorf("of 2,000 datagrams none was %s: %v", way, ways)
		}
	}
	for range 2 * mostSeen {
		e.See(one)
	}
	if len(e.seen) > mostSeen {
		t.Errorf("it remembers %d, want %d at most", len(e.seen), mostSeen)
	}
	one[0] = 7
	if d := e.any(dice); d[0] == 7 {
		t.Error("it remembers another datagram than it has seen")
	}
}
