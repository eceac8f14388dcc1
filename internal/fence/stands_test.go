//go:build linux

package fence

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
)

// A table stands if it judges packets for some door, whoever made it. One that was made
// but not used yet, or whose rules somebody removed, does not stand.
func TestStands(t *testing.T) {
	t.Parallel()
	n := nstest.New(t)
	nstest.Need(t, "nft")
	check := func(f *Fence, want bool, when string) {
		t.Helper()
		if got, err := f.Stands(); err != nil || got != want {
			t.Errorf("%s: Stands() = %v, %v, want %v", when, got, err, want)
		}
	}
	f := openIn(t, n, true)
	check(f, false, "opened, and no door guarded yet")
	must(t, f.Guard([]Door{sshDoor(t)}))
	check(f, true, "a door is guarded")
	must(t, f.Close())

	f = openIn(t, n, true)
	check(f, true, "left by a fence before")
	n.Run("nft", "flush", "chain", "inet", "doorward", arriveChain)
	check(f, false, "somebody took the rules away")
	must(t, f.Guard([]Door{sshDoor(t)}))
	check(f, true, "guarded again")
	n.Run("nft", "add", "table", "inet", "doorward", "{ flags dormant; }")
	check(f, false, "somebody switched the table off")
	n.Run("nft", "delete", "table", "inet", "doorward")
	check(f, false, "somebody deleted the table")
	must(t, f.Close())

	f = openIn(t, n, false)
	must(t, f.Guard([]Door{sshDoor(t)}))
	check(f, true, "owned")
}

// The log says that the fence is raised for the first time on a machine, or, if there was
// a table before, what differs.
func TestWhyTheFenceIsRaised(t *testing.T) {
	t.Parallel()
	n := nstest.New(t)
	nstest.Need(t, "nft")
	var log strings.Builder
	raise := func(want string) {
		t.Helper()
		log.Reset()
		n.Do(func() error {
			f, err := open(slog.New(slog.NewTextHandler(&log, nil)), true)
			if err != nil {
				return err
			}
			defer f.Close()
			return f.Guard([]Door{sshDoor(t)})
		})
		if got := log.String(); !strings.Contains(got, "because="+want) {
			t.Errorf("the log says\n%swant because=%s", got, want)
		}
	}
	raise(`"no door was guarded"`)
	n.Run("nft", "flush", "chain", "inet", "doorward", "door-ssh")
	raise(`"chain \"door-ssh\": the rule`)
}
