package store

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// nth is a change that can be told from all others, in all of its parts.
func nth(n int) Change {
	at := time.Unix(int64(n), int64(n)).UTC()
	source := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n % 3)}), 32)
	by := strconv.Itoa(n)
	c := Change{
		Doors:     []Door{{Name: "ssh", Reason: by, Since: at}},
		Penalties: []Penalty{{Door: "ssh", Source: source, Until: at, For: time.Minute, Reason: by}},
		Grants:    []Grant{{Door: "ssh", Source: source, By: by, Until: at}},
		Applied:   &Applied{Confirmed: []byte(by), Deadline: at},
		Records:   []audit.Record{{Time: at, By: by, Until: &at}, {Time: at, By: by}, {Time: at, By: by}},
	}
	if n >= 5 {
		old := nth(n - 5).Grants[0]
		c.EndGrants = []GrantKey{{old.Door, old.Source, old.By}}
	}
	return c
}

const childDir = "DOORWARD_TEST_STORE"

func daemon(dir string) error { return nil }
