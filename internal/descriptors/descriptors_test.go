package descriptors

import "testing"

// Whatever the limit is, each kind has one connection at least, and as long as
// there is room for that, all together leave the daemon half of what
// it does not need for itself.
func TestShares(t *testing.T) {
	for limit := range 5000 {
		sum := 0
		for _, part := range []int{Listeners, Operators, Meters, Streams} {
			got := share(limit, 200, part)
			if got < 1 || got > 200 {
				t.Fatalf("of %d, 1/%d: got %d connections, want 1 to 200", limit, part, got)
			}
			sum += got
		}
		if left := limit - own; left >= Meters && 2*sum > left {
			t.Fatalf("of %d, connections get %d", limit, sum)
		}
	}
	if got := share(own+Meters*64, 64, Meters); got != 64 {
		t.Errorf("with room for 64, metrics get %d connections", got)
	}
}

func TestLimit(t *testing.T) {
	if got := Limit(); got < 16 {
		t.Errorf("the limit is %d, with the test's own files open", got)
	}
}
