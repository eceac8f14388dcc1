//go:build linux

package fence

import (
	"context"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/mutants"
	"github.com/doorward/doorward/internal/nstest"
)

// TestMutants runs, for each deliberate fault of this package, the test that noticed it
// the last time. The other tests would take too long, since they send real packets.
func TestMutants(t *testing.T) {
	if os.Getenv(mutants.Env) != "" || testing.Short() {
		t.Skip("skipped in a mutant and with -short")
	}
	nstest.Need(t, "nft", "ip", "ss", "conntrack")
	all, err := mutants.Load()
	must(t, err)
	hunt, err := mutants.NewHunt(all, t.TempDir())
	must(t, err)
	noticed := mutants.Noticed()
	for _, m := range all {
		if path.Dir(m.File) != "internal/fence" {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			finder, ok := strings.CutPrefix(noticed[m.Name], "internal/fence ")
			if !ok {
				t.Fatalf("mutants/noticed.txt names %q for it, want a test of this package", noticed[m.Name])
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			begun := time.Now()
			out, err := hunt.Tests(ctx, m, "internal/fence", nil, "-test.run=^"+finder+"$", "-test.failfast", "-test.timeout=2m")
			if err == nil || !regexp.MustCompile(`(?m)^\s*--- FAIL: `+finder).Match(out) {
				t.Fatalf("the mutant breaks %s, and %s did not notice: %v\n%s", m.Breaks, finder, err, out)
			}
			t.Logf("%s, noticed by %s after %v", m.Breaks, finder, time.Since(begun).Round(100*time.Millisecond))
		})
	}
}
