package turns

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/visit"
)

// One call has its turn at a time, whether the gateway's name is in upper or lower case;
// calls at another gateway have theirs meanwhile.
func TestOneCallAtATime(t *testing.T) {
	dir, err := Directory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first, err := Take(t.Context(), dir, "gate.example.org")
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 3*poll)
	defer cancel()
	if second, err := Take(soon, dir, "GATE.example.org"); err == nil {
		t.Errorf("two calls have the turn: %v, %v", first, second)
	}
	other, err := Take(t.Context(), dir, "other.example.org")
	if err != nil {
		t.Errorf("at another gateway: %v", err)
	}
	other.Release()
	first.Release()
	second, err := Take(t.Context(), dir, "GATE.example.org")
	if err != nil {
		t.Errorf("after the first: %v", err)
	}
	second.Release()
}

// What opened is remembered for a moment, for its port and its addresses, but not if its
// time is in the future. A nil Turn remembers nothing.
func TestWhatOpenedJustNow(t *testing.T) {
	dir, err := Directory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	turn, err := Take(t.Context(), dir, "gate")
	if err != nil {
		t.Fatal(err)
	}
	defer turn.Release()
	four, six := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	families := [][]netip.Addr{{six}, {four}}
	if got := turn.Read(now, 22, families); len(got.At) > 0 {
		t.Errorf("before anything opened: %v", got)
	}
	for _, alone := range []bool{false, true} {
		turn.Write(now, 22, alone, []visit.Attempt{{Address: four}})
		for _, tt := range []struct {
			name  string
			age   time.Duration
			port  uint16
			addrs [][]netip.Addr
			want  bool
		}{
			{"at once", 0, 22, families, true},
			{"a moment later", sharedFor, 22, families, true},
			{"later", sharedFor + 1, 22, families, false},
			{"before", -1, 22, families, false},
			{"another port", 0, 23, families, false},
			{"another address", 0, 22, families[:1], false},
		} {
			got := turn.Read(now.Add(tt.age), tt.port, tt.addrs)
			if open := slices.ContainsFunc(got.At, func(a visit.Attempt) bool { return a.Address == four }); open != tt.want || open && got.Alone != alone {
				t.Errorf("%s, for one connection %v: %+v, want open %v", tt.name, alone, got, tt.want)
			}
		}
	}
	var none *Turn
	none.Release()
	none.Write(now, 22, false, nil)
	if got := none.Read(now, 22, families); len(got.At) > 0 {
		t.Errorf("without a turn: %v", got)
	}
}
