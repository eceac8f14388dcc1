//go:build unix

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/client/clienttest"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/turns"
)

// place is where calls of the traveller's meet that want through the door of the profile.
func (v *traveller) place() *turns.Door {
	v.t.Helper()
	dir, err := turns.Directory(v.vars["XDG_RUNTIME_DIR"])
	if err != nil {
		v.t.Fatal(err)
	}
	return turns.At(dir, filepath.Join(v.home, "profiles", "gate.toml")+"\nssh")
}

// closes says how often the gateway was asked to close the door.
func (v *traveller) closes() (n int) {
	for _, k := range v.gateway.Knocks() {
		if k.Request.Action == seal.Close {
			n++
		}
	}
	return n
}

// Whoever comes while a call closes the door behind itself waits until that is done: a knock
// of theirs would be overtaken by the end of the one before.
func TestNobodyConnectsWhileTheDoorIsClosed(t *testing.T) {
	for _, command := range []string{"hold", "run", "probe"} {
		t.Run(command, func(t *testing.T) {
			v, s := enrolled(t)
			place := v.place()
			d := &watchedDoor{now: "silent", open: "accepts", after: "silent"}
			open := v.gateway.Open
			v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
				if k.Request.Action == seal.Close {
					soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
					defer cancel()
					if stay := place.Stay(soon); stay != nil {
						stay.End()
						t.Error("a call has come to need the door, which is just being closed")
					}
				}
				d.set(map[seal.Action]string{seal.Open: d.open, seal.Close: d.after}[k.Request.Action])
				all := open(k)
				if all[0].Status == seal.Opened {
					all[0].Ports = []seal.Port{{First: s.port, Last: s.port}}
				}
				return all
			})
			code, errs := 0, ""
			switch command {
			case "hold":
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				v.ctx, v.printed = ctx, cancel
				code, _, errs = v.run("hold", "gate")
			case "run":
				code, _, errs = v.run("run", "gate", "--", "true")
			case "probe":
				code, _, _, _, errs = v.probed(d)
			}
			if code != 0 || v.closes() != 1 {
				t.Errorf("status %d, %q, closed %d times; want once", code, errs, v.closes())
			}
			v.ctx, v.printed = t.Context(), nil
			if code, out, errs := v.connect("abc", nil, "gate", fmt.Sprint(s.port)); code != 0 || out != "hello\nabc" {
				t.Errorf("after it: status %d, %q, %q", code, out, errs)
			}
		})
	}
}

// What a visitor has knocked for, and was told until when it is open, no other call of
// theirs closes before.
func TestWhatWasKnockedForIsLeftOpen(t *testing.T) {
	v, _ := enrolled(t)
	ran := func(what string, closes int) {
		t.Helper()
		before := v.closes()
		if code, _, errs := v.run("run", "gate", "--", "true"); code != 0 || v.closes()-before != closes {
			t.Errorf("%s: status %d, %q, closed %d times, want %d", what, code, errs, v.closes()-before, closes)
		}
	}
	knock := func(args ...string) {
		t.Helper()
		if code, _, errs := v.run(append([]string{"knock", "gate"}, args...)...); code != 0 {
			t.Error(errs)
		}
	}
	ran("nobody has knocked", 1)
	knock("--open-for", "2h")
	ran("after a knock", 0)
	v.now = v.now.Add(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	v.ctx, v.printed = ctx, cancel
	v.want(0, "open until 15:01:00 for 127.0.0.1\n",
		"doorward: note: the door stays open, since you have knocked for it, until 16:00:00: doorward knock gate ssh --close closes it now\n", "hold", "gate")
	v.ctx, v.printed = t.Context(), nil
	knock("--close")
	ran("after the door was closed", 1)
	knock("--open-for", "2h")
	v.now = v.now.Add(2 * time.Hour)
	ran("when it is over", 1)
	knock("--address", "203.0.113.9")
	ran("after a knock for another address", 1)
}

// Between ssh's Match exec and its connection no other call closes the door.
func TestADoorStaysOpenForSSH(t *testing.T) {
	v, _ := enrolled(t)
	for _, knocks := range []int{1, 0} { // of Match exec: the second finds it open
		before := v.knocks()
		v.want(0, "", "", "knock", "gate", "--quiet-match")
		if n := v.knocks() - before; n != knocks {
			t.Errorf("%d knocks, want %d", n, knocks)
		}
		before = v.closes()
		if code, _, errs := v.run("run", "gate", "--", "true"); code != 0 || v.closes() != before {
			t.Errorf("status %d, %q; the door is closed before ssh has connected: %v", code, errs, v.gateway.Knocks())
		}
		v.now = v.now.Add(9 * time.Second)
	}
	v.now = v.now.Add(2 * time.Second)
	if code, _, errs := v.run("run", "gate", "--", "true"); code != 0 || v.closes() != 1 {
		t.Errorf("status %d, %q; closed %d times, want once", code, errs, v.closes())
	}
}

// A call that can find no place to meet others closes the door that it has opened.
func TestWithoutAPlaceToMeetTheDoorIsClosed(t *testing.T) {
	v, _ := enrolled(t)
	delete(v.vars, "XDG_RUNTIME_DIR")
	if code, _, errs := v.run("run", "gate", "--", "true"); code != 0 || v.closes() != 1 {
		t.Errorf("status %d, %q; closed %d times, want once", code, errs, v.closes())
	}
}

// A job without XDG_RUNTIME_DIR meets the calls of its user's session, if there is one, and
// else those that have none either.
func TestMeetingPlace(t *testing.T) {
	session, cache := t.TempDir(), t.TempDir()
	for name, tt := range map[string]struct{ variable, session, want string }{
		"in a session":              {session, session, session},
		"a job beside one":          {"", session, session},
		"a job without one":         {"", filepath.Join(session, "gone"), cache},
		"elsewhere":                 {cache, session, cache},
		"a system without sessions": {"", "", cache},
	} {
		e := &env{getenv: func(string) string { return tt.variable }, session: tt.session, cache: func() (string, error) { return cache, nil }}
		got, err := meetingPlace(e)
		if want := filepath.Join(tt.want, "doorward"); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}
