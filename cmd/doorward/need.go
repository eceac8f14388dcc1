package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/turns"
)

// This file has who needs a door to stay open: whoever closes it behind themselves must not
// take it from another call of the same user.

// sshSoon is how soon ssh connects after its Match exec has knocked.
const sshSoon = 10 * time.Second

// stay says to other calls that this one needs the door to stay open, until its End. While
// another one closes the door, it waits.
func (n *entrance) stay(ctx context.Context) *turns.Stay {
	within, cancel := context.WithTimeout(ctx, turnWithin)
	defer cancel()
	return n.door.Stay(within)
}

// leave says whether the door is to be left open, since somebody else needs it, and why in
// n.needed. If not, nobody else comes to need it before the stay ends.
func (n *entrance) leave(s *turns.Stay) bool {
	now := n.e.clock()
	if !s.Leave() {
		n.needed = "another call of yours needs it: that one closes it, or the grant ends by itself"
	} else if until := n.door.Promised(now); !until.IsZero() {
		n.needed = fmt.Sprintf("you have knocked for it, until %s: %s closes it now", output.Clock(until, now), n.closing())
	}
	return n.needed != ""
}

// closing is the command that closes the door.
func (p *passage) closing() string {
	return strings.Join(strings.Fields("doorward knock "+p.profile.Name+" "+p.request.Door+" --close"), " ")
}

// knocked tells other calls what a knock has come to that a visitor has asked for, who is
// told until when the door is open.
func (n *entrance) knocked(r client.Result) {
	n.note(r)
	if r.Done() && n.request.Action != seal.Close && !n.request.Address.IsValid() {
		n.promise(n.knownFrom(r).Until, 0)
	}
}

// promise says to other calls that the door is not to be closed behind whoever was told that
// it is open, until a time, or for as long as atMost; 0: without such a limit.
func (n *entrance) promise(until time.Time, atMost time.Duration) {
	now := n.e.clock()
	if soon := now.Add(atMost); atMost > 0 && soon.Before(until) {
		until = soon
	}
	n.door.Promise(now, until)
}
