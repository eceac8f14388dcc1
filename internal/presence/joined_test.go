//go:build linux

package presence

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/port"
)

// A thousand doors that look at the same time are answered by two looks at the kernel: the
// first, and one for all that asked meanwhile. Each receives the connections to its own
// ports, as they were after it asked.
func TestLooksAreJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const took, doors = 10 * time.Millisecond, 1000
		j := newJoined()
		looks, inBy := 0, 1 // inBy is how many are in at each port
		see := func(ports []port.Range) (in []Connection, err error) {
			looks++
			for _, p := range ports {
				for n := range inBy {
					in = append(in, Connection{Proto: port.TCP, Local: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), p.First),
						Remote: netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), uint16(2000+n))})
				}
			}
			time.Sleep(took)
			return in, errors.New("flows cannot be seen")
		}
		var all sync.WaitGroup
		ask := func(n int, want ...string) {
			all.Go(func() {
				number := uint16(1 + n)
				in, err := j.ask([]port.Range{{Proto: port.TCP, First: number, Last: number}}, see)
				if err == nil || err.Error() != "flows cannot be seen" {
					t.Errorf("port %d: error %v, want the look's", number, err)
				}
				var got []string
				for _, c := range in {
					got = append(got, fmt.Sprint(c.Local.Port(), " ", c.Remote.Port()))
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Errorf("port %d (-want +got):\n%s", number, d)
				}
			})
		}
		begun := time.Now()
		ask(0, "1 2000")
		synctest.Wait() // until the first look is under way
		inBy = 2
		for n := range doors {
			ask(n, fmt.Sprint(n+1, " 2000"), fmt.Sprint(n+1, " 2001"))
		}
		all.Wait()
		if looks != 2 {
			t.Errorf("%d looks for %d doors, want 2", looks, doors)
		}
		if got, want := time.Since(begun), took+lookShare*took+took; got != want {
			t.Errorf("all are answered after %v, want %v: a look, its rest, a look", got, want)
		}
	})
}
