package sealed

import (
	"bytes"
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

// An order that gives a right can be undone, whether the disk has it or not; one that takes
// a right stays in force.
func TestOrdersAreUndone(t *testing.T) {
	alice, bob, carol := newKey("alice"), newKey("bob"), newKey("carol")
	for _, tt := range []struct {
		order string
		args  any
		stays bool
	}{
		{OrderInvite, InviteArgs{For: "dave"}, false},
		{OrderRescue, RescueArgs{Count: 3}, false},
		{OrderAdd, AddArgs{Lines: newKey("dave").line("") + "\n" + carol.line(`doors="web"`) + "\n" + carol.line("")}, false},
		{OrderUnlock, KeyArgs{Key: alice.id()}, false},
		{OrderRestore, KeyArgs{Key: bob.id()}, false},
		{OrderLock, KeyArgs{Key: carol.id()}, true},
		{OrderRevoke, KeyArgs{Key: carol.id()}, true},
		{OrderWithdraw, WithdrawArgs{Rescues: true}, true},
		{OrderWithdraw, WithdrawArgs{Invite: "erin"}, true},
	} {
		s := newSite(t, alice.line(""), bob.line(""))
		mustOrder[Done](s, OrderAdd, AddArgs{Lines: carol.line(`doors="panel"`)})
		mustOrder[Done](s, OrderLock, KeyArgs{Key: alice.id()})
		mustOrder[Done](s, OrderRevoke, KeyArgs{Key: bob.id()})
		mustOrder[Invite](s, OrderInvite, InviteArgs{For: "erin"})
		mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 1})
		before, disk := mustOrder[Keys](s, OrderKeys, KeysArgs{}), maps.Clone(s.common)
		c, _, err := s.kept.Order(s.now, "root", tt.order, mustJSON(t, tt.args))
		if err != nil {
			t.Fatalf("%s: %v", tt.order, err)
		}
		if s.carry(c); maps.EqualFunc(s.common, disk, bytes.Equal) {
			t.Fatalf("%s changes nothing on disk", tt.order)
		}
		if (c.Undo == nil) != tt.stays {
			t.Errorf("%s can be undone: %v, want %v", tt.order, c.Undo != nil, !tt.stays)
		}
		if c.Undo == nil {
			continue
		}
		s.carry(knock.Change{Marks: c.Undo()})
		if d := cmp.Diff(disk, s.common); d != "" {
			t.Errorf("%s, undone, on disk (-want +got):\n%s", tt.order, d)
		}
		if d := cmp.Diff(before, mustOrder[Keys](s, OrderKeys, KeysArgs{})); d != "" {
			t.Errorf("%s, undone (-want +got):\n%s", tt.order, d)
		}
		for _, who := range []key{alice, bob, newKey("dave")} {
			if v := s.asks(web, who.who()); v.Right {
				t.Errorf("%s, undone: %s gets in", tt.order, who.name)
			}
		}
		if v := s.asks(web, carol.who()); v.Right {
			t.Errorf("%s, undone: carol gets in at a door that she was to have", tt.order)
		}
	}
}

// A code that was withdrawn while its use was on its way to the disk does not come back.
func TestWhatIsUndoneIsNotWithdrawnInVain(t *testing.T) {
	s := newSite(t)
	v := s.asks(web, s.rescued(mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 1}).Codes[0]))
	mustOrder[Done](s, OrderWithdraw, WithdrawArgs{Rescues: true})
	if s.carry(knock.Change{Marks: v.Undo()}); len(s.common) != 0 {
		t.Errorf("the disk has %q, want no code", s.common)
	}
}

// What an operator did to a key while an invite for it was on its way to the disk stays: a
// key that was revoked meanwhile does not come back, one that was added does not go.
func TestAnInviteThatIsUndoneTakesBackItsOwn(t *testing.T) {
	alice := newKey("alice")
	for _, known := range []bool{true, false} {
		s := newSite(t)
		if known {
			mustOrder[Done](s, OrderAdd, AddArgs{Lines: alice.line("")})
		}
		invite := mustOrder[Invite](s, OrderInvite, InviteArgs{For: "alice"})
		v := s.asks(web, alice.invited(invite.Code))
		mustOrder[Done](s, OrderRevoke, KeyArgs{Key: alice.id()})
		s.carry(knock.Change{Marks: v.Undo()})
		mustOrder[Done](s, OrderRestore, KeyArgs{Key: alice.id()})
		if got := s.ids(); len(got) != 0 {
			t.Errorf("known before: %t: a key that was revoked meanwhile, and is restored: enrolled are %q, want none", known, got)
		}
	}
	s := newSite(t)
	v := s.asks(web, alice.invited(mustOrder[Invite](s, OrderInvite, InviteArgs{For: "alice"}).Code))
	mustOrder[Done](s, OrderAdd, AddArgs{Lines: alice.line(`doors="web"`)})
	s.carry(knock.Change{Marks: v.Undo()})
	if got := s.ids(); len(got) != 1 || len(s.common) != 2 {
		t.Errorf("a key that was added meanwhile: enrolled are %q, and the disk has %d marks; want the key, and that with the invite", got, len(s.common))
	}
}

// Who has used up a rescue code and got nothing for it is told so; an invite has enrolled
// its key all the same.
func TestACodeIsUsedUpInVain(t *testing.T) {
	s := newSite(t)
	for name, tt := range map[string]struct {
		who  who
		want seal.Reason
	}{
		"a rescue code": {s.rescued(mustOrder[Rescue](s, OrderRescue, RescueArgs{Count: 1}).Codes[0]), seal.SpentInVain},
		"an invite":     {newKey("alice").invited(mustOrder[Invite](s, OrderInvite, InviteArgs{For: "alice"}).Code), seal.NotStarted},
	} {
		v, at := s.told(web, tt.who)
		if a := s.answer(v, at, knock.Outcome{Refused: knock.RefusedFailed}); a.Reason != tt.want {
			t.Errorf("%s behind which the service does not start is refused for %d, want %d", name, a.Reason, tt.want)
		}
	}
}
