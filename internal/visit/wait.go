package visit

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// How a port is asked whether it is open yet. A dark port is silent, and the
// kernel sends a lost SYN again only after a second: many short tries find the
// moment sooner. They start at a few round trips, because a try shorter than
// one never succeeds, and grow, in case the first guess was too short.
const (
	firstTry  = 5 * time.Millisecond  // at least, for the first try
	longTry   = time.Second           // at most, for any
	firstRest = 10 * time.Millisecond // after an answer that came at once, such as a refusal
	longRest  = 250 * time.Millisecond
	grace     = time.Second // for the other family, once one is open
)

// Opened is an address whose port was waited for.
type Opened struct {
	Address netip.Addr
	After   time.Duration // since Wait began
	Err     error         // nil when the port accepted; else what the last try met
	// Conn is the connection itself where Wait was told to keep it; the caller
	// closes it.
	Conn net.Conn
}

// Wait asks TCP port p of every address until it accepts, or ctx ends. Once one
// has accepted the others get a second more; with keep, the first to accept is
// the last, and its connection is handed over. The results are in the order of
// the attempts, which give the addresses and, by their touches, the round trip.
func (v *Visitor) Wait(ctx context.Context, knocked []Attempt, p uint16, keep bool) []Opened {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		i int
		o Opened
	}
	results := make(chan result)
	for i, at := range knocked {
		// Ends with ctx, and is received from below whatever happens.
		go func() { results <- result{i, v.waitAt(ctx, at, p)} }()
	}
	opened := make([]Opened, len(knocked))
	won := false
	for range knocked {
		r := <-results
		if r.o.Err == nil && (won || !keep) {
			r.o.Conn.Close()
			r.o.Conn = nil
		}
		opened[r.i] = r.o
		switch {
		case r.o.Err != nil || won:
			continue
		case keep:
			cancel()
		default:
			defer time.AfterFunc(grace, cancel).Stop()
		}
		won = true
	}
	return opened
}

func (v *Visitor) waitAt(ctx context.Context, at Attempt, p uint16) Opened {
	start := time.Now()
	o := Opened{Address: at.Address, Err: context.Cause(ctx)}
	try, rest := min(max(firstTry, 3*at.roundTrip()), longTry), firstRest
	for ctx.Err() == nil {
		tryCtx, cancel := context.WithTimeout(ctx, try)
		c, err := v.dial(tryCtx, at.Address, p)
		cancel()
		o.After = time.Since(start)
		if err == nil {
			o.Conn, o.Err = c, nil
			return o
		}
		if o.Err == nil || ctx.Err() == nil {
			o.Err = err // not the one that only says that ctx ended
		}
		try = min(try*3/2, longTry)
		if !isTimeout(err) {
			sleep(ctx, rest)
			rest = min(rest*2, longRest)
		}
	}
	return o
}

// roundTrip is the shortest of the attempt's handshakes.
func (a Attempt) roundTrip() time.Duration {
	var d time.Duration
	for _, t := range a.Touches {
		if t.Err == nil && (d == 0 || t.Took < d) {
			d = t.Took
		}
	}
	return d
}

// WhyShut puts into words what the last try at a port that did not open met:
// "refuses connections", or "does not answer".
func (o Opened) WhyShut() string {
	switch {
	case isRefused(o.Err):
		return "refuses connections"
	case isTimeout(o.Err):
		return "does not answer"
	}
	return "cannot be reached: " + reason(o.Err)
}
