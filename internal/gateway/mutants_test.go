package gateway

import (
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
	"internal/store":      "^Test(RefusalsPushOut|OthersHave|EveryByte|ACommitThat|PowerCut|ATrailThat|ALogThat|TheChain|ReadersSee)",
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
// nobody notices a fault.
func TestMutants(t *testing.T) {
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
		if os.Getenv("UPDATE_GOLDEN") != "" && !t.Failed() {
			update(t, noticed, &found)
		}
	})
	slots := make(chan bool, runtime.GOMAXPROCS(0))
	homes := map[string]bool{}
	for _, m := range all {
		home := path.Dir(m.File)
		if home == "internal/fence" {
			continue // this package's tests have a fence of their own; internal/fence looks for these faults
		}
		if _, ok := elsewhere[home]; !ok {
			home = here
		}
		if !homes[home] {
			homes[home] = true
			t.Run("none in "+home, func(t *testing.T) {
				t.Parallel()
				slots <- true
				defer func() { <-slots }()
				by, err := notices(t, hunt, mutants.Mutant{File: home + "/"}, home)
				if !errors.Is(err, errUnnoticed) {
					t.Fatalf("%s notices a fault where there is none: %v", by, err)
				}
			})
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

// noticesAgain has one test look, named in the form of mutants.Noticed.
func noticesAgain(t *testing.T, hunt *mutants.Hunt, m mutants.Mutant, by string) (string, error) {
	pkg, test, ok := strings.Cut(by, " ")
	if !ok {
		return "", errUnnoticed
	}
	return look(t, hunt, m, pkg, "-test.run=^"+strings.ReplaceAll(regexp.QuoteMeta(test), "/", "$/^")+"$")
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
	out, err := hunt.Tests(t.Context(), m, pkg, env, append(flags, "-test.short", "-test.failfast", "-test.timeout=1m")...)
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
