//go:build linux

package fence

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/port"
	"go.uber.org/goleak"
)

// childEnv, if set, makes the test program a daemon that the test kills.
const childEnv = "DOORWARD_FENCE_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if err := child(); err != nil {
			fmt.Println(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// child guards port 22, lets the visitor in, reports that, and waits to be killed.
func child() error {
	f, err := Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	door := Door{Name: "ssh", Ports: []port.Range{{Proto: port.TCP, First: 22, Last: 22}}}
	if err := f.Guard([]Door{door}); err != nil {
		return err
	}
	g := Grant{"ssh", prefixes(visitorIP + "/32")[0], time.Now().Add(time.Hour)}
	if err := f.Change(Changes{Give: []Grant{g}}); err != nil {
		return err
	}
	fmt.Println("guarding")
	os.Stdin.Read(make([]byte, 1)) // until this process is killed, or its parent ends
	return nil
}

// allGrants returns all live grants, of one moment unless the ruleset keeps changing.
func (f *Fence) allGrants() ([]Grant, error) {
	var grants []Grant
	for range 5 {
		grants = grants[:0]
		once, err := f.list(nil, func(g Grant) { grants = append(grants, g) })
		if once || err != nil {
			return distinct(grants), err
		}
	}
	return distinct(grants), nil
}

// distinct is each grant once: one may come twice while the kernel's table grows.
func distinct(grants []Grant) []Grant {
	seen := map[[2]string]bool{}
	return slices.DeleteFunc(grants, func(g Grant) bool {
		key := [2]string{g.Door, g.Source.String()}
		defer func() { seen[key] = true }()
		return seen[key]
	})
}
