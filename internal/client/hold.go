package client

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/visit"
)

// Held is what became of one knock of Hold.
type Held struct {
	Result
	Err error     // nil when the door is open, or closed at the end
	Why HeldFor   // the knock
	At  time.Time // it ended
}

// HeldFor is why Hold has knocked.
type HeldFor uint8

// The reasons.
const (
	HeldFirst  HeldFor = iota // it begins
	HeldEnds                  // the grant would end soon
	HeldMoved                 // this machine has another address
	HeldRetry                 // the knock before was in vain
	HeldReturn                // it ends, and gives the grant back
)

// How Hold keeps a door open.
const (
	holdLook   = 2 * time.Second  // between looks at the own addresses, and at the clock
	holdShort  = time.Second      // at least, between knocks
	holdAgain  = 5 * time.Second  // after a knock in vain, and then twice as long
	holdLong   = time.Minute      // at most
	holdReturn = 10 * time.Second // for giving back
)

// Hold keeps a door open until ctx ends, and gives the grant back then, unless Knock.Leave
// says that somebody else needs it. It knocks before
// the grant ends, when this machine's own address changes, and again while a knock is in
// vain. It returns an error, which is that of the last knock, only if the first knock is in
// vain or the gateway refuses one; what such a knock may have opened is given back, too. tell
// hears of each knock.
func (c *Client) Hold(ctx context.Context, k Knock, tell func(Held)) error {
	h := holder{c: c, k: k, tell: tell}
	err := h.hold(ctx)
	leave := k.Leave != nil && k.Leave()
	if h.open && !leave {
		h.giveBack(context.WithoutCancel(ctx))
	}
	return err
}

// holder is one Hold.
type holder struct {
	c    *Client
	k    Knock
	tell func(Held)

	open   bool      // or it may be
	next   time.Time // of the next knock, by the wall clock: a machine that sleeps has no other
	looked time.Time // at that clock, the last time
	why    HeldFor
	at     []netip.AddrPort // of the gateway, as it has answered last
	own    []netip.Addr     // of this machine, for each of those
	fails  int
}

func (h *holder) hold(ctx context.Context) error {
	first := true
	for {
		if err := h.knock(ctx); err != nil && (first || refused(err)) {
			return err
		}
		first = false
		for h.why = HeldFor(0); h.why == HeldFirst; {
			if !visit.Pause(ctx, holdLook) {
				return nil
			}
			h.why = h.due(time.Now().Round(0))
		}
	}
}

// due says why it is time for another knock; HeldFirst if it is not.
func (h *holder) due(now time.Time) HeldFor {
	setBack := now.Before(h.looked) // and by it nobody knows when the grant ends
	h.looked = now
	switch {
	case h.fails == 0 && !slices.Equal(h.own, h.addresses()):
		return HeldMoved
	case !setBack && now.Before(h.next.Add(-holdLook)):
		return HeldFirst
	case h.fails > 0:
		return HeldRetry
	}
	return HeldEnds
}

// refused says whether it is in vain to knock again: what is wrong with the gateway or its
// service may be mended.
func refused(err error) bool {
	e, is := errors.AsType[*RefusedError](err)
	return is && e.Reason != seal.Unavailable && e.Reason != seal.NotStarted
}

// knock knocks once.
func (h *holder) knock(ctx context.Context) error {
	r, err := h.c.Knock(ctx, h.k)
	h.open = h.open || r.Unanswered || r.Done()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	h.learn(r)
	now := time.Now().Round(0)
	h.looked = now
	h.tell(Held{Result: r, Err: err, Why: h.why, At: now})
	if err != nil {
		h.next = now.Add(min(holdAgain<<min(h.fails, 8), holdLong))
		h.fails++
		return err
	}
	h.fails = 0
	left := time.Duration(0)
	for _, a := range r.Answers {
		if a.Status == seal.Opened && (left == 0 || a.Left < left) {
			left = a.Left
		}
	}
	h.next = now.Add(max(left*2/3, holdShort))
	h.own = h.addresses()
	return nil
}

// learn keeps what the next knock needs to know.
func (h *holder) learn(r Result) {
	if r.Bundle != nil {
		h.k.Profile.Gateway.Bundle = r.Bundle
	}
	if r.Next != nil {
		h.k.Profile.Gateway = *r.Next
	}
	if len(r.Answers) > 0 {
		h.at = nil
	}
	for _, a := range r.Answers {
		h.at = append(h.at, a.Gateway)
	}
}

// addresses are this machine's, as the gateway's addresses are reached from here.
func (h *holder) addresses() (own []netip.Addr) {
	for _, at := range h.at {
		own = append(own, h.c.Own(at))
	}
	return own
}

// Own returns this machine's address on the way to a gateway's, invalid if there is no way.
// Nothing is sent: a socket of UDP that is connected has an address (connect(2)).
func (c *Client) Own(gateway netip.AddrPort) netip.Addr {
	ctx, cancel := context.WithTimeout(context.Background(), holdLook)
	defer cancel()
	conn, err := c.dial(ctx, "udp", gateway.String())
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return localOf(conn)
}

// giveBack closes the door.
func (h *holder) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, holdReturn)
	defer cancel()
	h.k.Request.Action, h.k.Request.OpenFor = seal.Close, 0
	r, err := h.c.Knock(ctx, h.k)
	h.tell(Held{Result: r, Err: err, Why: HeldReturn, At: time.Now().Round(0)})
}
