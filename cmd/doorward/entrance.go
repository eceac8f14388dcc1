package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/signer"
	"github.com/doorward/doorward/internal/turns"
	"github.com/doorward/doorward/internal/visit"
)

// entrance is a passage for programs that connect through it. Those that a user runs at the
// same time share what one of them has found out: while a grant lasts, nobody knocks again.
type entrance struct {
	*passage
	visitor *visit.Visitor
	door    *turns.Door // nil: shared with nobody
	timeout time.Duration
	// untouched says that nobody is to be asked for the touch of a security key.
	untouched bool
	strict    bool   // the door's own ports alone
	needed    string // why the door is not closed behind this call, once that is known
}

var errTouch = withHint(errors.New("the profile's key takes a touch, which Match exec never asks for"), "doorward ssh-config PROFILE --install, without --match")

const (
	tryShared    = 2 * time.Second  // whether the door is still open by another call's knock
	turnWithin   = 2 * time.Minute  // as long as a knock may take: a touch, and a service that starts
	notAgain     = 10 * time.Second // until ssh's Match exec knocks again, after a knock in vain
	unanswered   = 5 * time.Second  // how long a single packet's grant is taken to last
	waitPatience = 10 * time.Second // for a port behind a door that is open
)

// newEntrance is the way through a profile's door.
func newEntrance(e *env, p *passage) *entrance {
	n := &entrance{passage: p, visitor: e.visits, timeout: waitPatience}
	if n.visitor == nil {
		n.visitor = &visit.Visitor{}
	}
	if dir, err := meetingPlace(e); err == nil {
		n.door = turns.At(dir, strings.Join([]string{p.in.Path(p.profile.Name), p.request.Door}, "\n"))
	}
	return n
}

// profileFor returns the name of the profile by which a host is reached.
func profileFor(e *env, in profile.Directory, host string) (string, error) {
	names, err := in.Names()
	if err != nil {
		return "", err
	}
	host = plainHost(host)
	var found, broken []string
	for _, name := range names {
		if strings.EqualFold(name, host) {
			return name, nil
		}
		p, err := in.Load(name)
		if err != nil {
			broken = append(broken, name)
		}
		if slices.ContainsFunc(p.Hosts, func(h string) bool { return plainHost(h) == host }) {
			found = append(found, name)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", &usageError{withHint(fmt.Errorf("%d profiles have the host %q: %s", len(found), host, strings.Join(found, ", ")), "--profile %s", found[0])}
	case len(broken) > 0:
		return "", withHint(fmt.Errorf("no profile has the host %q, but %s cannot be used", host, strings.Join(broken, ", ")), "doorward profiles show %s", broken[0])
	}
	hint := orProfiles(e, in)
	if len(names) > 0 {
		hint = "--profile NAME names one; " + hint
	}
	return "", withHint(fmt.Errorf("no profile is called %q or has it among its hosts", host), "%s", hint)
}

// plainHost is a host as hosts are compared.
func plainHost(h string) string {
	if a, err := netip.ParseAddr(h); err == nil {
		return a.Unmap().String()
	}
	return strings.ToLower(strings.TrimSuffix(h, "."))
}

// connect connects to a port behind the door, and knocks if it is not known to be open.
// Port 0 is the door's first of TCP.
func (n *entrance) connect(ctx context.Context, port uint16) (net.Conn, error) {
	defer n.stay(ctx).End()
	known := n.door.Known()
	if conn, err := n.through(ctx, known, port); conn != nil || err != nil {
		return conn, err
	}
	began := n.e.clock()
	turn, err := n.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer turn.Release()
	now := n.door.Known()
	since := now.At.After(began) && !now.At.After(n.e.clock()) // else the clock was set
	if now.Failed != nil && since && (now.Failed.Port == 0 || now.Failed.Port == port) {
		return nil, shared(now.Failed)
	}
	if now.At.After(known.At) {
		n.relearn()
		if conn, err := n.through(ctx, now, port); conn != nil || err != nil {
			return conn, err
		}
	}
	fresh, err := n.ask(ctx, now)
	if err != nil {
		return nil, err
	}
	if port, err = n.allowed(port); err != nil {
		return nil, err
	}
	conn, err := n.wait(ctx, fresh, port, n.timeout)
	if err != nil && ctx.Err() == nil {
		fresh.Failed = inVain(err, port)
		n.door.Tell(fresh)
	}
	return conn, err
}

// relearn takes the doors' ports as another call may have learnt them meanwhile.
func (n *entrance) relearn() {
	if p, err := n.in.Load(n.profile.Name); err == nil {
		n.profile.Ports = p.Ports
	}
}

// allowed returns the port to connect to. Which ports are the door's, is known once it was
// opened; of a door with many, the gateway tells some.
func (n *entrance) allowed(port uint16) (uint16, error) {
	ports := n.profile.Ports[n.request.Door]
	if port == 0 {
		if port = firstTCP(ports); port == 0 {
			return 0, &control.Error{Code: control.CodeRefused, Message: "the door has no TCP port: " + strings.Join(ports, ", ")}
		}
		return port, nil
	}
	if n.strict && len(ports) < seal.MostPorts && !hasPort(ports, port) {
		return 0, &control.Error{Code: control.CodeRefused, Message: fmt.Sprintf("%d/tcp is none of the door's ports, which are %s", port, cmp.Or(strings.Join(ports, ", "), "not known"))}
	}
	return port, nil
}

// match knocks for ssh's "Match exec", which ssh runs more often than it connects: only if
// the door is not known to be open, not again within seconds after a knock in vain, and
// never with what would ask somebody.
func (n *entrance) match(ctx context.Context) error {
	defer n.stay(ctx).End()
	known := n.door.Known()
	if len(n.standing(known)) > 0 {
		n.promise(known.Until, sshSoon)
		return nil
	}
	turn, err := n.turn(ctx)
	if err != nil {
		return err
	}
	defer turn.Release()
	if known = n.door.Known(); len(n.standing(known)) > 0 {
		n.promise(known.Until, sshSoon)
		return nil
	}
	if age := n.e.clock().Sub(known.At); known.Failed != nil && age >= 0 && age < notAgain {
		return &statusError{code: cmp.Or(exits[known.Failed.Code], 1)} // it was said
	}
	quiet := *n.e
	quiet.ask = func(context.Context, string, bool) ([]byte, error) { return nil, signer.ErrNobody }
	n.e, n.untouched = &quiet, true
	fresh, err := n.ask(ctx, known)
	if err == nil {
		n.promise(fresh.Until, sshSoon)
	}
	return err
}

// through connects by a grant that another call has asked for; both are nil if that does
// not work at once.
func (n *entrance) through(ctx context.Context, k turns.Known, port uint16) (net.Conn, error) {
	ports := n.profile.Ports[n.request.Door]
	if port == 0 && firstTCP(ports) == 0 || n.strict && len(ports) == 0 {
		return nil, nil // which ones it has, is known after a knock
	}
	port, err := n.allowed(port)
	if err != nil {
		return nil, err
	}
	standing := k
	if standing.Ways = n.standing(k); len(standing.Ways) == 0 {
		return nil, nil
	}
	conn, _ := n.wait(ctx, standing, port, min(tryShared, n.timeout))
	if conn != nil && k.Spent {
		k.Spent = false
		n.door.Tell(k)
	}
	return conn, nil
}

// standing are the ways by which the door is open now, as far as is known.
func (n *entrance) standing(k turns.Known) (ways []turns.Way) {
	if !k.Open(n.e.clock()) {
		return nil
	}
	for _, w := range k.Ways {
		if n.own(w.Gateway) == w.Own {
			ways = append(ways, w)
		}
	}
	return ways
}

// own is this machine's address on the way to the gateway, invalid if there is no way.
func (n *entrance) own(gateway netip.Addr) netip.Addr {
	return n.e.knocker().Own(netip.AddrPortFrom(gateway, n.profile.Port))
}

// turn waits until no other call knocks at the door.
func (n *entrance) turn(ctx context.Context) (*turns.Turn, error) {
	wait, cancel := context.WithTimeout(ctx, turnWithin)
	defer cancel()
	t, _ := n.door.Take(wait) // without a turn, calls are in each other's way, and no more
	if ctx.Err() != nil {
		return nil, interrupted(ctx, "while another call knocked")
	}
	return t, nil
}

// ask knocks, and returns what is known then. before is what was known when it was
// decided to. It is called in the own turn.
func (n *entrance) ask(ctx context.Context, before turns.Known) (k turns.Known, err error) {
	k, err = n.answered(ctx)
	if err != nil && ctx.Err() != nil {
		return k, interrupted(ctx, "before the gateway had answered")
	}
	if err != nil {
		err = failed(ctx, err)
		n.door.Tell(turns.Known{At: n.e.clock(), Alone: before.Alone, Failed: inVain(err, 0)})
		return k, err
	}
	// A door that should have been open, and was not: the grant was good for one connection.
	if k.Alone = before.Alone; before.Failed == nil && before.Open(k.At) && k.SameSources(before) {
		k.Alone = k.At.Add(turns.AloneFor)
	}
	// Unless it was taken back, and that does not happen twice in a row.
	if k.Spent = before.Spent; !k.Spent && k.Alone.After(before.Alone) {
		k.Alone, k.Spent = before.Alone, true
	}
	n.door.Tell(k)
	return k, nil
}

// answered knocks, and returns what the gateway has answered.
func (n *entrance) answered(ctx context.Context) (k turns.Known, err error) {
	if n.signer == nil {
		if err := n.unlock(ctx); err != nil {
			return k, err
		}
	}
	if n.untouched && n.signer.Touch() {
		return k, errTouch
	}
	began := n.e.clock()
	if n.profile.OneWay {
		sent, err := n.single(ctx)
		for _, s := range sent {
			k.Ways = append(k.Ways, turns.Way{Gateway: s.Gateway.Addr(), Own: n.own(s.Gateway.Addr()), Source: s.Source})
		}
		k.At, k.Until = began, began.Add(unanswered)
		return k, err
	}
	r, err := n.visit(ctx)
	return n.knownFrom(r), err
}

// note tells other calls what a knock has come to that was not made for them. One for
// another address says nothing to them.
func (n *entrance) note(r client.Result) {
	if !r.Done() || n.request.Address.IsValid() {
		return
	}
	if n.request.Action == seal.Close {
		n.door.Forget()
		return
	}
	k := n.knownFrom(r)
	k.Alone = n.door.Known().Alone
	n.door.Tell(k)
}

// held tells other calls what a knock of Hold has come to.
func (n *entrance) held(k client.Held) {
	own := *n.passage
	if k.Why == client.HeldReturn {
		own.request.Action = seal.Close
	}
	(&entrance{passage: &own, door: n.door}).note(k.Result)
}

// knownFrom is what is known after a knock was answered.
func (n *entrance) knownFrom(r client.Result) (k turns.Known) {
	k.At = n.e.clock()
	for _, a := range r.Answers {
		if a.Status != seal.Opened {
			continue
		}
		if until := k.At.Add(a.Left); k.Until.IsZero() || until.Before(k.Until) {
			k.Until = until
		}
		k.Ways = append(k.Ways, turns.Way{Gateway: a.Gateway.Addr(), Own: n.own(a.Gateway.Addr()), Source: a.Source})
	}
	return k
}

// wait waits until a port accepts, and returns the connection.
func (n *entrance) wait(ctx context.Context, k turns.Known, port uint16, long time.Duration) (net.Conn, error) {
	within, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	opened := n.visitor.Wait(within, attemptsAt(k), port, true)
	for _, o := range opened {
		if o.Conn != nil {
			return o.Conn, nil
		}
	}
	if ctx.Err() != nil {
		return nil, interrupted(ctx, "while waiting")
	}
	return nil, n.shut(opened, port, long)
}

// attemptsAt are the addresses at which the door is open, as visit asks them.
func attemptsAt(k turns.Known) (all []visit.Attempt) {
	for _, w := range k.Ways {
		all = append(all, visit.Attempt{Address: w.Gateway})
	}
	return all
}

// shut is the error for a port that did not open after the gateway had opened the door.
func (n *entrance) shut(opened []visit.Opened, port uint16, long time.Duration) error {
	var why []string
	for _, o := range opened {
		why = append(why, fmt.Sprintf("%s %s", o.Address, o.WhyShut()))
	}
	err := &control.Error{Code: control.CodeTimeout, Message: fmt.Sprintf("%d/tcp did not open within %v: %s", port, long, strings.Join(why, ", "))}
	ports := n.profile.Ports[n.request.Door]
	switch {
	case len(ports) == 0:
		err.Hint = "nobody says whether a single packet has arrived: is the port the door's, and is the clock right?"
	case !hasPort(ports, port):
		err.Hint = fmt.Sprintf("the door is open, and its ports are %s; --door names another", strings.Join(ports, ", "))
	default:
		err.Hint = "the door is open: something between here and there drops the connection, or nothing listens there"
	}
	return err
}

// inVain is an error as other calls are told it.
func inVain(err error, port uint16) *turns.Failure {
	return &turns.Failure{Port: port, Code: codeOf(err), Message: err.Error(), Hint: hintOf(err)}
}

// shared is the error of a call that has waited for another one's, which was in vain.
func shared(f *turns.Failure) error {
	return &control.Error{Code: cmp.Or(f.Code, control.CodeFailed), Message: f.Message + " (another call has tried just now)", Hint: f.Hint}
}

// hasPort says whether a door's ports have this one of TCP.
func hasPort(ports []string, port uint16) bool {
	return slices.ContainsFunc(ports, func(text string) bool {
		first, last, ok := tcpPorts(text)
		return ok && first <= port && port <= last
	})
}

// tcpPorts reads "22/tcp" and "8000-8010/tcp".
func tcpPorts(text string) (first, last uint16, ok bool) {
	numbers, ok := strings.CutSuffix(text, "/tcp")
	low, high, ranged := strings.Cut(numbers, "-")
	first, err := parseTCPPort(low)
	last = first
	if ranged && err == nil {
		last, err = parseTCPPort(high)
	}
	return first, last, ok && err == nil
}

// firstTCP is the first of a door's TCP ports, 0 if it has none or none is known.
func firstTCP(ports []string) uint16 {
	for _, text := range ports {
		if first, _, ok := tcpPorts(text); ok {
			return first
		}
	}
	return 0
}
