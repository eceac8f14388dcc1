package gateway

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/mutants"
)

// TestMutants builds this package's tests with each deliberate fault, and has
// the explorer look for what it breaks, then the other tests. One that nobody
// notices fails.
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

// hunters are the packages whose own tests must notice a mutant that is in them:
// it breaks what this package only takes for granted.
var hunters = map[string]string{"internal/daemon": "../daemon", "internal/listen": "../listen"}

// hunt says who noticed a mutant.
func hunt(t *testing.T, m mutants.Mutant) (by string, err error) {
	dir := t.TempDir()
	overlay, err := m.Overlay(dir)
	if err != nil {
		return "", err
	}
	binary, in := filepath.Join(dir, "mutant.test"), cmp.Or(hunters[path.Dir(m.File)], ".")
	if out, err := run1(t, dir, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", binary, in); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	hunts := [][]string{{"-test.run=^TestExplore$"}, {"-test.run=.", "-test.skip=^(TestExplore|TestMutants)$"}}
	if in != "." {
		hunts = [][]string{{"-test.run=."}}
	}
	for _, tests := range hunts {
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
	return "", fmt.Errorf("it broke %s, and nobody noticed", m.Breaks)
}

// run1 runs a program on one processor.
func run1(t *testing.T, dir, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), "GOMAXPROCS=1", "DOORWARD_MUTANT=yes", "DOORWARD_EXPLORE=500", "TMPDIR="+dir)
	return c.CombinedOutput()
}
