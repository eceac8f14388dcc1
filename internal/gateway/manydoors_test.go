package gateway

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// manyDoors returns a configuration with n doors.
func manyDoors(n int) string {
	text := ""
	for i := range n {
		text += fmt.Sprintf("[door.d%d]\nports = [\"%d/tcp\"]\npresence.logins = \"off\"\n[[door.d%d.knock]]\nkind = \"touch\"\n"+
			"listen = [%d, %d]\ntouch = [%d, %d]\n", i, 100+i, i, 2000+2*i, 2001+2*i, 2000+2*i, 2001+2*i)
	}
	return text
}

// fill gives each door as many grants as grants says, as after a restart.
func (r *running) fill(length time.Duration, grants func(door int) int) {
	filled := make(chan struct{})
	r.events <- func(now time.Time) {
		defer close(filled)
		for at, d := range r.doors {
			for n := range grants(at) {
				source := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), 32)
				d.door.Restore(door.Claim{Source: source, By: "touch", Until: now.Add(length), For: length})
			}
		}
	}
	<-filled
}

// However many doors have very many grants, a snapshot lists a few thousand, the latest of
// each door, and counts them all.
func TestStatusOfManyDoorsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const doors, each = 40, 600
		r := run(t, newMachine(), configPath(t), manyDoors(doors))
		r.fill(time.Hour, func(door int) int {
			if door == 0 { // lists all that it has
				return 1
			}
			return each
		})
		s, _ := r.Status()
		listed, counted := 0, 0
		for i, d := range s.Doors {
			listed += len(d.Grants)
			counted += d.GrantsTotal
			if want := min(d.GrantsTotal, 125); len(d.Grants) != want {
				t.Errorf("door %d lists %d of %d grants, want %d", i, len(d.Grants), d.GrantsTotal, want)
			}
		}
		if want := (doors-1)*each + 1; counted != want || listed > listedInAll {
			t.Errorf("%d doors list %d grants and count %d, want at most %d and all %d", doors, listed, counted, listedInAll, want)
		}
	})
}

// Grants that operators give at one door also go to the kernel in parts.
func TestManySourcesOpenInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sources = 2*maxCost + 1
		m := newMachine()
		r := run(t, m, configPath(t), manyDoors(1))
		release := r.hold()
		for i := range sources {
			go func() {
				source := netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}).String()
				if _, err := r.ask(control.OpenRequest{Door: "d0", Source: source, For: "1h"}); err != nil {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		release()
		if len(m.grants) != sources || m.largest > maxCost {
			t.Errorf("%d of %d sources are let in, and a change has up to %d grants, want all and at most %d",
				len(m.grants), sources, m.largest, maxCost)
		}
	})
}

// Grants that operators give at many doors at once go to the kernel in parts, since it
// searches all sets for each door's.
func TestManyDoorsOpenInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const doors, most = 320, maxCost*doorsPerGrant/(320+doorsPerGrant) + 1
		m := newMachine()
		r := run(t, m, configPath(t), manyDoors(doors))
		release := r.hold()
		for i := range doors {
			go func() {
				_, err := r.ask(control.OpenRequest{Door: fmt.Sprint("d", i), Source: "192.0.2.2", For: "1h"})
				if err != nil {
					t.Error(err)
				}
			}()
		}
		synctest.Wait()
		release()
		if len(m.grants) != doors || m.largest > most {
			t.Errorf("%d of %d doors are open, and a change has up to %d grants, want all and at most %d",
				len(m.grants), doors, m.largest, most)
		}
	})
}
