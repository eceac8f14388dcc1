package visit

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// How a port is tried until it is open. A dark port is silent, and the kernel sends
// a lost SYN again only after a second: many tries find the moment sooner. They are
// a few round trips apart at first, so that an open port is tried only once, and
// farther apart as time passes.
const (
	firstTry  = 5 * time.Millisecond   // from the first try to the second, at least
	longTry   = time.Second            // from any try to the next, at most; each lasts at least as long
	firstRest = 10 * time.Millisecond  // after the first answer that is a refusal or another error
	longRest  = 250 * time.Millisecond // after later ones, at most
	grace     = time.Second            // for the other family, once one is open
)

// Opened is an address at which Wait waited for the port.
type Opened struct {
	Address netip.Addr
	After   time.Duration // since Wait began
	Err     error         // nil if the port accepted; otherwise the last try's
	// Conn is the connection itself if Wait was asked to keep it; the caller
	// closes it.
	Conn net.Conn
}

// Wait tries TCP port p of every address until it accepts, or ctx ends. Once one
// has accepted, the others have one more second; with keep, Wait ends with the
// first that accepts and returns its connection. The results are in the order of
// the attempts, which have the addresses and, in their touches, the round trip.
func (v *Visitor) Wait(ctx context.Context, knocked []Attempt, p uint16, keep bool) []Opened {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		i int
		o Opened
	}
	results := make(chan result)
	for i, at := range knocked {
		// It ends with ctx, and its result is always received below.
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

// answer is the result of a try that was answered.
type answer struct {
	conn net.Conn
	err  error
}

// waitAt waits at one address. A try continues while the next ones are made: if a grant
// is for one connection only, the kernel may have made that before this process gets to
// see it.
func (v *Visitor) waitAt(ctx context.Context, at Attempt, p uint16) Opened {
	var tries sync.WaitGroup
	defer tries.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start := time.Now()
	o := Opened{Address: at.Address, Err: os.ErrDeadlineExceeded} // if nothing ever answers
	answers := make(chan answer)
	pace, rest := min(max(firstTry, 3*at.roundTrip()), longTry), firstRest
	for ctx.Err() == nil {
		tries.Go(func() { v.try(ctx, at, p, answers) })
		silent := true
		for next := time.After(pace); next != nil; {
			select {
			case <-ctx.Done():
				next = nil
			case <-next:
				next = nil
			case a := <-answers:
				if a.err == nil {
					o.After, o.Conn, o.Err = time.Since(start), a.conn, nil
					return o
				}
				o.Err, silent = a.err, false
				next = time.After(rest)
				rest = min(rest*2, longRest)
			}
		}
		if silent && ctx.Err() == nil {
			o.Err = os.ErrDeadlineExceeded
			pace = min(pace*3/2, longTry)
		}
	}
	o.After = time.Since(start)
	return o
}

// try connects once, and sends an answer, if there is one, to answers until ctx ends.
func (v *Visitor) try(ctx context.Context, at Attempt, p uint16, answers chan<- answer) {
	tryCtx, cancel := context.WithTimeout(ctx, max(longTry, 3*at.roundTrip()))
	defer cancel()
	c, err := v.dial(tryCtx, at.Address, p)
	if err != nil && tryCtx.Err() != nil {
		return // no answer
	}
	select {
	case answers <- answer{c, err}:
	case <-ctx.Done():
		if err == nil {
			c.Close()
		}
	}
}

// roundTrip returns how long the shortest of the attempt's handshakes took.
func (a Attempt) roundTrip() time.Duration {
	var d time.Duration
	for _, t := range a.Touches {
		if t.Err == nil && (d == 0 || t.Took < d) {
			d = t.Took
		}
	}
	return d
}

// WhyShut says in words how the last try at a port that did not open failed:
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

// Refuses says whether something has answered that nothing listens there.
func (o Opened) Refuses() bool { return isRefused(o.Err) }

// Silent says whether nothing has answered.
func (o Opened) Silent() bool { return isTimeout(o.Err) }

// Try tries TCP port p of an address once, until ctx ends. The caller closes the connection,
// if there is one.
func (v *Visitor) Try(ctx context.Context, a netip.Addr, p uint16) Opened {
	start := time.Now()
	conn, err := v.dial(ctx, a, p)
	if err != nil && ctx.Err() != nil {
		err = os.ErrDeadlineExceeded
	}
	return Opened{Address: a, After: time.Since(start), Err: err, Conn: conn}
}
