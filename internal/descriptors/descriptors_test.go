package descriptors

import "testing"

// Whatever the limit is, each kind has at least one connection; and if there is room
// for that, all kinds together leave half of the files that the daemon does not need for
// itself.
func TestShares(t *testing.T) {
	for limit := range 5000 {
		sum := 0
		for _, part := range []int{Listeners, Operators, Meters, Streams} {
			got := share(limit, 200, part)
			if got < 1 || got > 200 {
				t.Fatalf("limit %d, 1/%d: got %d connections, want 1 to 200", limit, part, got)
			}
			sum += got
		}
		if left := limit - own; left >= Meters && 2*sum > left {
			t.Fatalf("limit %d: connections get %d files", limit, sum)
		}
	}
	if got := share(own+Meters*64, 64, Meters); got != 64 {
		t.Errorf("with room for 64, metrics get %d connections, want 64", got)
	}
}

func TestLimit(t *testing.T) {
	if got := Limit(); got < 16 {
		t.Errorf("Limit() = %d, want at least 16", got)
	}
}
