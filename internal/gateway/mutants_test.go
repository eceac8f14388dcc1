package gateway

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/mutants"
)

// elsewhere are the parts of which the gateway's tests know nothing, so that
// their own look for their faults: those that are named, which need no machine.
var elsewhere = map[string]string{
	"internal/cage":      "^(TestArguments|TestNoArguments.*|TestFiles.*|TestNotes.*|TestCache.*)$",
	"internal/launcher":  "^TestNothingIsRun",
	"internal/daemon":    "^Test(Walls|Vigil|Shelf)",
	"internal/datagrams": "^Test(AFlood|WhoIs|Answers|Set$)",
	"internal/listen":    "^Test(Inherit|StrangeSockets|NobodyElse|OneShot|Parting)",
	"internal/store":     "^Test(RefusalsPushOut|OthersHave|EveryByte|ACommitThat|PowerCut)",
	"internal/presence":  "^Test(Auto|Journal|Outliers|Zone|RealLines|RealPrograms|Forged|Unknown|Logins|WhoIsIn|CutStamp|AStampIn|Entries)",
	"internal/config":    ".",
	"internal/files":     ".",
	"internal/legible":   ".",
	"internal/share":     ".",
	"internal/service":   "^Test(NamesByLinks|PolkitRule|Refused|RestartIsNoStop)$",
	"internal/doctor":    "^TestUnit",
	"cmd/doorward":       ".",
}

// TestMutants builds this package's tests with each deliberate fault, and has
// the explorer look for what it breaks, then the other tests; those of another
// package have that one's look. One that nobody notices fails.
func TestMutants(t *testing.T) {
	if os.Getenv("DOORWARD_MUTANT") != "" {
		t.Skip("this is a mutant")
	}
	all, err := mutants.Load()
	if err != nil {
		t.Fatal(err)
	}
	slots := make(chan bool, runtime.GOMAXPROCS(0))
	for _, m := range all {
		if strings.HasPrefix(m.File, "internal/fence/") {
			continue // this package's tests have a fence of their own; internal/fence hunts them
		}
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			slots <- true
			defer func() { <-slots }()
			begun := time.Now()
			by, err := hunt(t, m)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s, noticed by %s after %v", m.Breaks, by, time.Since(begun).Round(100*time.Millisecond))
		})
	}
}

// hunt says who noticed a mutant.
func hunt(t *testing.T, m mutants.Mutant) (by string, err error) {
	dir := t.TempDir()
	overlay, err := m.Overlay(dir)
	if err != nil {
		return "", err
	}
	if tests, ok := elsewhere[path.Dir(m.File)]; ok {
		return huntAtHome(t, dir, overlay, m, tests)
	}
	binary := filepath.Join(dir, "mutant.test")
	if out, err := run1(t, dir, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", binary, "."); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	for _, tests := range [][]string{
		{"-test.run=^TestExplore$"},
		{"-test.run=.", "-test.skip=^(TestExplore|TestMutants|TestGuessing)$"},
	} {
		out, err := run1(t, dir, binary, append(tests, "-test.failfast", "-test.timeout=1m")...)
		if err == nil {
			continue
		}
		if name := regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+/.*|Test[^E]\S*) `).FindSubmatch(out); name != nil {
			return string(name[1]), nil
		}
		if regexp.MustCompile(`(?m)^(panic|fatal error): `).Match(out) {
			return "a panic", nil
		}
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return huntAtHome(t, dir, overlay, m, ".")
}

// huntAtHome has the tests of the package look that a fault is in.
func huntAtHome(t *testing.T, dir, overlay string, m mutants.Mutant, tests string) (by string, err error) {
	home := "../../" + path.Dir(m.File)
	out, err := run1(t, dir, "go", "test", "-short", "-vet=off", "-failfast", "-timeout=1m", "-run="+tests, "-overlay", overlay, home)
	if name := regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+) `).FindSubmatch(out); err != nil && name != nil {
		return path.Base(home) + "." + string(name[1]), nil
	}
	return "", fmt.Errorf("it broke %s, and nobody noticed\n%s", m.Breaks, out)
}

// run1 runs a program on one processor.
func run1(t *testing.T, dir, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), "GOMAXPROCS=1", "DOORWARD_MUTANT=yes", "DOORWARD_EXPLORE=500", "TMPDIR="+dir)
	return c.CombinedOutput()
}
