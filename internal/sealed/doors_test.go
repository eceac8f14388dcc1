package sealed

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/knock"
)

// What an order or a change costs does not grow with the doors that go by the same files:
// each key is looked at once, and there is one ring for all of them.
func TestDoorsThatShareFiles(t *testing.T) {
	s := newSite(t, strings.Join([]string{newKey("alice").line(""), newKey("bob").line("")}, "\n"))
	looked := 0
	all, more := s.kept.census().entries(func(KeyEntry) bool { looked++; return true })
	if len(all) != 2 || more != 0 || looked != 2 {
		t.Fatalf("%d keys are listed, %d more, and %d were looked at, want 2, 0 and 2", len(all), more, looked)
	}
	var doors []string
	for _, u := range s.uses {
		doors = append(doors, u.Door)
	}
	for _, e := range all {
		if diff := cmp.Diff(doors, e.Doors); len(doors) < 2 || diff != "" {
			t.Errorf("%s is known at (-want +got):\n%s", e.Name, diff)
		}
	}
	first := s.kept.desk(s.uses[0].Door, rule(s.uses[0].Rule))
	for _, u := range s.uses {
		if d := s.kept.desk(u.Door, rule(u.Rule)); d == nil || d.ring != first.ring {
			t.Errorf("door %s has a ring of its own", u.Door)
		}
	}
}

// What an order does where knocks are judged does not grow with the keys of a file: whom it
// is about is found, and a list of all is made elsewhere, of what was in force when it was
// ordered.
func TestOrdersLookAtFewKeys(t *testing.T) {
	work := func(keys int) (found, listed float64) {
		var b strings.Builder
		raw := make([]byte, 32)
		for n := range keys {
			binary.BigEndian.PutUint64(raw, uint64(n))
			blob := ssh.Marshal(struct{ Kind, Key string }{ssh.KeyAlgoED25519, string(raw)})
			fmt.Fprintf(&b, "ssh-ed25519 %s key-%d\n", base64.StdEncoding.EncodeToString(blob), n)
		}
		alice := newKey("alice")
		s := newSite(t, b.String(), alice.line(""))
		for _, name := range []string{"key-7", alice.id(), alice.id()[:leastID], "alice"} {
			c := &call{kept: s.kept, now: s.now}
			if e, err := c.find(name); err != nil || !strings.HasPrefix(e.Origin, keysFile+" line ") {
				t.Errorf("of %d keys %q is %+v, %v", keys, name, e, err)
			}
			found = max(found, testing.AllocsPerRun(1, func() { c.find(name) }))
		}
		var change knock.Change
		var err error
		listed = testing.AllocsPerRun(1, func() { change, _, err = s.kept.Order(s.now, "root", OrderKeys, nil) })
		if err != nil || change.Reply == nil {
			t.Fatalf("the list of keys is made at once: %v", err)
		}
		mustOrder[Done](s, OrderLock, KeyArgs{Key: "key-0"})
		result, err := change.Reply()
		var all Keys
		if err != nil || json.Unmarshal(result, &all) != nil || len(all.Keys)+all.More != keys+1 || all.Keys[0].Locked != "" {
			t.Errorf("%v: %d keys are listed, and %d more, want %d as of before key-0 was locked", err, len(all.Keys), all.More, keys+1)
		}
		if got := mustOrder[Keys](s, OrderKeys, KeysArgs{Match: "key-0"}).Keys; len(got) != 1 || got[0].Locked == "" {
			t.Errorf("key-0 is locked, and listed as %+v", got)
		}
		return found, listed
	}
	found, listed := work(100)
	manyFound, manyListed := work(5000)
	if manyFound > found+40 || manyListed > listed {
		t.Errorf("with 5,000 keys %.0f allocations to find one and %.0f to list them, with 100 %.0f and %.0f: want few more, and as many",
			manyFound, manyListed, found, listed)
	}
}
