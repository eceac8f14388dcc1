//go:build linux

package fence

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

// A table of an earlier version (its listing is in testdata) is replaced by today's in
// one transaction, and its grants keep their time.
func TestUpgradeKeepsGrants(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "nft")
	for _, tc := range []struct {
		file  string
		plain bool
	}{{"layout1.nft", false}, {"layout1.nft", true}, {"layout2.nft", false}, {"layout2.nft", true}} {
		old, err := os.ReadFile("testdata/" + tc.file)
		must(t, err)
		plain := tc.plain
		n := nstest.New(t)
		cmd := n.Command(t.Context(), "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(strings.Replace(string(old), "flags owner", "", 1))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		f := openIn(t, n, plain)
		must(t, f.Guard([]Door{{Name: "once", Ports: ports(t, "22/tcp"), SingleUse: true}}))
		must(t, f.Check())
		gs, err := f.allGrants()
		must(t, err)
		if len(gs) != 1 || gs[0].Source != prefixes("192.0.2.0/24")[0] || left(gs[0]) > time.Minute || left(gs[0]) < 30*time.Second {
			t.Errorf("%s, plain %v: Grants() = %v, want the one of the earlier table", tc.file, plain, gs)
		}
	}
}
