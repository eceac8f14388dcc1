// Package client is the visitor's side of the sealed knock over the network, on every
// platform that Go has: it finds the gateway's addresses, sends what internal/seal makes,
// sends it again while nothing comes, and says what became of it. Who the visitor is, a
// Prover knows.
//
// IPv4 and IPv6 are two sources of one visitor, and the program that follows may use
// either. So both are knocked on at the same time, each at the first of its addresses that
// answers, with one proof for both: one touch of a security key. UDP goes first, and TCP
// follows half a second later where the gateway is there, too.
//
// Whatever comes from the network and is not the gateway's is ignored, errors that the
// network reports included: anybody can forge those. They only explain a silence.
package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
)

// Prover shows who a visitor is.
type Prover interface {
	// Credential says who the visitor is; its Proof is not set.
	Credential() seal.Credential
	// Prove returns the proof of a message. It may ask somebody, and ends with ctx.
	Prove(ctx context.Context, message []byte) ([]byte, error)
}

// Client knocks. The zero value uses the machine's resolver and network. A Client is not
// changed by its methods, so goroutines may share it.
type Client struct {
	// Dial opens a connection to a literal address and port over "udp" or "tcp"; nil is
	// net.Dialer's. Of one over "udp" each Read returns a datagram.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Lookup finds a name's addresses, the preferred ones first; nil is
	// net.DefaultResolver's LookupNetIP.
	Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Family says over which IP versions to knock.
type Family uint8

// Both is every family that the gateway has an address of.
const (
	Both Family = iota
	IPv4
	IPv6
)

// Knock is what a visitor asks of which gateway.
type Knock struct {
	Profile profile.Profile
	Request seal.Request
	Prover  Prover
	Family  Family

	Patience time.Duration  // how long to wait for a first answer; 0: 5s
	Starting time.Duration  // how long to wait for the service behind the door; 0: 60s
	Tell     func(Progress) // called when something takes time; may be nil
	Leave    func() bool    // asked by Hold at its end, whether to leave the door open; nil: it is closed
}

// Progress is what a knock waits for.
type Progress uint8

// The waits.
const (
	Proving  Progress = iota + 1 // for the Prover
	Waking                       // for the service behind the door, which is being started
	Repeated                     // for a second handshake, since the answer to the first was lost
)

// Answer is what the gateway has said over one family.
type Answer struct {
	seal.Answer
	Gateway   netip.AddrPort
	Stream    bool          // over TCP
	RoundTrip time.Duration // from a hello to its challenge, at most
	Took      time.Duration // from the beginning of the knock to this answer
}

// Result is what came of a knock.
type Result struct {
	Answers []Answer // of each family that has answered, the first to be challenged first
	// Bundle is the gateway's, if the profile had none. Next is the gateway as it is to be
	// known from now on, nil if that is as before. Both belong into the profile.
	Bundle []byte
	Next   *seal.Peer
	// Unanswered says that a request was sent, over one family at least, to which no final
	// answer has come, be it of the last handshake or of one before: the gateway may have
	// done, or may yet do, what it was asked for.
	Unanswered bool
}

// Done says whether the gateway has done over one family at least what it was asked for.
func (r Result) Done() bool { return slices.ContainsFunc(r.Answers, Answer.done) }

func (a Answer) done() bool { return a.Status == seal.Opened || a.Status == seal.Closed }

// Err is the *RefusedError of an answer to what a Prover has shown; nil if it was not
// refused.
func (a Answer) Err(p Prover) error {
	if a.Status != seal.Refused {
		return nil
	}
	return newRefusal(a.Answer, p.Credential().Kind, time.Now())
}

// How long things may take.
const (
	defaultPatience = 5 * time.Second
	defaultStarting = time.Minute

	firstAgain = 150 * time.Millisecond // until what was sent is sent again, and then twice as long
	longAgain  = 2 * time.Second        // at most
	streamFrom = time.Second            // until then TCP sends again by itself
	askAgain   = 5 * time.Second        // whether the service has started

	nextAddress = 250 * time.Millisecond // until the next address of a family (RFC 8305, section 5)
	nextCarrier = 500 * time.Millisecond // until TCP is tried besides UDP
	otherFamily = 200 * time.Millisecond // and a round trip: for its challenge, once one has come
	lastAnswer  = time.Second            // for the other family's answer, once one has come

	lookupWithin = 10 * time.Second // for the gateway's addresses
	answerWithin = 6 * time.Second  // else it is lost
	proveWithin  = 55 * time.Second // the gateway forgets after seal.HandshakeLife
	nextWithin   = 2 * time.Second  // for the gateway's newer key, which can wait

	handshakes = 3  // for one knock, at most
	mostOfEach = 8  // addresses of a family
	mostBusy   = 16 // answers busy that are followed on one path
)

// Knock knocks and waits for the answer. Without an error the gateway has done what it was
// asked for over one family at least. Errors are *NameError, *UnreachableError,
// *SilentError, *LostError, *RefusedError, *StartingError, *TooLongError, the Prover's or
// ctx's. The Result counts in any case.
func (c *Client) Knock(ctx context.Context, k Knock) (Result, error) {
	if k.Patience == 0 {
		k.Patience = defaultPatience
	}
	if k.Starting == 0 {
		k.Starting = defaultStarting
	}
	if k.Tell == nil {
		k.Tell = func(Progress) {}
	}
	if !k.Profile.Gateway.Complete() {
		k.Profile.Gateway.Bundle = nil // to be fetched
	}
	var result Result
	var err error
	repeated := false
	for range handshakes {
		if _, lost := errors.AsType[*LostError](err); lost {
			repeated = true
			k.Tell(Repeated)
		}
		err = c.once(ctx, &k, &result)
		if refused, ok := errors.AsType[*RefusedError](err); ok {
			refused.Repeated = repeated
		}
		long, ok := errors.AsType[*TooLongError](err)
		if ok && !long.TCP && slices.Contains(k.Profile.Carriers, "tcp") {
			k.Profile.Carriers = []string{"tcp"}
			continue
		}
		if _, lost := errors.AsType[*LostError](err); !lost {
			break
		}
	}
	if err == nil {
		c.next(ctx, k, &result)
	}
	return result, err
}

// once makes one handshake over each family.
func (c *Client) once(ctx context.Context, k *Knock, result *Result) error {
	r := newRace(c, k)
	err := r.run(ctx)
	if r.fetched {
		result.Bundle = r.peer.Bundle
		k.Profile.Gateway.Bundle = r.peer.Bundle
	}
	result.Answers = r.answers()
	result.Unanswered = result.Unanswered || r.unanswered()
	return err
}

// next fetches the gateway's newest key, if an answer has told of one. Without it nothing
// is lost yet: the next answer tells of it again.
func (c *Client) next(ctx context.Context, k Knock, result *Result) {
	for _, a := range result.Answers {
		if a.Next == k.Profile.Gateway.Fingerprint || a.Next == (seal.Fingerprint{}) {
			continue
		}
		p := k.Profile
		p.Hosts, p.Carriers = []string{a.Gateway.Addr().String()}, []string{carrier(a.Stream)}
		p.Gateway.Fingerprint, p.Gateway.Bundle = a.Next, nil
		r := newRace(c, &Knock{Profile: p, Patience: nextWithin, Tell: k.Tell})
		if r.run(ctx) == nil {
			result.Next = &r.peer
		}
		return
	}
}

// Fetch fetches the keys of a gateway that a profile does not have, and checks them.
// Errors are those of Knock.
func (c *Client) Fetch(ctx context.Context, p profile.Profile) ([]byte, error) {
	p.Gateway.Bundle = nil
	r := newRace(c, &Knock{Profile: p, Patience: defaultPatience, Tell: func(Progress) {}})
	err := r.run(ctx)
	return r.peer.Bundle, err
}

func carrier(stream bool) string {
	if stream {
		return "tcp"
	}
	return "udp"
}

// dial connects to an address.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if c.Dial != nil {
		return c.Dial(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

// find finds a host's addresses.
func (c *Client) find(ctx context.Context, host string) (f found) {
	if a, err := netip.ParseAddr(host); err == nil {
		return found{addrs: []netip.Addr{a}}
	}
	lookup := c.Lookup
	if lookup == nil {
		lookup = net.DefaultResolver.LookupNetIP
	}
	if f.addrs, f.err = lookup(ctx, "ip", host); f.err != nil {
		f.err = &NameError{host, f.err}
	}
	return f
}
