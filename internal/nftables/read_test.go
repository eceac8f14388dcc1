//go:build linux

package nftables

import (
	"math"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nfnetlink"
)

// A grant that another program gave for centuries must still be seen.
func TestLongTimesAreNotLost(t *testing.T) {
	const most = uint64(math.MaxInt64 / time.Millisecond)
	for ms, want := range map[uint64]time.Duration{
		0: 0, 30_000: 30 * time.Second, most: longest, most + 1: longest, 1 << 44: longest, math.MaxUint64: longest,
	} {
		if got := millis(ms); got != want {
			t.Errorf("millis(%d) = %s, want %s", ms, got, want)
		}
	}
}

func TestEventsThatCannotBeReadCount(t *testing.T) {
	c := &Conn{table: testTable}
	whole := inTable(testTable)
	for _, data := range []attrs{whole, whole[:10], append(nfnetlink.Header(unix.NFPROTO_INET), 3, 0, 1, 0)} {
		if !c.concerns(data) {
			t.Errorf("event %x does not concern the table, want that it does", data)
		}
	}
	if c.concerns(nfnetlink.Header(unix.NFPROTO_INET)) {
		t.Error("an event without attributes concerns the table, want that it does not")
	}
}
