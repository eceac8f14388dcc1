package sealed

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

func mustJSON(t testing.TB, v any) json.RawMessage {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// permute calls f with every order of a list.
func permute(list []string, f func([]string)) {
	var go_ func(n int)
	go_ = func(n int) {
		if n == len(list) {
			f(slices.Clone(list))
			return
		}
		for i := n; i < len(list); i++ {
			list[n], list[i] = list[i], list[n]
			go_(n + 1)
			list[n], list[i] = list[i], list[n]
		}
	}
	go_(0)
}

const revokedFile = "/revoked"

// closedSite has a file of revocations, and alice enrolled, whose line in the file of keys
// leaves her less than that.
func closedSite(t *testing.T, alice key) *site {
	s := newSite(t)
	mustOrder[Done](s, OrderAdd, AddArgs{Lines: alice.line("")})
	r := s.uses[0].Rule.(Rule)
	r.Revoked = revokedFile
	s.uses = []knock.Use{{Door: "web", Rule: r}, {Door: "panel", Rule: r}}
	s.boot()
	return s
}

// opensFor says whether a door opens for a key; a gateway without a key opens for nobody.
func (s *site) opensFor(k key, door string) bool {
	v, err := seal.NewVisitor(s.peer, seal.X25519)
	s.must(err)
	_, answer, _ := s.opens(visitor, v.Hello())
	if answer == nil {
		return false
	}
	if e, _ := v.Read(answer); e != seal.Challenged {
		return false
	}
	said, _, ok := s.opens(visitor, s.request(v, seal.Request{Action: seal.Open, Door: door}, k.who()))
	if !ok {
		return false
	}
	all := s.hear(visitor, said)
	return len(all) == 1 && all[0].Right
}

// Whatever files come first, and whichever cannot be used: as long as one is not known
// that could keep somebody out, they are kept out.
func TestFilesInEveryOrder(t *testing.T) {
	alice, bob, carol := newKey("alice"), newKey("bob"), newKey("carol")
	texts := map[string]string{
		identityFile: identityText(7),
		keysFile:     alice.line(`doors="panel"`) + "\n" + bob.line(""),
		revokedFile:  carol.id() + "\n",
	}
	permute([]string{identityFile, keysFile, revokedFile}, func(order []string) {
		for bad := range 8 { // the files that cannot be read at first, by their bits
			s := closedSite(t, alice)
			mustOrder[Done](s, OrderAdd, AddArgs{Lines: carol.line("")})
			good := map[string]bool{}
			check := func(when string) {
				t.Helper()
				all := good[identityFile] && good[keysFile] && good[revokedFile]
				for k, doors := range map[*key]string{&alice: "panel", &bob: "web panel", &carol: ""} {
					for _, door := range []string{"web", "panel"} {
						if got, want := s.opensFor(*k, door), all && slices.Contains(strings.Fields(doors), door); got != want {
							t.Errorf("%v, %s: %s opens for %s: %v, want %v", order, when, door, k.name, got, want)
						}
					}
				}
			}
			check("before any")
			for n, path := range order {
				if bad>>n&1 != 0 {
					s.feeds(path, "", errDenied)
				} else {
					s.feed(path, texts[path])
					good[path] = true
				}
				check(fmt.Sprintf("bad are %03b, after %s", bad, path))
			}
			for _, path := range order {
				s.feed(path, texts[path])
				good[path] = true
			}
			check("in the end")
			// What cannot be read any more stays as it was.
			for _, path := range order {
				s.feeds(path, "", errDenied)
				check("when " + path + " cannot be read any more")
			}
		}
	})
}

// What one knock takes for a file of keys and another for what is revoked is read as the
// first of them, and lets nobody in at the other.
func TestOneFileIsOneThing(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t, alice.line(""))
	r := s.uses[1].Rule.(Rule)
	r.Keys, r.Revoked = "/others", keysFile
	s.use(s.uses[0], knock.Use{Door: "panel", Rule: r})
	s.feed("/others", alice.line(""))
	if !s.opensFor(alice, "web") || s.opensFor(alice, "panel") {
		t.Error("alice's key, which is in the file of one knock that has what is revoked at the other: want that it opens the first alone")
	}
	if all := s.kept.Use(s.now, s.uses); len(all) != 1 || all[0] != `/keys is keys of door "web" and revoked of door "panel", and the knock of the second opens nothing: give it a file of its own` {
		t.Errorf("warnings are %q", all)
	}
}

// A file that is not what it should be takes nothing back from whom it keeps out, gives
// nothing, and says so.
func TestFilesThatAreWrong(t *testing.T) {
	alice, bob := newKey("alice"), newKey("bob")
	for _, tt := range []struct {
		path, text string
		err        error
		bad        string // why it cannot be used, or what does not count
		alice      bool   // still gets in
	}{
		{keysFile, "", nil, "", false},
		{keysFile, "", errDenied, "", true},
		{keysFile, alice.line("") + "\nssh-ed25519 AAAA broken\n", nil, keysFile + ":2: ", true},
		{keysFile, alice.line(`no-such-option`), nil, keysFile + ":1: ", false},
		{keysFile, alice.line(`doors="web,cellar"`), nil, `options name the door "cellar", and no door of that name has a sealed knock`, true},
		{identityFile, "", nil, "0 keys and 0 profile secrets: needed is one of each", true},
		{identityFile, "", errDenied, "", true},
		{identityFile, "key x\n", nil, "line 1: key: allowed are 32 bytes in base64", true},
		{identityFile, "door x\n", nil, `line 1: allowed are "key" and "profile", each followed by base64`, true},
		{identityFile, strings.Repeat(identityText(7), 5), nil, "5 keys and 5 profile secrets: allowed are 2 and 4; delete the oldest, which are last", true},
		{revokedFile, "", nil, "the list of revoked keys is empty", true},
		{revokedFile, "", errDenied, "", true},
		{revokedFile, alice.id() + "\n" + bob.id() + "\n", nil, "", false},
	} {
		s := closedSite(t, newKey("nobody"))
		s.feed(revokedFile, bob.id()+"\n")
		s.feed(identityFile, identityText(7))
		s.feed(keysFile, alice.line("")+"\n"+bob.line(""))
		if !s.opensFor(alice, "web") || s.opensFor(bob, "web") {
			t.Fatal("before: alice, or bob, who is revoked, is not as they should be")
		}
		file := knock.File{Path: tt.path, As: map[string]string{keysFile: asKeys, identityFile: asIdentity, revokedFile: asRevoked}[tt.path]}
		_, err := Kind{}.Digest(file, []byte(tt.text))
		c := s.feeds(tt.path, tt.text, tt.err)
		if all := fmt.Sprint(err, c.Warnings); tt.err == nil && (!strings.Contains(all, tt.bad) || (tt.bad == "") != (all == "<nil> []")) {
			t.Errorf("%s with %q: %s, want %q", tt.path, tt.text, all, tt.bad)
		}
		if got := s.opensFor(alice, "web"); got != tt.alice {
			t.Errorf("%s with %q, %v: alice gets in: %v, want %v", tt.path, tt.text, tt.err, got, tt.alice)
		}
		if got := s.kept.Stands(s.now, "web", "alice "+alice.id()) != nil; got != tt.alice {
			t.Errorf("%s with %q, %v: what alice has stands: %v, want %v", tt.path, tt.text, tt.err, got, tt.alice)
		}
		if s.opensFor(bob, "web") {
			t.Errorf("%s with %q, %v: bob, who is revoked, gets in", tt.path, tt.text, tt.err)
		}
	}
}

// A grant stands at a door as long as somebody may have it there.
func TestStandsAtADoor(t *testing.T) {
	alice, bob := newKey("alice"), newKey("bob")
	s := newSite(t, alice.line(`doors="web"`), bob.line(""))
	r := s.uses[1].Rule.(Rule)
	r.Keys = "/others"
	s.use(s.uses[0], knock.Use{Door: "panel", Rule: r})
	if s.kept.Stands(s.now, "panel", "bob "+bob.id()) == nil {
		t.Error("before the file of the door was read, nobody is known to have lost anything")
	}
	s.feed("/others", alice.line(""))
	for _, tt := range []struct {
		door string
		who  key
		want bool
	}{
		{"web", alice, true}, {"panel", alice, true}, {"web", bob, true}, {"panel", bob, false}, {"web", newKey("mallory"), false}, {"gone", bob, true},
	} {
		if got := s.kept.Stands(s.now, tt.door, tt.who.name+" "+tt.who.id()) != nil; got != tt.want {
			t.Errorf("what %s has at %s stands: %v, want %v", tt.who.name, tt.door, got, tt.want)
		}
	}
	s.feed("/others", alice.line(`doors="web"`))
	if s.kept.Stands(s.now, "panel", "alice "+alice.id()) != nil {
		t.Error("what alice has at a door that her line leaves out by now stands")
	}
	// Without any file that could be read, what there was stands, but not what was locked.
	mustOrder[Done](s, OrderLock, KeyArgs{Key: "bob"})
	s.boot()
	s.feeds(keysFile, "", errDenied)
	s.feed(identityFile, identityText(7))
	for _, k := range []key{alice, bob} {
		if got := s.kept.Stands(s.now, "web", k.name+" "+k.id()) != nil; got != (k.name == "alice") {
			t.Errorf("while the file of keys cannot be read, what %s has stands: %v", k.name, got)
		}
	}
}

// Two gateway's keys count at once, so that one can be replaced without anybody noticing.
func TestTheIdentityIsRotated(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t, alice.line(""))
	before := s.peer
	text := identityText(8) + identityText(7)
	s.identity(8)
	after := s.peer
	s.feed(identityFile, text)
	for name, peer := range map[string]seal.Peer{"the old": before, "the new": after} {
		s.peer = peer
		v, at := s.told(web, alice.who())
		if !v.Right {
			t.Fatalf("with %s key: %+v", name, v)
		}
		if a := s.answer(v, at, knock.Outcome{Open: true}); a.Next != after.Fingerprint {
			t.Errorf("with %s key: the newest is said to be %s, want %s", name, a.Next, after.Fingerprint)
		}
	}
	s.feed(identityFile, identityText(8))
	if s.peer = before; s.opensFor(alice, "web") {
		t.Error("the old key still counts")
	}
	if s.peer = after; !s.opensFor(alice, "web") {
		t.Error("the new key does not count")
	}
}

// A file has room for 100,000 keys with options.
func TestAFileHasRoom(t *testing.T) {
	alice := newKey("alice@laptop.example.org")
	line := alice.line(`doors="ssh",expiry-time="20270101",from="192.0.2.0/24"`) + "\n"
	if need := 100_000 * len(line); need > knock.MaxFile {
		t.Errorf("100,000 lines of %d bytes are %d, want %d at most", len(line), need, knock.MaxFile)
	}
}
