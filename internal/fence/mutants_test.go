//go:build linux

package fence

import (
	"context"
	"os"
	"path"
	"regexp"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/mutants"
	"github.com/doorward/doorward/internal/nstest"
)

// finders are the tests that must notice each deliberate fault of this package.
var finders = map[string]string{
	"syn-on-an-entry-is-believed":        "TestSynOnAnEntryNeedsAGrant",
	"syn-spends-the-grant":               "TestForgedSegmentsSpendNothing",
	"forged-ack-spends-the-grant":        "TestForgedSegmentsSpendNothing",
	"handshake-is-not-judged-again":      "TestHandshakeIsJudgedAgain",
	"two-spend-one-grant":                "TestOneHandshakeSpendsTheGrant",
	"entry-is-a-session":                 "TestSynOnAnEntryNeedsAGrant",
	"nothing-is-asked-at-arrival":        "TestOtherWaysToAGuardedPort",
	"published-handshake-is-not-judged":  "TestPublishedPortsOfSingleUse",
	"fast-open-takes-no-handshake":       "TestFastOpenTakesAHandshake",
	"sessions-need-an-entry":             "TestSessionsOutliveForgeryAndForgetting",
	"stray-is-answered":                  "TestSessionsOutliveForgeryAndForgetting",
	"sessions-need-early-demultiplexing": "TestStandingSessionsLiveOn",
	"cookie-is-good-for-ever":            "TestCookieIsGoodForOneHandshake",
	"handshake-before-the-session":       "TestSessionIsNoHandshake",
	"resets-are-refused":                 "TestResetsArrive",
	"flows-outlive-close":                "TestEndFlows",
	"answers-make-a-flow":                "TestAnswersMakeNoFlow",
	"forgotten-flow-outlives-close":      "TestAnswersMakeNoFlow",
	"ended-flow-wears-off":               "TestEndedFlowsStayEnded",
	"ended-for-ever":                     "TestAnswersMakeNoFlow",
	"late-grant-gets-its-whole-time":     "TestLateGrantsHaveWhatIsLeft",
	"knock-over-loopback-is-heard":       "TestKnocksOfTheHostItself",
	"datagram-over-loopback-is-heard":    "TestKnocksOfTheHostItself",
	"moving-port-meets-new-rules":        "TestPortsThatMove",
	"emptied-door-stays-full":            "TestEmptied",
	"halted-change-is-forgotten":         "TestAHaltedGuard",
}

// TestMutants has the test that is there for each deliberate fault of this package
// look for it.
func TestMutants(t *testing.T) {
	if os.Getenv(mutants.Env) != "" || testing.Short() {
		t.Skip("this is a mutant, or is to be short")
	}
	nstest.Need(t, "nft", "ip", "ss", "conntrack")
	all, err := mutants.Load()
	must(t, err)
	hunt, err := mutants.NewHunt(all, t.TempDir())
	must(t, err)
	for _, m := range all {
		if path.Dir(m.File) != "internal/fence" {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			finder, ok := finders[m.Name]
			if !ok {
				t.Fatal("no test is named in finders")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			begun := time.Now()
			out, err := hunt.Tests(ctx, m, "internal/fence", nil, "-test.run=^"+finder+"$", "-test.failfast", "-test.timeout=2m")
			if err == nil || !regexp.MustCompile(`(?m)^\s*--- FAIL: `+finder).Match(out) {
				t.Fatalf("it broke %s, and %s did not notice: %v\n%s", m.Breaks, finder, err, out)
			}
			t.Logf("%s, noticed by %s after %v", m.Breaks, finder, time.Since(begun).Round(100*time.Millisecond))
		})
	}
}
