package sealed

import (
	"fmt"
	"io"
	"time"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

// kept is what all sealed knocks of a gateway have in common, as a knock.Kept.
type kept struct {
	random  io.Reader
	uses    []knock.Use
	files   map[string]*held // by path, of all that are in use
	ledger  ledger
	openers map[uint16]*opener
	used    *handshakes
}

// Keep returns what the knocks of a gateway are to have in common.
func (Kind) Keep(random io.Reader, marks []knock.Mark) knock.Kept {
	return &kept{random: random, files: make(map[string]*held), ledger: newLedger(marks),
		openers: make(map[uint16]*opener), used: newHandshakes()}
}

// rule returns a rule of the kind.
func rule(r knock.Rule) Rule {
	of, _ := r.(Rule)
	return of
}

// Use goes by these rules from now on.
func (k *kept) Use(now time.Time, uses []knock.Use) []string {
	k.uses = uses
	files := make(map[string]*held)
	for _, f := range k.Files() {
		if files[f.Path] = k.files[f.Path]; files[f.Path] == nil || files[f.Path].as != f.As {
			files[f.Path] = &held{as: f.As}
		}
	}
	k.files = files
	k.publish(now)
	return k.twofold()
}

// twofold warns of files that are one thing to one knock and another to another, which is
// the one who cannot use it.
func (k *kept) twofold() (warnings []string) {
	first := make(map[string]string) // the doors, by path
	for _, u := range k.uses {
		for _, f := range rule(u.Rule).Uses() {
			if first[f.Path] == "" {
				first[f.Path] = u.Door
			}
			if as := k.files[f.Path].as; as != f.As {
				warnings = append(warnings, fmt.Sprintf("%s is %s of door %q and %s of door %q, and the knock of the second opens nothing: give it a file of its own",
					f.Path, as, first[f.Path], f.As, u.Door))
			}
		}
	}
	return warnings
}

// file is what a file has that is something to a knock; nothing, if it is something else.
func (k *kept) file(path, as string) *held {
	if h := k.files[path]; h.as == as {
		return h
	}
	return new(held)
}

// doors are those in use, and "".
func (k *kept) doors() map[string]bool {
	all := make(map[string]bool)
	for _, u := range k.uses {
		all[u.Door] = true
	}
	return all
}

// Files are those of the rules in use.
func (k *kept) Files() (all []knock.File) {
	has := make(map[string]int)
	for _, u := range k.uses {
		for _, f := range rule(u.Rule).Uses() {
			i, ok := has[f.Path]
			if !ok {
				has[f.Path] = len(all)
				all = append(all, f)
				continue
			}
			all[i].Secret = all[i].Secret || f.Secret
		}
	}
	return all
}

// publish tells the openers what is in force.
func (k *kept) publish(now time.Time) {
	next := make(map[uint16]*office)
	rings := make(map[Rule]*credential.Ring) // by the files that they are of: many doors may have the same
	for _, u := range k.uses {
		r := rule(u.Rule)
		id := k.file(r.Identity, asIdentity).identity
		if id == nil {
			continue
		}
		o := next[r.Port]
		if o == nil {
			o = &office{}
			next[r.Port] = o
		}
		o.identity = id
		o.single = o.single || r.OneWay
		of := Rule{Keys: r.Keys, Secrets: r.Secrets, Revoked: r.Revoked}
		if _, made := rings[of]; !made {
			rings[of] = k.ring(r)
		}
		o.desks = append(o.desks, desk{door: u.Door, rule: r, ring: rings[of]})
	}
	for port, op := range k.openers {
		if next[port] == nil {
			op.now.Store(nil)
		}
	}
	for port, o := range next {
		op := k.opener(port)
		var before *seal.Gateway
		if last := op.now.Load(); last != nil {
			before = last.gateway
		}
		o.gateway = seal.NewGateway(o.identity.keys, o.identity.profiles, o.single, before, now)
		op.now.Store(o)
	}
}

// ring returns who may knock by a rule; nil for nobody, as long as a file that takes the
// right from somebody is not known.
func (k *kept) ring(r Rule) *credential.Ring {
	keys, secrets, revoked := k.file(r.Keys, asKeys), &held{good: true}, &held{good: true}
	if r.Secrets != "" {
		secrets = k.file(r.Secrets, asSecrets)
	}
	if r.Revoked != "" {
		revoked = k.file(r.Revoked, asRevoked)
	}
	if !revoked.good || !keys.fed || !secrets.fed && r.Secrets != "" {
		return nil
	}
	o := k.ledger.origins()
	if !keys.good {
		o.Enrolled = nil // whom the file may leave less than that
	}
	o.File, o.Secrets = keys.keys, secrets.secrets
	if revoked.revoked != nil {
		o.Revoked = append(o.Revoked, revoked.revoked)
	}
	return credential.NewRing(o)
}

// desk returns what is in force for a rule at a door; nil for nothing.
func (k *kept) desk(door string, r Rule) *desk {
	o := k.opener(r.Port).now.Load()
	if o == nil {
		return nil
	}
	for i := range o.desks {
		if o.desks[i].door == door && o.desks[i].rule == r {
			return &o.desks[i]
		}
	}
	return nil
}

// opener returns that of a port, which stays the same.
func (k *kept) opener(port uint16) *opener {
	op := k.openers[port]
	if op == nil {
		op = &opener{used: k.used}
		k.openers[port] = op
	}
	return op
}

// Opener returns the one of a port.
func (k *kept) Opener(port uint16) knock.Opener { return k.opener(port) }

// Forget has the openers forget keys whose time is over.
func (k *kept) Forget(now time.Time) {
	for _, op := range k.openers {
		if o := op.now.Load(); o != nil {
			o.gateway.Rotate(now)
		}
	}
}

// Stands says which of somebody's grants at a door may stand, and until when.
func (k *kept) Stands(now time.Time, door, by string) knock.Standing {
	id := credential.ID(by)
	if k.ledger.locked[id] != "" || k.ledger.revoked[id] != "" {
		return nil
	}
	knocks := false
	var all credential.Standing
	for _, u := range k.uses {
		if u.Door != door {
			continue
		}
		knocks = true
		r := rule(u.Rule)
		d := k.desk(door, r)
		if d == nil || d.ring == nil || !k.files[r.Keys].good {
			return knock.Anywhere // it is not known
		}
		all = append(all, d.ring.Stands(now.In(time.Local), door, by)...)
	}
	switch {
	case !knocks:
		return knock.Anywhere
	case all == nil:
		return nil
	}
	return all.At
}

// Identity is that of a key, a machine or a code, whatever name goes with it: a
// certificate's is the one of the key that it is for.
func (Kind) Identity(by string) string { return credential.ID(by) }
