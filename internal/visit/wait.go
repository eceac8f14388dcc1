package visit

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// How a port is asked whether it is open yet. A dark port is silent, and the
// kernel sends a lost SYN again only after a second: many tries find the moment
// sooner. They are a few round trips apart at first, so that an open port is asked
// once, and farther as time passes.
const (
	firstTry  = 5 * time.Millisecond  // at least, until the second try
	longTry   = time.Second           // at most, until the next, and at least for each
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

// answer is what came of a try that was answered.
type answer struct {
	conn net.Conn
	err  error
}

// waitAt waits at one address. A try goes on while the next ones are made: where the
// first connection spends the grant, the kernel may have made it before this process
// comes to see it.
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

// try connects once, and tells of an answer while anybody listens.
func (v *Visitor) try(ctx context.Context, at Attempt, p uint16, answers chan<- answer) {
	tryCtx, cancel := context.WithTimeout(ctx, max(longTry, 3*at.roundTrip()))
	defer cancel()
	c, err := v.dial(tryCtx, at.Address, p)
	if err != nil && tryCtx.Err() != nil {
		return // silence
	}
	select {
	case answers <- answer{c, err}:
	case <-ctx.Done():
		if err == nil {
			c.Close()
		}
	}
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
