//go:build linux

package fence

import (
	"math"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A grant that another program gave for centuries is still a grant.
func TestLongTimesAreNotLost(t *testing.T) {
	const most = uint64(math.MaxInt64 / time.Millisecond)
	for ms, want := range map[uint64]time.Duration{
		0: 0, 30_000: 30 * time.Second, most: longest, most + 1: longest, 1 << 44: longest, math.MaxUint64: longest,
	} {
		if got := millis(ms); got != want {
			t.Errorf("%d ms are %s, want %s", ms, got, want)
		}
	}
}

func TestEventsThatCannotBeReadCount(t *testing.T) {
	f := &Fence{}
	whole := inTable(tableName)
	for _, data := range []attrs{whole, whole[:10], append(header(unix.NFPROTO_INET), 3, 0, 1, 0)} {
		if !f.concerns(netlink.Message{Header: netlink.Header{PID: 1}, Data: data}) {
			t.Errorf("%x is no reason to look", data)
		}
	}
	if f.concerns(netlink.Message{Header: netlink.Header{PID: 1}, Data: header(unix.NFPROTO_INET)}) {
		t.Error("an event about nothing is a reason to look")
	}
}
