package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/legible"
	"github.com/doorward/doorward/internal/relay"
)

// local is a listener on this machine, for programs that cannot knock.
type local struct {
	*passage // whose signer all connections use
	strict   bool

	mu sync.Mutex // guards what is printed
}

// mostLocal is how many connections a local listener has at once. More wait until one ends.
const mostLocal = 256

// readListen reads [ADDR:]PORT. Without an address it is loopback.
func readListen(text string) (netip.AddrPort, error) {
	const allowed = "allowed are PORT and ADDRESS:PORT, such as 8080, 127.0.0.1:8080 and [::1]:8080; 0 is a free port"
	if n, err := strconv.ParseUint(text, 10, 16); err == nil {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(n)), nil
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil {
		return at, fmt.Errorf("%q: %s", text, allowed)
	}
	return at, nil
}

// newLocal unlocks the key of a passage, once for all connections.
func newLocal(ctx context.Context, e *env, name, door string) (*local, error) {
	p, err := loadPassage(e, name, door)
	if err != nil {
		return nil, err
	}
	if err := p.unlock(ctx); err != nil {
		return nil, err
	}
	return &local{passage: p}, nil
}

// serve listens, and has each connection handled beside the others, until ctx ends.
func (l *local) serve(ctx context.Context, at netip.AddrPort, what string, handle func(context.Context, net.Conn) error) error {
	listener, err := net.Listen("tcp", at.String())
	if err != nil {
		return fmt.Errorf("listen on %s: %w", at, bareError(err))
	}
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	defer listener.Close()
	l.say("%s on %s, for every user of this machine", what, listener.Addr())
	if !at.Addr().IsLoopback() {
		l.say("note: this is no loopback address: whoever can reach it may use it, and so your key")
	}
	within, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	free := make(chan bool, mostLocal)
	for {
		select {
		case free <- true:
		case <-ctx.Done():
			return nil
		}
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil // it was told to end
		}
		if err != nil && !pauseFor(ctx, err) {
			return fmt.Errorf("listen on %s: %w", at, bareError(err))
		}
		if err != nil {
			<-free
			continue
		}
		all.Go(func() {
			defer func() { <-free }()
			defer conn.Close()
			if err := handle(within, conn); err != nil && within.Err() == nil {
				l.wrong(err)
			}
		})
	}
}

// pauseFor waits a moment where an error passes by itself, as when this process has too
// many files open, and says whether it may.
func pauseFor(ctx context.Context, err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	select {
	case <-ctx.Done():
	case <-time.After(100 * time.Millisecond):
	}
	return true
}

// bareError is an error of the operating system's without what package net puts before it.
func bareError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// through connects to a port behind a door, which may be another than the passage's.
func (l *local) through(ctx context.Context, door string, port uint16) (net.Conn, error) {
	p, err := loadPassage(l.e, l.profile.Name, door) // as it is now: a connection may have learnt something
	if err != nil {
		return nil, err
	}
	p.signer = l.signer
	n := newEntrance(l.e, p)
	n.strict = l.strict
	return n.connect(ctx, port)
}

// join connects two ends.
func (l *local) join(ctx context.Context, a, b net.Conn) { relay.Pair(ctx, a, b) }

// say says something on standard error.
func (l *local) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.e.stderr, "doorward: "+format+"\n", args...)
}

// wrong says why a connection has come to nothing.
func (l *local) wrong(err error) {
	text := legible.Lines(err.Error())
	if hint := hintOf(err); hint != "" && codeOf(err) != control.CodeUsage {
		text += "; " + legible.Lines(hint)
	}
	l.say("error: %s", text)
}
