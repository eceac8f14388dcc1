package sealed

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

// ids are the identities of who is enrolled.
func (s *site) ids() (all []string) {
	for _, k := range mustOrder[Keys](s, OrderKeys, KeysArgs{}).Keys {
		if k.Origin == "enrolled" {
			all = append(all, k.ID)
		}
	}
	return all
}

// A code is right once, and the visitor of another knock is told so or nothing.
func TestACodeCountsOnce(t *testing.T) {
	s := newSite(t)
	codes := mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 2, Door: "web"}).Codes
	v := s.asks(web, s.rescued(codes[0]))
	if !v.Right || !v.First || len(v.Marks) != 1 || !strings.HasPrefix(v.By, "rescue rescue:") {
		t.Fatalf("a rescue code: %+v, want that its end is on the disk first", v)
	}
	again, at := s.told(web, s.rescued(codes[0]))
	if again.Right || s.answer(again, at, knock.Outcome{Refused: knock.RefusedWrong}).Reason != seal.Spent {
		t.Errorf("the code again: %+v", again)
	}
	s.restart(map[string]string{identityFile: identityText(7), keysFile: ""})
	if again := s.asks(web, s.rescued(codes[0])); again.Right {
		t.Errorf("the code after a restart: %+v", again)
	}
	if v := s.asks(seal.Request{Action: seal.Open, Door: "panel"}, s.rescued(codes[1])); v.Right {
		t.Errorf("a code for another door: %+v", v)
	}
	if v := s.asks(web, s.rescued(codes[1])); !v.Right {
		t.Errorf("the other code, which was refused at another door: %+v", v)
	}
}

// A code opens. What cannot open anything does not use it up.
func TestACodeIsForOpening(t *testing.T) {
	s := newSite(t)
	code := mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 1}).Codes[0]
	for _, action := range []seal.Action{seal.Close, seal.Extend} {
		v, at := s.told(seal.Request{Action: action, Door: "web"}, s.rescued(code))
		if v.Right || len(v.Marks) != 0 || s.answer(v, at, knock.Outcome{Refused: knock.RefusedWrong}).Reason != seal.NotOpen {
			t.Errorf("action %d with a rescue code: %+v", action, v)
		}
	}
	if v := s.asks(web, s.rescued(code)); !v.Right {
		t.Errorf("the code after that: %+v", v)
	}
}

// An invite enrols one key, with its options, or none.
func TestAnInviteEnrolsOnce(t *testing.T) {
	alice, bob := newKey("alice"), newKey("bob")
	s := newSite(t)
	invite := mustOrder[Invite](s, OrderInvite, InviteArgs{For: "alice", Door: "web", Options: "one-address"})
	v := s.asks(web, alice.invited(invite.Code))
	if !v.Right || !v.First || len(v.Marks) != 2 || len(v.Notes) != 1 || v.Notes[0].Event != knock.NoteKeys || !v.Only {
		t.Fatalf("an invite: %+v", v)
	}
	for name, k := range map[string]key{"the same key": alice, "another key": bob} {
		if v := s.asks(web, k.invited(invite.Code)); v.Right {
			t.Errorf("the invite again with %s: %+v", name, v)
		}
	}
	for _, when := range []string{"at once", "after a restart"} {
		if got := s.ids(); !slices.Equal(got, []string{alice.id()}) {
			t.Errorf("%s, enrolled are %q", when, got)
		}
		if v := s.asks(web, alice.who()); !v.Right || !v.Only {
			t.Errorf("%s, alice's key: %+v", when, v)
		}
		if v := s.asks(seal.Request{Action: seal.Open, Door: "panel"}, alice.who()); v.Right {
			t.Errorf("%s, alice's key at a door that the invite was not for: %+v", when, v)
		}
		s.restart(map[string]string{identityFile: identityText(7), keysFile: ""})
	}
	late := mustOrder[Invite](s, OrderInvite, InviteArgs{For: "carol", Seconds: 60})
	s.now = s.now.Add(time.Minute)
	if v := s.asks(web, newKey("carol").invited(late.Code)); v.Right || v.Code != "code-expired" {
		t.Errorf("an invite after its time: %+v", v)
	}
	bound := mustOrder[Invite](s, OrderInvite, InviteArgs{For: "bob", Key: bob.id()})
	if v := s.asks(web, alice.invited(bound.Code)); v.Right {
		t.Errorf("an invite that is bound to bob's key, with alice's: %+v", v)
	}
	if v := s.asks(web, bob.invited(bound.Code)); !v.Right {
		t.Errorf("an invite that is bound to bob's key: %+v", v)
	}
}

// overBoth is one knock with a code over two address families.
func (s *site) overBoth(q seal.Request, w who) (all []knock.Verdict) {
	s.t.Helper()
	return s.pair(w, [2]seal.Request{q, q}, [2]netip.Addr{visitor, netip.MustParseAddr("2001:db8::2")})
}

// pair is one knock, with one proof, in two handshakes.
func (s *site) pair(w who, qs [2]seal.Request, from [2]netip.Addr) (all []knock.Verdict) {
	s.t.Helper()
	first, second := s.begin(from[0]), s.begin(from[1])
	a, b := first.Transcript(qs[0], w.Credential), second.Transcript(qs[1], w.Credential)
	c := w.with(seal.Message(a, b))
	for n, at := range []*seal.Visitor{first, second} {
		d, err := at.Request(qs[n], c, a, b, false)
		s.must(err)
		said, _, ok := s.opens(from[n], d)
		if !ok {
			s.t.Fatal("a request was not opened")
		}
		all = append(all, s.hear(from[n], said)...)
	}
	return all
}

// An invite to a door enrols a key for no other, whatever its other options say.
func TestAnInviteIsForItsDoor(t *testing.T) {
	panel := seal.Request{Action: seal.Open, Door: "panel"}
	for options, opens := range map[string]bool{"": false, "one-address": false, `command="doors="`: false, `doors="web,panel"`: true, `Doors="panel"`: true} {
		alice := newKey("alice")
		s := newSite(t)
		invite := mustOrder[Invite](s, OrderInvite, InviteArgs{For: "alice", Door: "web", Options: options})
		if v := s.asks(panel, alice.invited(invite.Code)); v.Right != opens {
			t.Errorf("an invite to web with the options %q opens panel: %t, want %t", options, v.Right, opens)
		}
	}
}

// One use of a code may be over IPv4 and over IPv6, and no more.
func TestACodeOverBothFamilies(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t)
	invite := mustOrder[Invite](s, OrderInvite, InviteArgs{For: "alice"})
	all := s.overBoth(web, alice.invited(invite.Code))
	if len(all) != 2 || !all[0].Right || !all[1].Right {
		t.Errorf("the invite over both families: %+v", all)
	}
	if v := s.asks(web, alice.invited(invite.Code)); v.Right {
		t.Errorf("the invite once more: %+v", v)
	}
}

// The two parts of a use are for one door, and for one visitor: a code does not open two
// doors, nor one door to two.
func TestACodeIsForOneDoorAndVisitor(t *testing.T) {
	panel := seal.Request{Action: seal.Open, Door: "panel"}
	six := netip.MustParseAddr("2001:db8::2")
	for _, tt := range []struct {
		name string
		asks [2]seal.Request
		from [2]netip.Addr
		both bool
	}{
		{"over both families", [2]seal.Request{web, web}, [2]netip.Addr{six, visitor}, true},
		{"twice from one address, as behind a translator", [2]seal.Request{web, web}, [2]netip.Addr{visitor, visitor}, true},
		{"at two doors", [2]seal.Request{web, panel}, [2]netip.Addr{visitor, six}, false},
		{"from two addresses of a family", [2]seal.Request{web, web}, [2]netip.Addr{visitor, stranger}, false},
	} {
		s := newSite(t)
		code := s.rescued(mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 1}).Codes[0])
		all := s.pair(code, tt.asks, tt.from)
		if len(all) != 2 || !all[0].Right || all[1].Right != tt.both {
			t.Errorf("a rescue code %s: %+v, want that both are right: %t", tt.name, all, tt.both)
		}
		if !tt.both && all[1].Code != "spent" {
			t.Errorf("a rescue code %s: refused as %q, want \"spent\"", tt.name, all[1].Code)
		}
	}
}

// A code is as good as new only if no part of its one use is on the disk.
func TestAUseThatIsSavedInPart(t *testing.T) {
	for _, tt := range []struct {
		name     string
		unsaved  []int
		restarts bool
	}{
		{"both", []int{0, 1}, false},
		{"both, the second first", []int{1, 0}, false},
		{"both, before a restart", []int{0, 1}, true},
		{"the first", []int{0}, false},
		{"the second", []int{1}, false},
		{"the second, before a restart", []int{1}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			alice := newKey("alice")
			s := newSite(t)
			rescue := s.rescued(mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 1}).Codes[0])
			invite := alice.invited(mustOrder[Invite](s, OrderInvite, InviteArgs{For: "alice"}).Code)
			for _, w := range []who{rescue, invite} {
				all := s.overBoth(web, w)
				for _, n := range tt.unsaved { // but the disk accepts it in the end
					for _, m := range all[n].Undo() {
						s.save(m, "")
					}
				}
			}
			nothing := len(tt.unsaved) == 2
			if tt.restarts {
				s.restart(map[string]string{identityFile: identityText(7), keysFile: ""})
			}
			if v := s.asks(web, alice.who()); v.Right == nothing {
				t.Errorf("the key of the invite: right is %t, want %t", v.Right, !nothing)
			}
			for what, w := range map[string]who{"rescue code": rescue, "invite": invite} {
				if v := s.asks(web, w); v.Right != nothing {
					t.Errorf("the %s again: right is %t, want %t", what, v.Right, nothing)
				}
			}
		})
	}
}

// What cannot be saved has not happened: the code can be used, and the key is as before.
func TestWhatIsUnsavedIsUndone(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t)
	panel := seal.Request{Action: seal.Open, Door: "panel"}
	unsaved := func(q seal.Request, w who) {
		t.Helper()
		v, at := s.told(q, w)
		if !v.Right {
			t.Fatalf("before the disk was full: %+v", v)
		}
		s.carry(knock.Change{Marks: v.Undo()})
		if a := s.answer(v, at, knock.Outcome{Refused: knock.RefusedUnsaved}); a.Reason != seal.Unavailable {
			t.Errorf("what the visitor is told: %+v", a)
		}
	}
	rescue := s.rescued(mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 1}).Codes[0])
	invite := alice.invited(mustOrder[Invite](s, OrderInvite, InviteArgs{For: "alice", Door: "web"}).Code)
	unsaved(web, rescue)
	unsaved(web, invite)
	if got := s.ids(); len(got) != 0 {
		t.Errorf("enrolled are %q, want nobody", got)
	}
	if v := s.asks(web, alice.who()); v.Right {
		t.Errorf("alice's key, which is not enrolled: %+v", v)
	}
	for name, w := range map[string]who{"rescue code": rescue, "invite": invite} {
		if v := s.asks(web, w); !v.Right {
			t.Errorf("the %s again: %+v", name, v)
		}
		if v := s.asks(web, w); v.Right {
			t.Errorf("the %s after that: %+v", name, v)
		}
	}
	// A key that was enrolled before keeps what it had.
	unsaved(panel, alice.invited(mustOrder[Invite](s, OrderInvite, InviteArgs{For: "alice", Door: "panel"}).Code))
	if v := s.asks(web, alice.who()); !v.Right {
		t.Errorf("alice's key at the door that she had: %+v", v)
	}
	if v := s.asks(panel, alice.who()); v.Right {
		t.Errorf("alice's key at the door that she was to have: %+v", v)
	}
}

// Codes that were used, or whose time is past, take nobody's place.
func TestOldCodesTakeNoPlace(t *testing.T) {
	s := newSite(t)
	for n := range mostInvites {
		mustOrder[Invite](s, OrderInvite, InviteArgs{For: fmt.Sprint("guest ", n), Seconds: 60})
	}
	if _, err := order[Invite](s, OrderInvite, InviteArgs{For: "alice"}); err == nil || !strings.Contains(err.Error(), "there are 1000 invites already") {
		t.Errorf("one more: %v", err)
	}
	s.now = s.now.Add(2 * time.Minute)
	invite := mustOrder[Invite](s, OrderInvite, InviteArgs{For: "alice"})
	if n := len(s.common); n != 1 {
		t.Errorf("the disk has %d marks of codes, want the one that can be used", n)
	}
	if v := s.asks(web, newKey("alice").invited(invite.Code)); !v.Right {
		t.Fatalf("the invite: %+v", v)
	}
	if got := mustOrder[Keys](s, OrderKeys, KeysArgs{}).Invites; len(got) != 0 {
		t.Errorf("still listed: %+v", got)
	}
	if _, err := order[Done](s, OrderWithdraw, WithdrawArgs{Invite: "alice"}); err == nil {
		t.Error("an invite that was used can be withdrawn")
	}
	s.now = s.now.Add(2 * seal.HandshakeLife)
	mustOrder[Keys](s, OrderKeys, KeysArgs{})
	mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 1})
	if n := len(s.kept.ledger.invites); n != 0 {
		t.Errorf("%d invites are remembered, want none", n)
	}
}

// What operators have changed is the same after a restart, and marks that are not known
// are left alone.
func TestTheLedgerOutlivesARestart(t *testing.T) {
	alice, bob, carol, dave := newKey("alice"), newKey("bob"), newKey("carol"), newKey("dave")
	s := newSite(t, dave.line(""))
	mustOrder[Done](s, OrderAdd, AddArgs{Lines: alice.line(`from="192.0.2.0/24"`) + "\n" + bob.line("")})
	mustOrder[Done](s, OrderAdd, AddArgs{Lines: carol.line(""), Options: `doors="web",max-open-for="5m"`})
	mustOrder[Done](s, OrderLock, KeyArgs{Key: "bob"})
	mustOrder[Done](s, OrderLock, KeyArgs{Key: "dave"})
	mustOrder[Done](s, OrderUnlock, KeyArgs{Key: "dave"})
	mustOrder[Done](s, OrderRevoke, KeyArgs{Key: "carol"})
	mustOrder[Done](s, OrderRevoke, KeyArgs{Key: newKey("elsewhere").id()})
	mustOrder[Invite](s, OrderInvite, InviteArgs{For: "erin", Door: "web", Options: `schedule="Mon-Fri 08:00-18:00"`, Key: newKey("erin").id()})
	mustOrder[Invite](s, OrderInvite, InviteArgs{For: "frank"})
	mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 3})
	s.asks(web, s.rescued(mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 1, Door: "web"}).Codes[0]))
	before := mustOrder[Keys](s, OrderKeys, KeysArgs{})
	if len(before.Keys) != 3 || len(before.Invites) != 2 || len(before.Rescues) != 3 {
		t.Fatalf("before: %+v", before)
	}
	marks := len(s.common)
	for _, key := range []string{"later 1", "key nothing", "invite zz", "rescue " + hex.EncodeToString(make([]byte, 32)), "rescue " + strings.Repeat("0D", 32), "", " ", "key " + newKey("mallory").id()} {
		s.common[key] = []byte(alice.line("")) // whose fingerprint is another
	}
	s.common["rescue "+strings.Repeat("0D", 32)] = []byte(`{"name":"capitals","made":1}`)
	s.restart(map[string]string{identityFile: identityText(7), keysFile: dave.line("")})
	if diff := cmp.Diff(before, mustOrder[Keys](s, OrderKeys, KeysArgs{})); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
	for w, right := range map[*key]bool{&alice: true, &bob: false, &carol: false, &dave: true} {
		if v := s.asks(web, w.who()); v.Right != right {
			t.Errorf("%s after a restart: %+v", w.name, v)
		}
	}
	if len(s.common) != marks+8 {
		t.Errorf("the disk has %d marks, want %d and those that are not known", len(s.common)-8, marks)
	}
}

// What an order says is wrong, and what to do.
func TestOrders(t *testing.T) {
	alice, bob := newKey("alice"), newKey("bob")
	lines := []string{alice.line(""), newKey("first").line("") + " twin", newKey("second").line("") + " twin"}
	lines[1], lines[2] = strings.Replace(lines[1], " first twin", " twin", 1), strings.Replace(lines[2], " second twin", " twin", 1)
	s := newSite(t, lines...)
	mustOrder[Invite](s, OrderInvite, InviteArgs{For: "guest"})
	mustOrder[Invite](s, OrderInvite, InviteArgs{For: "guest"})
	mustOrder[Done](s, OrderRevoke, KeyArgs{Key: bob.id()})
	for _, tt := range []struct {
		order string
		args  any
		want  string
	}{
		{"dance", nil, `there is no order "dance"`},
		{OrderLock, map[string]any{"kee": "alice"}, `cannot read the order: json: unknown field "kee"`},
		{OrderInvite, InviteArgs{}, "an invite is for somebody: whom, is the name of the key that it enrols"},
		{OrderInvite, InviteArgs{For: "x", Seconds: 1}, "an invite that lasts 1 seconds: allowed are 60 to 31622400 (366 days)"},
		{OrderInvite, InviteArgs{For: "x", Seconds: -1}, "an invite that lasts -1 seconds: allowed are 60 to 31622400 (366 days)"},
		{OrderInvite, InviteArgs{For: "x", Seconds: 1 << 62}, "an invite that lasts 4611686018427387904 seconds: allowed are 60 to 31622400 (366 days)"},
		{OrderInvite, InviteArgs{For: "x", Options: "command=\"a\nb\""}, "options: there is a line break or a NUL in them: allowed is one line"},
		{OrderInvite, InviteArgs{For: "x", Options: `command="` + strings.Repeat("x", 600) + `"`}, "the options have 610 bytes: allowed are 512, and fewer with many quotation marks; leave out what only sshd reads"},
		{OrderInvite, InviteArgs{For: "x", Options: `command="` + strings.Repeat(`\"`, 240) + `"`}, "the options have 490 bytes: allowed are 512, and fewer with many quotation marks; leave out what only sshd reads"},
		{OrderInvite, InviteArgs{For: "x", Key: alice.id(), Options: "one-address"}, "the key " + alice.id() + " is known already (/keys line 1), and an invite does not change its options: make it without"},
		{OrderInvite, InviteArgs{For: "x", Door: "cellar"}, `door "cellar" has no sealed knock: allowed are web, panel`},
		{OrderInvite, InviteArgs{For: "x", Key: "bob"}, `"bob" is no fingerprint: allowed is what ssh-keygen -l prints, "SHA256:" and 43 characters`},
		{OrderRescue, RescueArgs{}, "0 rescue codes: allowed are 1 to 100"},
		{OrderRescue, RescueArgs{Count: 101}, "101 rescue codes: allowed are 1 to 100"},
		{OrderRescue, RescueArgs{Count: 1, Door: "cellar"}, `door "cellar" has no sealed knock: allowed are web, panel`},
		{OrderAdd, AddArgs{}, "there is no key"},
		{OrderAdd, AddArgs{Lines: bob.line("")}, "the key " + bob.id() + " was revoked by root on 2026-11-27T12:00:00Z"},
		{OrderAdd, AddArgs{Lines: bob.line(`cert-authority,principals="x"`)}, "an authority is for the file of keys: it is not enrolled"},
		{OrderLock, KeyArgs{}, `there is no key "": allowed is a fingerprint or a name`},
		{OrderLock, KeyArgs{Key: "nobody"}, `there is no key "nobody": allowed is a fingerprint or a name`},
		{OrderLock, KeyArgs{Key: "twin"}, `2 keys are called "twin": say the fingerprint of one`},
		{OrderUnlock, KeyArgs{Key: "alice"}, `"alice" is not locked`},
		{OrderRestore, KeyArgs{Key: "alice"}, `"alice" is not revoked`},
		{OrderRevoke, KeyArgs{Key: bob.id()}, bob.id() + " is revoked already: by root on 2026-11-27T12:00:00Z"},
		{OrderWithdraw, WithdrawArgs{}, `there is no invite "": allowed is an ID or whom it is for`},
		{OrderWithdraw, WithdrawArgs{Invite: "guest"}, `2 invites are for "guest": say the ID of one`},
	} {
		before := fmt.Sprint(s.common)
		_, err := order[any](s, tt.order, tt.args)
		var told *knock.OrderError
		if !errors.As(err, &told) || told.Message != tt.want {
			t.Errorf("%s %+v: %v, want %q", tt.order, tt.args, err, tt.want)
		}
		if fmt.Sprint(s.common) != before {
			t.Errorf("%s %+v has changed something", tt.order, tt.args)
		}
	}
}

// Whoever is locked can still be cut off, and the order tells whose connections end.
func TestALockedKeyIsCutOff(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t, alice.line(""))
	for _, tt := range []struct {
		args      KeyArgs
		cuts, bad bool
	}{
		{KeyArgs{Key: "alice"}, false, false},
		{KeyArgs{Key: "alice"}, false, true},
		{KeyArgs{Key: "alice", Now: true}, true, false},
	} {
		c, _, err := s.kept.Order(s.now, "root", OrderLock, mustJSON(t, tt.args))
		if (err != nil) != tt.bad || (c.Cut != nil) != tt.cuts {
			t.Errorf("%+v: cuts %v, error %v", tt.args, c.Cut != nil, err)
		}
		if c.Cut != nil && (!c.Cut("alice "+alice.id()) || !c.Cut("her former name "+alice.id()) || c.Cut("alice "+newKey("bob").id())) {
			t.Errorf("%+v: cuts others, or not whom it should", tt.args)
		}
	}
}

// An invite for single packets is of a knock that takes them.
func TestInvitesForSinglePackets(t *testing.T) {
	s := newSite(t)
	both, one, any := s.uses[0].Rule.(Rule), s.uses[0].Rule.(Rule), s.uses[0].Rule.(Rule)
	both.OneWay, one.Port, any.Port, any.AnySource = false, 5001, 5002, true
	s.use(knock.Use{Door: "web", Rule: both}, knock.Use{Door: "web", Rule: one}, knock.Use{Door: "panel", Rule: any})
	for _, tt := range []struct {
		args InviteArgs
		port uint16
		any  bool
	}{
		{InviteArgs{For: "alice", Door: "web"}, sealedPort, false},
		{InviteArgs{For: "alice", Door: "web", OneWay: true}, 5001, false},
		{InviteArgs{For: "alice", OneWay: true}, 5001, false},
		{InviteArgs{For: "alice", Door: "panel", OneWay: true}, 5002, true},
		{InviteArgs{For: "alice", Door: "panel"}, 5002, false},
	} {
		got := mustOrder[Invite](s, OrderInvite, tt.args)
		if got.Port != tt.port || got.OneWay != tt.args.OneWay || got.AnySource != tt.any {
			t.Errorf("%+v: %+v, want port %d, from any source: %v", tt.args, got, tt.port, tt.any)
		}
	}
	s.use(knock.Use{Door: "web", Rule: both})
	_, err := order[Invite](s, OrderInvite, InviteArgs{For: "alice", OneWay: true})
	if err == nil || err.Error() != `door "web" takes no single packets` {
		t.Errorf("at a door that takes none: %v", err)
	}
}

// Who is locked is in memory, and nobody fills that with keys that are not known here. One
// that is can always be locked.
func TestLocksAreBounded(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t, alice.line(""))
	locked := make(map[string]string)
	for n := range mostDenied {
		locked[fmt.Sprint("SHA256:", n)] = "by a test"
	}
	s.kept.ledger.locked = locked
	stranger := newKey("mallory").id()
	want := fmt.Sprintf("20000 are locked already, and %s is not known here: allowed are 20000; put it on a list of revoked keys", stranger)
	if _, err := order[Done](s, OrderLock, KeyArgs{Key: stranger}); err == nil || err.Error() != want {
		t.Errorf("a key that is not known: %v, want %s", err, want)
	}
	mustOrder[Done](s, OrderLock, KeyArgs{Key: "alice"})
	if v := s.asks(web, alice.who()); v.Code != "locked" {
		t.Errorf("alice, who is known and locked: %+v", v)
	}
}
