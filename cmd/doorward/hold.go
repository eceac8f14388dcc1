package main

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/seal"
)

const holdHelp = `Keep a door open while this program runs: knock at it now, again before the grant
ends, and at once when this machine gets another address, as a laptop does that changes
networks. Interrupted (Ctrl-C) or terminated, or when its terminal or the reader of its
output is gone, hold closes the door behind you and ends; connections that stand are not
affected.

The door stays open where another call of yours on this machine needs it: a hold or run,
an ssh that is just connecting, or a knock until the time that it was told. To a gateway
you are a key at an address. So machines with the same key behind one router are one
visitor to it, and hold closes the door for all of them: give each a key of its own.

A gateway that does not answer for a while is asked again until it does. Only if the
first knock is in vain, or when the gateway refuses one, does hold give up.

A security key is to be touched for each knock: use another key, or a longer --open-for.

Exit status: 0 when it was told to end, and the door is closed or was not open; 1 when
something failed here; 2 when the command line is wrong; 5 when there is no such door;
6 when the gateway refuses; 7 when it does not answer.`

const holdExamples = `  doorward hold gate
  doorward hold gate web --open-for 1h`

func newHold(e *env) *cobra.Command {
	var o sealedOptions
	var asJSON bool
	c := &cobra.Command{
		Use:               "hold PROFILE [DOOR]",
		Short:             "keep a door open while this runs",
		Long:              holdHelp,
		Example:           holdExamples,
		ValidArgsFunction: completeProfiles(e),
		Args: func(c *cobra.Command, args []string) error {
			if err := profileAndDoor(args); err != nil {
				return &usageError{withHint(err, "%s --help", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if o.openFor < 0 || o.openFor%time.Second != 0 {
				return &usageError{fmt.Errorf("--open-for %v: allowed are whole seconds, such as 90s or 2h", o.openFor)}
			}
			if o.profile = args[0]; len(args) > 1 {
				o.door = args[1]
			}
			return hold(c, e, &o, asJSON)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.DurationVar(&o.openFor, "open-for", 0, "ask for this `TIME` with each knock, such as 10m, instead of what the door says")
	f.BoolVar(&asJSON, "json", false, "print each knock as JSON, on one line")
	return c
}

// hold carries out the command.
func hold(c *cobra.Command, e *env, o *sealedOptions, asJSON bool) error {
	p, err := o.load(e)
	if err != nil {
		return err
	}
	if p.profile.OneWay {
		return withHint(fmt.Errorf("profile %q has one_way: single packets are not answered, so that nobody knows how long the door is open", p.profile.Name),
			"doorward knock %s --wait PORT", p.profile.Name)
	}
	// Who reads what it prints may end, too. Once it is asked for, the signal of that is no
	// death (os/signal, SIGPIPE).
	ctx, stop := untilHangUp(c.Context(), syscall.SIGPIPE)
	defer stop()
	if err := p.unlock(ctx); err != nil && ctx.Err() != nil {
		return interrupted(ctx, "before the knock was begun")
	} else if err != nil {
		return err
	}
	h := &holding{passage: p, json: asJSON, entrance: newEntrance(e, p)}
	k := p.knock()
	stay := h.entrance.stay(ctx)
	defer stay.End()
	k.Leave = func() bool { return h.entrance.leave(stay) }
	err = e.knocker().Hold(ctx, k, h.tell)
	if h.entrance.needed != "" && h.opened {
		fmt.Fprintf(e.stderr, "doorward: note: the door stays open, since %s\n", h.entrance.needed)
	}
	if err != nil && h.unclosed != nil {
		fmt.Fprintf(e.stderr, "doorward: note: not closed, since %v; the grant ends by itself\n", h.unclosed)
	}
	switch {
	case err != nil && ctx.Err() != nil && !h.opened:
		return interrupted(ctx, "before the gateway had answered")
	case err != nil:
		return failed(ctx, p.shown(err))
	case h.unclosed != nil:
		return fmt.Errorf("the door is not closed, and its grant ends by itself: %w", failed(context.WithoutCancel(ctx), h.unclosed))
	}
	return h.unsaid
}

// holding says what becomes of hold's knocks.
type holding struct {
	*passage
	entrance *entrance
	json     bool
	opened   bool
	said     map[netip.Addr]bool // sources for which the door was said to be open
	unclosed error               // why it is not closed at the end
	unsaid   error
}

func (h *holding) tell(k client.Held) {
	h.learn(k.Result)
	h.entrance.held(k)
	h.opened = h.opened || k.Err == nil
	if h.json {
		p := *h.passage
		if k.Why == client.HeldReturn {
			p.request.Action = seal.Close
		}
		h.note(printJSONLine(h.e.stdout, p.object(k.Result)))
		if k.Err == nil {
			return
		}
	}
	switch {
	case k.Err != nil && k.Why == client.HeldReturn:
		h.unclosed = k.Err
	case k.Err != nil && h.opened && k.Why != client.HeldRetry && !isA[*client.RefusedError](k.Err):
		fmt.Fprintf(h.e.stderr, "doorward: note: %v; it is tried again\n", k.Err)
	case k.Err == nil && h.news(k):
		for _, line := range lines(k.Result, h.e.clock()) {
			_, err := fmt.Fprintln(h.e.stdout, line)
			h.note(err)
		}
	}
}

// news says whether a knock has come to something that was not said before. That a door
// stays open is none.
func (h *holding) news(k client.Held) bool {
	now := map[netip.Addr]bool{}
	for _, a := range k.Answers {
		now[a.Source] = true
	}
	same := k.Why == client.HeldEnds && len(now) == len(h.said)
	for a := range now {
		same = same && h.said[a]
	}
	h.said = now
	return !same
}

func (h *holding) note(err error) {
	if h.unsaid == nil {
		h.unsaid = err
	}
}
