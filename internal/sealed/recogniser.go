package sealed

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/seal"
)

// recogniser judges what is heard at one door by one rule. What a handshake needs is
// decided at once: nothing is ever under way.
type recogniser struct {
	kept *kept // nil: it hears nothing
	door string
	rule Rule
}

// Recogniser returns the one of a rule at a door.
func (k *kept) Recogniser(door string, r knock.Rule, _ time.Time, _ []knock.Mark) knock.Recogniser {
	return &recogniser{kept: k, door: door, rule: rule(r)}
}

// verdict is one that is being made.
type verdict struct {
	knock.Verdict
	at     *seal.Knock
	source netip.Addr
	next   seal.Fingerprint // of the gateway
	used   *handshakes
	reason seal.Reason // of a refusal
	left   time.Duration
	spends bool // a rescue code is used up by it
}

// Hear judges a request or a single packet.
func (r *recogniser) Hear(h knock.Heard) []knock.Verdict {
	s, ok := h.Said.(*said)
	if !ok || r.kept == nil || s.door != r.door {
		return nil
	}
	at := r.kept.desk(r.door, r.rule)
	if at == nil || at.ring == nil {
		return nil
	}
	who := s.shown
	if who.ok && s.ring != at.ring { // it was verified by what has changed since
		who = verify(at.ring, s.knock, r.rule)
	}
	office := r.kept.opener(r.rule.Port).now.Load()
	v := verdict{at: s.knock, source: h.Source, next: office.gateway.Newest(), used: r.kept.used}
	v.Source, v.Proven, v.Time, v.Path = h.Source, h.Proven, h.Time, h.Path
	handshake := s.knock.Single == nil
	if !handshake && !r.rule.OneWay {
		return nil
	}
	if handshake {
		v.Answer = v.answer
	}
	if !who.ok { // which is not remembered: it is as wrong when it comes again
		return v.refuse(seal.NotAccepted, "the credential is not known here, or its proof is wrong", "credential")
	}
	v.By = who.party.By()
	if handshake {
		switch first, room := r.kept.used.first(s.knock, who.whose(), h.Time); {
		case !first:
			return nil
		case !room:
			return v.refuse(seal.Unavailable, "too many handshakes in a minute", "crowded")
		}
	}
	if !s.named {
		return v.refuse(seal.NoDoor, "there is no such door here", "door")
	}
	return r.judge(&v, who, s.knock)
}

// judge decides about a right proof.
func (r *recogniser) judge(v *verdict, who shown, k *seal.Knock) []knock.Verdict {
	q := k.Request
	terms, refusal := who.party.Permits(credential.Ask{Now: v.Time, Zone: time.Local, Door: r.door, Source: v.source, Address: q.Address})
	if refusal != nil {
		v.Alarm = refusal.Reason == credential.Locked || refusal.Reason == credential.Revoked
		if !refusal.Time.IsZero() {
			v.left = max(0, refusal.Time.Sub(v.Time))
		}
		return v.refuse(seal.Reason(refusal.Reason), refusal.Reason.String(), refusal.Reason.String())
	}
	if who.code != nil && q.Action != seal.Open {
		return v.refuse(seal.NotOpen, "a code has nothing open", "nothing")
	}
	v.Right, v.Only = true, terms.OneAddress
	v.Reason = reasons[k.Credential.Kind]
	if q.Address.IsValid() && q.Address != v.source {
		v.Source, v.Reason = q.Address, v.Reason+", from "+v.source.String()
	}
	v.OpenFor, v.AtMost = min(q.OpenFor, r.rule.MaxOpenFor), terms.AtMost
	if v.Close = q.Action == seal.Close; v.Close {
		v.Reason = "the visitor gave it back"
	}
	v.Extend = q.Action == seal.Extend
	switch {
	case k.Single != nil:
		v.Reason = "a single packet"
		return r.single(v, who.party.ID, k.Single)
	case who.code != nil:
		return r.spend(v, who, k)
	}
	return []knock.Verdict{v.Verdict}
}

// reasons are what a right knock was made with.
var reasons = map[seal.CredentialKind]string{
	seal.Key: "a key", seal.Certificate: "a certificate", seal.Secret: "a machine's secret", seal.Code: "a rescue code", seal.Invite: "an invite",
}

// fresh is how far a single packet's counter may be from the gateway's clock.
const fresh = 5 * time.Minute

// single judges a single packet's counter.
func (r *recogniser) single(v *verdict, id string, one *seal.Single) []knock.Verdict {
	sent, counters, horizon := time.UnixMicro(int64(one.Counter)), r.kept.ledger.counters, &r.kept.ledger.horizon
	switch age := v.Time.Round(0).Sub(sent); { // by the wall clock, as the visitor's
	case one.Counter > 1<<62 || age > fresh || age < -fresh:
		return v.refuse(0, "the single packet is too old or too new: the clock of one side is wrong, or it was recorded", "stale")
	case one.Counter == counters[id]:
		return nil // a visitor sends it more than once, since nobody answers it
	case one.Counter < counters[id]:
		return v.refuse(0, "the single packet was used before", "replay")
	case one.Counter <= horizon.floor:
		return v.refuse(0, "the daemon did not end cleanly before its last start, and the single packet may have been used until then", "restart")
	case counters[id] == 0 && len(counters) >= mostCounters:
		return v.refuse(0, "single packets of too many are remembered", "crowded")
	}
	counters[id] = one.Counter
	v.Marks = []knock.Mark{{Key: counterMark + id, Value: binary.BigEndian.AppendUint64(nil, one.Counter), Common: true}}
	v.First = one.Counter > horizon.safe
	return []knock.Verdict{v.Verdict}
}

// spend uses up a code, and enrols what an invite is for.
func (r *recogniser) spend(v *verdict, who shown, k *seal.Knock) []knock.Verdict {
	l := &r.kept.ledger
	hash := hex.EncodeToString(who.code.Hash[:])
	codes, kind := l.rescues, rescueMark
	if who.enrolled != nil {
		codes, kind = l.invites, inviteMark
	}
	c := codes[hash]
	switch {
	case c == nil:
		return v.refuse(seal.Spent, "the code was used before", "spent")
	case who.enrolled != nil && len(who.enrolled.String()) > longestLine:
		return v.refuse(seal.TooLong, "the key is too long to be enrolled", "long")
	case who.enrolled != nil && len(l.keys) >= mostEnrolled:
		return v.refuse(seal.Unavailable, "too many keys are enrolled", "crowded")
	}
	if message := string(k.Message); c.use == "" {
		c.use, c.since, c.first, c.undo = message, v.Time, place{r.door, v.Source}, nil
	} else if c.use != message || v.Time.Sub(c.since) > seal.HandshakeLife || !c.first.goesWith(place{r.door, v.Source}) {
		return v.refuse(seal.Spent, "the code was used before", "spent")
	}
	v.spends = who.enrolled == nil // an invite has enrolled its key, whatever becomes of the door
	v.Marks, v.First = []knock.Mark{forget(kind, hash)}, true
	if who.enrolled != nil {
		id := who.enrolled.Fingerprint.String()
		before, had := l.keys[id]
		v.Marks = append(v.Marks, l.enrol(*who.enrolled))
		if !had {
			v.Notes = []knock.Note{{Event: knock.NoteKeys, Detail: "enrolled the key " + v.By + " by an invite"}}
		}
		if c.parts == 0 {
			c.undo = func() []knock.Mark {
				defer r.kept.publish(v.Time)
				switch now, has := l.keys[id]; {
				case !has || now.String() != who.enrolled.String():
					return nil // an operator has revoked or added it meanwhile
				case had:
					return []knock.Mark{l.enrol(before)}
				}
				return []knock.Mark{l.expel(id)}
			}
		}
		r.kept.publish(v.Time)
	}
	c.parts++
	v.Undo = func() []knock.Mark { return v.unspend(c, codes, kind) }
	return []knock.Verdict{v.Verdict}
}

// unspend takes back one part of a code's use. With the last, the code is one that was not
// used, unless it was withdrawn meanwhile, and what the use led to has not happened.
func (v *verdict) unspend(c *code, codes map[string]*code, kind string) (marks []knock.Mark) {
	if c.parts--; c.parts > 0 {
		return nil
	}
	c.use, v.spends = "", false
	if codes[hex.EncodeToString(c.Hash[:])] == c {
		marks = append(marks, c.mark(kind))
	}
	if c.undo != nil {
		marks = append(marks, c.undo()...)
	}
	return marks
}

// refuse makes it a wrong knock, for a reason that is told and one for operators.
func (v *verdict) refuse(why seal.Reason, reason, code string) []knock.Verdict {
	v.Right, v.reason, v.Reason, v.Code = false, why, reason, code
	return []knock.Verdict{v.Verdict}
}

// answer makes the answer to a handshake, from any goroutine.
func (v *verdict) answer(o knock.Outcome) []byte {
	a := seal.Answer{Source: v.Source, Next: v.next, Ports: ports(o)}
	switch {
	case o.Open:
		a.Status, a.Left = seal.Opened, o.Left
	case o.Waits:
		a.Status = seal.Starting
	case o.Closed:
		a.Status = seal.Closed
	default:
		a.Status, a.Reason, a.Left = seal.Refused, v.why(o.Refused), v.left
	}
	v.used.note(v.at, a, o.Until.Add(-o.Left))
	return v.at.Answer(a)
}

// why is what a visitor is told of a refusal.
func (v *verdict) why(r knock.Refusal) seal.Reason {
	switch {
	case v.reason != 0:
		return v.reason
	case v.spends:
		return seal.SpentInVain
	case r == knock.RefusedFailed:
		return seal.NotStarted
	case r == knock.RefusedNothing:
		return seal.NotOpen
	}
	return seal.Unavailable
}

// ports are a door's, as far as they can be told.
func ports(o knock.Outcome) (all []seal.Port) {
	for _, p := range o.Ports {
		all = append(all, seal.Port{UDP: p.Proto == port.UDP, First: p.First, Last: p.Last})
	}
	return all
}

// Look has nothing to say: nothing is ever under way.
func (r *recogniser) Look(time.Time) []knock.Verdict { return nil }

// Next is never.
func (r *recogniser) Next() (time.Time, bool) { return time.Time{}, false }

// Gap changes nothing: a handshake that took too long begins again.
func (r *recogniser) Gap(_, _ time.Time) {}

// Follow goes on by any rule of the kind: nothing is under way, and what was used stays so.
func (r *recogniser) Follow(next knock.Rule) bool {
	of, ok := next.(Rule)
	if ok {
		r.rule = of
	}
	return ok
}

// GiveUp has nothing to forget.
func (r *recogniser) GiveUp(netip.Addr) bool { return false }

// Rearm has nothing to forget either: what was used stays used.
func (r *recogniser) Rearm(time.Time) {}

// Closed is nothing.
func (r *recogniser) Closed() []knock.Place { return nil }
