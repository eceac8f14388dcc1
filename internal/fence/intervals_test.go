//go:build linux

package fence

import (
	"testing"

	"pgregory.net/rapid"
)

// An interval set contains what its spans contain, and the kernel accepts its elements:
// beginnings and ends alternate, in order, and no interval ends where the next begins.
func TestIntervals(t *testing.T) {
	key := func(high, low int) string { return string([]byte{byte(high), byte(low)}) }
	rapid.Check(t, func(t *rapid.T) {
		var spans []span
		var want [1 << 16]bool
		for range rapid.IntRange(0, 6).Draw(t, "spans") {
			first := rapid.OneOf(rapid.IntRange(0, 600), rapid.IntRange(0xff00, 0xffff)).Draw(t, "first")
			last := min(first+rapid.OneOf(rapid.IntRange(0, 3), rapid.IntRange(0, 300)).Draw(t, "length"), 0xffff)
			spans = append(spans, span{key(first>>8, first), key(last>>8, last)})
			for i := first; i <= last; i++ {
				want[i] = true
			}
		}
		elems := intervals(spans)
		for i, e := range elems {
			if e.End != (i%2 == 1) || i > 0 && e.Key <= elems[i-1].Key {
				t.Fatalf("beginnings and ends do not alternate: %v", elems)
			}
		}
		in, next := false, 0
		for i, due := range want {
			if next < len(elems) && elems[next].Key == key(i>>8, i) {
				in, next = !elems[next].End, next+1
			}
			if in != due {
				t.Fatalf("%d is in the set: %v, in its spans: %v", i, in, due)
			}
		}
	})
}
