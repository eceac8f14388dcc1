package share

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/touch"
)

// TestDraw: whatever the configuration, a drawn knock has the old one's shape
// and touches nothing that is used.
func TestDraw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(t, "listeners")
		k := touch.Rule{Given: rapid.Bool().Draw(t, "order")}
		for i := range n {
			k.Listen = append(k.Listen, uint16(20000+i))
		}
		k.Touch = k.Listen[:rapid.IntRange(1, n).Draw(t, "touches")]
		guarded := port.Range{Proto: port.TCP, First: 20500, Last: uint16(rapid.IntRange(20500, 32767).Draw(t, "guarded"))}
		c := &config.Config{Doors: []config.Door{
			{Name: "a", Knocks: []config.Knock{{Rule: k}}},
			{Name: "b", Ports: []port.Range{guarded}, Knocks: []config.Knock{{Rule: touch.Rule{Listen: []uint16{62000}}}}},
		}}
		odd := func(p uint16) bool { return p%2 == 1 }
		listen, touched, err := Draw(c, k, odd, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if len(listen) != len(k.Listen) || len(touched) != len(k.Touch) {
			t.Fatalf("%d listeners and %d touches, want %d and %d", len(listen), len(touched), len(k.Listen), len(k.Touch))
		}
		if !slices.IsSorted(listen) || len(slices.Compact(slices.Clone(listen))) != n {
			t.Errorf("listeners %v are not ascending and different", listen)
		}
		for _, p := range listen {
			inside := 20000 <= p && p <= 32767 || 61000 <= p
			if !inside || odd(p) || p == 62000 || slices.Contains(k.Listen, p) ||
				guarded.Contains(port.Port{Proto: port.TCP, Number: p}) {
				t.Errorf("port %d was drawn (guarded are %v)", p, guarded)
			}
		}
		for _, p := range touched {
			if !slices.Contains(listen, p) {
				t.Errorf("touch %d is no listener of %v", p, listen)
			}
		}
		if !k.Given && !slices.IsSorted(touched) {
			t.Errorf("touches %v tell an order that does not matter", touched)
		}
	})
}

// TestDrawIsEven: every listener is as likely to be one to touch, and every
// order of a knock in order.
func TestDrawIsEven(t *testing.T) {
	k := touch.Rule{Listen: []uint16{1, 2, 3}, Touch: []uint16{1, 2}, Given: true}
	c := &config.Config{Doors: []config.Door{{Knocks: []config.Knock{{Rule: k}}}}}
	seen := map[string]int{}
	const draws = 600
	for range draws {
		listen, touched, err := Draw(c, k, func(uint16) bool { return false }, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		seen[fmt.Sprint(slices.Index(listen, touched[0]), slices.Index(listen, touched[1]))]++
	}
	// Six ordered pairs, 100 each; 50 would be five standard deviations off.
	for pair, n := range seen {
		if n < draws/12 {
			t.Errorf("positions %s came up %d times in %d", pair, n, draws)
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d of 6 ordered pairs came up", len(seen))
	}
}

func TestDrawFails(t *testing.T) {
	k := touch.Rule{Listen: []uint16{1, 2}, Touch: []uint16{1}}
	c := &config.Config{Doors: []config.Door{{Knocks: []config.Knock{{Rule: k}}}}}
	_, _, err := Draw(c, k, func(p uint16) bool { return p != 20000 }, rand.Reader)
	if want := "too few ports are free for a new knock"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	_, _, err = Draw(c, k, func(uint16) bool { return false }, bytes.NewReader(nil))
	if err == nil || errors.Unwrap(err) == nil {
		t.Errorf("error %v, want one that wraps the source's", err)
	}
}
