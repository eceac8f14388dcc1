package sealed

import (
	"net/netip"
	"sync/atomic"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

// opener opens what comes to a port, as a knock.Opener.
type opener struct {
	now  atomic.Pointer[office] // nil: nothing is heard
	used *handshakes
}

// office is what is in force at a port. It does not change.
type office struct {
	identity *identity
	single   bool
	gateway  *seal.Gateway
	desks    []desk // in the order of the configuration
}

// desk is one rule of a door at the port.
type desk struct {
	door string
	rule Rule
	ring *credential.Ring // nil: nobody
}

// desk returns the first of a door's.
func (o *office) desk(door string) *desk {
	for i := range o.desks {
		if o.desks[i].door == door {
			return &o.desks[i]
		}
	}
	return nil
}

// Glance looks for the tag and for what shows the source.
func (op *opener) Glance(from netip.Addr, payload []byte, busy bool, answer []byte) (knock.Rank, int) {
	o := op.now.Load()
	if o == nil {
		return knock.Junk, 0
	}
	rank, n := o.gateway.Glance(from, payload, busy, answer)
	return ranks[rank], n
}

var ranks = [...]knock.Rank{seal.Junk: knock.Junk, seal.Claimed: knock.Claimed, seal.Shown: knock.Shown}

// said is a request or a single packet, and whether its proof is right.
type said struct {
	door  string // of the desk, whatever name was given
	named bool   // there is such a door here
	knock *seal.Knock
	ring  *credential.Ring // by which it was verified
	shown
}

// Door is the door that it is for.
func (s *said) Door() string { return s.door }

// shown is whose the credential is.
type shown struct {
	ok       bool // the rest is of somebody who may be here
	party    *credential.Party
	code     *credential.Code // a rescue code's or an invite's
	enrolled *credential.Key  // by the invite
}

// Brief is true of public-key operations: a few are all that Open does.
func (op *opener) Brief() {}

// whose names the visitor whose handshakes are counted as one's. Of an invite that is who
// has it: they have as many keys as they like.
func (s *shown) whose() string {
	if s.code != nil {
		return string(s.code.Hash[:])
	}
	return s.party.ID
}

// Open answers a hello or a question, or verifies a request.
func (op *opener) Open(d knock.Datagram) (any, []byte, bool) {
	o := op.now.Load()
	if o == nil {
		return nil, nil, false
	}
	reply, k := o.gateway.Open(d.Path.From.Addr(), d.Time, d.Payload)
	if k == nil {
		return nil, reply, false
	}
	if k.Single == nil {
		if answer, again := op.used.again(k, d.Path.From.Addr().WithZone(""), o.gateway.Newest(), d.Time); again {
			return nil, answer, false
		}
	}
	s := &said{knock: k}
	at := o.find(k)
	if s.named = at != nil; at == nil {
		at = &o.desks[0] // who answers that there is no such door, if the proof is right
	}
	s.door, s.ring = at.door, at.ring
	s.shown = verify(at.ring, k, at.rule)
	return s, nil, true
}

// find returns the desk that a knock is for; nil if there is none.
func (o *office) find(k *seal.Knock) *desk {
	switch {
	case k.Single != nil:
		for i := range o.desks {
			if k.Single.Door == seal.DoorID("") || k.Single.Door == seal.DoorID(o.desks[i].door) {
				return &o.desks[i]
			}
		}
		return nil
	case k.Request.Door == "":
		return &o.desks[0]
	}
	return o.desk(k.Request.Door)
}

// verify checks a knock's proof.
func verify(ring *credential.Ring, k *seal.Knock, r Rule) (s shown) {
	if ring == nil {
		return s
	}
	if one := k.Single; one != nil {
		message := one.Message
		if r.AnySource {
			message = one.Anywhere
		}
		s.party, s.ok = ring.Single(one.ID, message, one.Proof)
		return s
	}
	c := k.Credential
	switch c.Kind {
	case seal.Key:
		s.party, s.ok = ring.Key(c.Fingerprint, k.Message, c.Proof)
	case seal.Certificate:
		s.party, s.ok = ring.Certificate(c.Public, k.Message, c.Proof)
	case seal.Secret:
		s.party, s.ok = ring.Secret(c.ID, k.Message, [32]byte(c.Proof))
	case seal.Code:
		var code credential.Code
		s.party, code, s.ok = ring.Rescue(c.Bearer)
		s.code = &code
	case seal.Invite:
		var code credential.Code
		var key credential.Key
		s.party, code, key, s.ok = ring.Invite(c.Bearer, c.Public, k.Message, c.Proof)
		s.code, s.enrolled = &code, &key
	}
	return s
}
