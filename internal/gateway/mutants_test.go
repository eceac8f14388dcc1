package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/mutants"
	"github.com/doorward/doorward/internal/race"
)

// elsewhere are the packages that the gateway's tests do not cover, so that their own
// tests look for their faults: those that match, which need no machine.
var elsewhere = map[string]string{
	"internal/sandbox":    "^(TestArguments|TestNoArguments.*|TestFiles.*|TestNotes.*|TestCache.*)$",
	"internal/launcher":   "^TestNothingIsRun",
	"internal/daemon":     "^Test(Policy|FileWatchEndsTheDaemon|WatchedFiles|FDStore)",
	"internal/datagrams":  "^Test(AFlood|WhoIs|Answers|Set$)",
	"internal/listen":     "^Test(Inherit|StrangeSockets|NobodyElse|OneShot|Closing)",
	"internal/audit":      ".",
	"internal/store":      "^Test(RefusalsPushOut|VisitsPushOut|OthersHave|EveryByte|ACommitThat|PowerCut|ATrailThat|ALogThat|TheChain|ReadersSee)",
	"internal/presence":   "^Test(Auto|Journal|Outliers|Zone|RealLines|RealPrograms|Forged|Unknown|Logins|WhoIsIn|CutStamp|AStampIn|Entries)",
	"internal/config":     ".",
	"internal/files":      ".",
	"internal/legible":    ".",
	"internal/sealed":     ".",
	"internal/seal":       "^Test(Keys|Salts|State|Handshake|Altered)",
	"internal/credential": "^Test(Permits|Party|Stands)",
	"internal/share":      ".",
	"internal/service":    "^Test(NamesByLinks|PolkitRule|Refused|RestartIsNoStop)$",
	"internal/doctor":     "^TestUnit",
	"internal/removal":    ".",
	"internal/visit":      "^Test(Wait|ASlow)",
	"internal/turns":      ".",
	"internal/client":     "^TestHold",
	"internal/profile":    ".",
	"cmd/doorward":        ".",
}

// TestMutants checks that each deliberate fault is noticed. The test that noticed it the
// last time looks for it first. If that does not notice it now, or none is known, the
// explorer looks for what it breaks, then this package's other tests, and then those of
// the fault's own package; if that is in elsewhere, those alone. TestMutants fails if
// nobody notices a fault, or if a test that noticed one fails without any, too.
func TestMutants(t *testing.T) {
	race.Skip(t) // what it builds has no race detector
	if os.Getenv(mutants.Env) != "" {
		t.Skip("this is a mutant")
	}
	all, err := mutants.Load()
	if err != nil {
		t.Fatal(err)
	}
	hunt, err := mutants.NewHunt(all, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	noticed := mutants.Noticed()
	var found sync.Map
	t.Cleanup(func() {
		passWithoutFault(t, hunt, &found)
		if os.Getenv("UPDATE_GOLDEN") != "" && !t.Failed() {
			update(t, noticed, &found)
		}
	})
	slots := make(chan bool, runtime.GOMAXPROCS(0))
	for _, m := range all {
		home := path.Dir(m.File)
		if home == "internal/fence" {
			continue // this package's tests have a fence of their own; internal/fence looks for these faults
		}
		if _, ok := elsewhere[home]; !ok {
			home = here
		}
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			slots <- true
			defer func() { <-slots }()
			begun := time.Now()
			by, err := noticesAgain(t, hunt, m, noticed[m.Name])
			if errors.Is(err, errUnnoticed) {
				by, err = notices(t, hunt, m, home)
			}
			if errors.Is(err, errUnnoticed) && home == here {
				by, err = look(t, hunt, m, path.Dir(m.File), "-test.run=.")
			}
			if err != nil {
				t.Fatalf("it broke %s: %v", m.Breaks, err)
			}
			found.Store(m.Name, by)
			t.Logf("%s, noticed by %s after %v", m.Breaks, by, time.Since(begun).Round(100*time.Millisecond))
		})
	}
}

const here = "internal/gateway"

var errUnnoticed = errors.New("nobody noticed")

// passWithoutFault has all tests that noticed a fault look where there is none.
func passWithoutFault(t *testing.T, hunt *mutants.Hunt, found *sync.Map) {
	tests := map[string]map[string]bool{} // patterns by package
	found.Range(func(_, by any) bool {
		if pkg, test, ok := test(by.(string)); ok {
			if tests[pkg] == nil {
				tests[pkg] = map[string]bool{}
			}
			tests[pkg][test] = true
		}
		return true
	})
	slots := make(chan bool, runtime.GOMAXPROCS(0))
	var all sync.WaitGroup
	for pkg, patterns := range tests {
		all.Go(func() {
			slots <- true
			defer func() { <-slots }()
			by, err := look(t, hunt, mutants.Mutant{}, pkg, "-test.run="+strings.Join(slices.Sorted(maps.Keys(patterns)), "|"), "-test.timeout=5m")
			if !errors.Is(err, errUnnoticed) {
				t.Errorf("%s notices a fault where there is none: %v", by, err)
			}
		})
	}
	all.Wait()
}

// test returns the package of a test that is named in the form of mutants.Noticed, and a
// pattern for -run that only the test matches.
func test(by string) (pkg, pattern string, ok bool) {
	pkg, name, ok := strings.Cut(by, " ")
	return pkg, "^" + strings.ReplaceAll(regexp.QuoteMeta(name), "/", "$/^") + "$", ok && name != "panic"
}

// noticesAgain has one test look, named in the form of mutants.Noticed.
func noticesAgain(t *testing.T, hunt *mutants.Hunt, m mutants.Mutant, by string) (string, error) {
	pkg, pattern, ok := test(by)
	if !ok {
		return "", errUnnoticed
	}
	return look(t, hunt, m, pkg, "-test.run="+pattern)
}

// update writes down who noticed what.
func update(t *testing.T, noticed map[string]string, found *sync.Map) {
	all := map[string]string{}
	for name, by := range noticed {
		if strings.HasPrefix(by, "internal/fence ") {
			all[name] = by
		}
	}
	found.Range(func(name, by any) bool {
		if strings.Contains(by.(string), " ") { // not a panic
			all[name.(string)] = by.(string)
		}
		return true
	})
	const file = "../mutants/noticed.txt"
	before, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
		return
	}
	var b strings.Builder
	for line := range strings.Lines(string(before)) {
		if b.WriteString(line); line == "\n" {
			break
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintln(&b, name, all[name])
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Error(err)
	}
}

// notices returns which test of a package notices a mutant.
func notices(t *testing.T, hunt *mutants.Hunt, m mutants.Mutant, home string) (by string, err error) {
	if home != here {
		return look(t, hunt, m, home, "-test.run="+elsewhere[home])
	}
	by, err = look(t, hunt, m, here, "-test.run=^TestExplore$")
	if errors.Is(err, errUnnoticed) {
		return look(t, hunt, m, here, "-test.skip=^(TestExplore|TestMutants|TestGuessing)$")
	}
	return by, err
}

// look runs tests of a package on one processor, and returns which noticed the mutant.
func look(t *testing.T, hunt *mutants.Hunt, m mutants.Mutant, pkg string, flags ...string) (by string, err error) {
	// Not t.TempDir: sockets need short paths, and other users must be able to reach theirs.
	dir, err := os.MkdirTemp("", "m")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	env := []string{"GOMAXPROCS=1", "DOORWARD_EXPLORE=500", "TMPDIR=" + dir}
	ctx := context.WithoutCancel(t.Context()) // this also serves passWithoutFault, after the test
	out, err := hunt.Tests(ctx, m, pkg, env, append([]string{"-test.short", "-test.failfast", "-test.timeout=1m"}, flags...)...)
	if err == nil {
		return "", fmt.Errorf("%w in %s", errUnnoticed, pkg)
	}
	if names := regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+) `).FindAllSubmatch(out, -1); names != nil {
		return pkg + " " + string(names[len(names)-1][1]), nil
	}
	if regexp.MustCompile(`(?m)^(panic|fatal error): `).Match(out) {
		return "a panic", nil
	}
	return "", fmt.Errorf("%w\n%s", err, out)
}
