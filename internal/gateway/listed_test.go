package gateway

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/door"
)

// However many doors have very many grants, a sheet of how things stand lists some
// thousands, of each door the latest, and counts them all.
func TestStatusOfManyDoorsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const doors, each = 40, 600
		text := ""
		for i := range doors {
			text += fmt.Sprintf("[door.d%d]\nports = [\"%d/tcp\"]\npresence.logins = \"off\"\n[[door.d%d.knock]]\nkind = \"touch\"\n"+
				"listen = [%d, %d]\ntouch = [%d, %d]\n", i, 100+i, i, 2000+2*i, 2001+2*i, 2000+2*i, 2001+2*i)
		}
		r := run(t, newMachine(), configPath(t), text)
		until := r.world.Now().Add(time.Hour)
		source := func(n int) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}), 32)
		}
		filled := make(chan struct{})
		r.events <- func(time.Time) {
			defer close(filled)
			for at, d := range r.doors {
				if at == 0 { // has few: lists all
					d.door.Restore(door.Claim{Source: source(0), By: "touch", Until: until})
					continue
				}
				for n := range each {
					d.door.Restore(door.Claim{Source: source(n), By: "touch", Until: until})
				}
			}
		}
		<-filled
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
