//go:build linux

package listen

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Strangers' connections take no more descriptors than the listener's share, however
// many come in a moment.
func TestClosingHoldsNoMoreThanItsShare(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, most := range []int{0, 1, 2, 3, 16, 64, maxHeld} {
		before := openFiles(t)
		p := closer{max: most}
		highest := 0
		for range 2 * maxHeld {
			for !p.full() {
				p.fresh = append(p.fresh, connection(t))
			}
			if n := len(p.fresh) + len(p.held); n > highest {
				highest = n
				if open := openFiles(t) - before; open > n {
					t.Fatalf("of %d: %d descriptors are open, and %d connections are known", most, open, n)
				}
			}
			p.closeFresh(now)
		}
		want := max(1, most)
		if most == maxHeld {
			want = maxFINPerSecond + maxBurst // all in the same second
		}
		if highest != want {
			t.Errorf("of %d: %d connections were there at a time, want %d", most, highest, want)
		}
		p.closeDue(now.Add(closeDelay))
		if open := openFiles(t) - before; open > 0 {
			t.Errorf("of %d: %d descriptors are left after closeDelay", most, open)
		}
	}
}

// connection returns one end of a connection whose other end is closed.
func connection(t *testing.T) int {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(pair[1])
	return pair[0]
}
