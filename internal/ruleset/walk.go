//go:build linux

package ruleset

import (
	"reflect"
	"slices"

	"golang.org/x/sys/unix"
)

// outcome is the set of things that may happen to a packet in a rule or a chain.
type outcome uint8

const (
	accepted outcome = 1 << iota // by this base chain
	dropped
	onward  // it goes on to the next rule, or beyond the chain's end
	returns // it leaves the chain
)

// maxDepth is NFT_JUMP_STACK_SIZE of the kernel's net/netfilter/nf_tables.h.
const maxDepth = 16

// maxRules bounds the work on a ruleset whose chains call each other over and over.
// It is many times the number of rules that a packet passes.
const maxRules = 1 << 18

// walk is a packet's way through the rules.
type walk struct {
	rules *Ruleset
	*flight
	base   *Chain
	passed int // rules so far

	// unsure is greater than 0 if it is not certain that the packet gets here, because a
	// rule that leads here may not match. Fields that a rule changes are then unknown.
	unsure int
	order  int // added to unsure in chains whose order is not known: 1 there, and 0 elsewhere
	drops  []Place
	doubts []Place
	chains []*Chain
}

// conntrackPriority is NF_IP_PRI_CONNTRACK. From that priority on, a packet at
// prerouting has a connection.
const conntrackPriority = -200

// Judge follows a packet through all chains that it passes on its way in.
func (s *Ruleset) Judge(p Packet) Answer {
	w := &walk{rules: s, flight: p.depart()}
	answer := Answer{Passes: true}
	bases := s.bases(&p)
	for len(bases) > 0 && answer.Passes {
		n := 1
		for n < len(bases) && bases[n].Hook == bases[0].Hook && bases[n].Priority == bases[0].Priority {
			n++
		}
		w.beside(bases[:n], &answer)
		bases = bases[n:]
	}
	answer.Chains = w.chains
	answer.Away = w.away != no && answer.Passes
	return answer
}

// beside follows the packet through base chains of one priority. The one that was made
// last comes first, but their ages cannot be read. So a field that one of them changes
// is unknown to the others.
func (w *walk) beside(bases []*Chain, answer *Answer) {
	before, so := *w.flight, *answer
	w.pass(bases, answer)
	if len(bases) > 1 && !reflect.DeepEqual(before, *w.flight) {
		w.flight.blur(before)
		*answer = so
		w.order = 1
		w.pass(bases, answer)
		w.order = 0
	}
}

// blur makes unknown what differs from before.
func (f *flight) blur(before flight) {
	for _, v := range []struct{ now, before *value }{
		{&f.ports, &before.ports}, {&f.dst, &before.dst}, {&f.mark, &before.mark}, {&f.ctMark, &before.ctMark},
		{&f.ctState, &before.ctState}} {
		if !reflect.DeepEqual(*v.now, *v.before) {
			*v.now = unknown(len(v.before.min)).named(v.before.of)
		}
	}
	for _, t := range []struct{ now, before *truth }{
		{&f.notrack, &before.notrack}, {&f.rewritten, &before.rewritten}, {&f.away, &before.away}} {
		if *t.now != *t.before {
			*t.now = maybe
		}
	}
}

// pass follows the packet through base chains of one priority, one after the other. It
// goes on even if one drops the packet, since the others may come first.
func (w *walk) pass(bases []*Chain, answer *Answer) {
	for _, c := range bases {
		if c.Hook == "input" && w.away == yes || c.Type == "nat" && w.rewritten == yes {
			continue
		}
		if w.tracked == no && !w.judged && (c.Hook == "input" || c.Hook == "prerouting" && c.Priority >= conntrackPriority) {
			w.track()
		}
		out := w.through(c)
		if out&dropped != 0 {
			answer.Drops = true
			answer.DropAt = append(answer.DropAt, w.drops...)
		}
		if out == dropped {
			answer.Passes = false
		} else if out&dropped != 0 {
			answer.Doubts = append(answer.Doubts, w.doubts...)
		}
	}
}

// track decides whether the packet has a connection, and its state.
func (w *walk) track() {
	w.judged = true
	w.tracked = w.notrack.invert()
	switch w.notrack {
	case no:
		w.ctState = number(ctNew)
	case yes:
		w.ctState = number(ctUntracked)
	default:
		w.ctState = unknown(4)
	}
}

// through returns what may happen to the packet in a base chain: accepted, dropped, or
// both.
func (w *walk) through(c *Chain) outcome {
	on := w.on(c)
	if on == no {
		return accepted
	}
	w.base, w.drops, w.doubts, w.unsure = c, nil, nil, w.order
	if on == maybe {
		w.unsure++
		w.doubt(c, 0, map[bool]string{true: "connection", false: "interface"}[c.Type == "nat"])
	}
	out := w.chain(c, 0)
	if out&(onward|returns) != 0 {
		out &^= onward | returns
		if c.Drop {
			out |= dropped
			w.drops = append(w.drops, Place{Base: c, Chain: c})
		} else {
			out |= accepted
		}
	}
	if on == maybe {
		out |= accepted
	}
	return out
}

// on reports whether the packet passes a chain. Ingress chains are on certain
// interfaces only, and chains that translate addresses see only packets with a
// connection.
func (w *walk) on(c *Chain) truth {
	switch {
	case c.Type == "nat":
		return w.tracked
	case c.Hook != "ingress":
		return yes
	case w.Interface == "" || len(c.Devices) == 0:
		return maybe
	case slices.Contains(c.Devices, w.Interface):
		return yes
	}
	return no
}

// chain returns what may happen to the packet in a chain; onward means that it reaches
// the chain's end.
func (w *walk) chain(c *Chain, depth int) outcome {
	if !slices.Contains(w.chains, c) {
		w.chains = append(w.chains, c)
	}
	if depth > maxDepth {
		w.doubt(c, 0, "chains that call each other too deeply to follow")
		return accepted | dropped | onward
	}
	var all outcome
	unsure := w.unsure
	defer func() { w.unsure = unsure }()
	for _, r := range c.Rules {
		if w.passed++; w.passed > maxRules {
			w.doubt(c, r.Handle, "rules, which are too many to follow")
			return accepted | dropped | onward
		}
		out := w.rule(c, r, depth)
		all |= out &^ onward
		if out&onward == 0 {
			return all
		}
		if out&(accepted|returns) != 0 {
			w.unsure++ // it may have left the chain already
		}
	}
	return all | onward
}

func (w *walk) doubt(c *Chain, handle uint64, why string) {
	w.doubts = append(w.doubts, Place{w.base, c, handle, why})
}

// step is the state of evaluating one rule.
type step struct {
	*walk
	chain     *Chain
	rule      Rule
	depth     int
	registers registers

	holds truth  // whether the rule matches so far: yes or maybe, since no ends the rule
	why   string // what that depends on, if holds is maybe
	out   outcome
}

// rule returns what may happen to the packet in a rule; onward means that it goes on to
// the next one.
func (w *walk) rule(c *Chain, r Rule, depth int) outcome {
	s := &step{walk: w, chain: c, rule: r, depth: depth, registers: registers{}, holds: yes}
	unsure := w.unsure
	defer func() { w.unsure = unsure }()
	for _, e := range r.Exprs {
		if done := s.expr(e); done {
			return s.out
		}
	}
	return s.out | onward
}

// only continues the rule if t is true, and reports whether the rule ends.
func (s *step) only(t truth, why string) (done bool) {
	switch {
	case t == no:
		s.out |= onward
		return true
	case t == maybe && s.holds == yes:
		s.holds = maybe
		s.why = why
		s.unsure++
	}
	if t == maybe {
		s.out |= onward
	}
	return false
}

// anything is for an expression that may accept the packet, drop it or do neither.
func (s *step) anything(why string) (done bool) {
	s.doubt(s.chain, s.rule.Handle, why)
	s.out |= accepted | dropped
	s.drops = append(s.drops, Place{s.base, s.chain, s.rule.Handle, why})
	s.only(maybe, why)
	s.ports, s.dst, s.mark = unknown(2), unknown(len(s.dst.min)), unknown(4)
	return false
}

// ends ends the rule: out happens to the packet if the rule matches.
func (s *step) ends(out outcome) (done bool) {
	if s.holds == maybe && out != onward {
		s.doubt(s.chain, s.rule.Handle, s.why)
	}
	if out&dropped != 0 {
		s.drops = append(s.drops, Place{s.base, s.chain, s.rule.Handle, s.why})
	}
	s.out |= out
	return true
}

// verdict is a verdict in the kernel's form.
type verdict struct {
	code  int32
	chain string
}

// decide carries a verdict out.
func (s *step) decide(v verdict) (done bool) {
	const nfDrop, nfAccept = 0, 1
	switch v.code {
	case nfAccept:
		return s.ends(accepted)
	case unix.NFT_CONTINUE:
		return false
	case unix.NFT_BREAK:
		return s.ends(onward)
	case unix.NFT_RETURN:
		return s.ends(returns)
	case unix.NFT_JUMP, unix.NFT_GOTO:
		called := s.rules.chain(s.chain, v.chain)
		if called == nil {
			return s.anything("rules of a chain that cannot be read")
		}
		out := s.walk.chain(called, s.depth+1)
		if out&returns != 0 {
			out = out&^returns | onward
		}
		if v.code == unix.NFT_GOTO && out&onward != 0 {
			out = out&^onward | returns
		}
		if s.holds == maybe && out != onward {
			s.doubt(s.chain, s.rule.Handle, s.why)
		}
		s.out |= out
		return true
	}
	if v.code >= 0 && v.code&0xff == nfDrop { // NF_VERDICT_MASK
		return s.ends(dropped)
	}
	return s.anything("verdict of another program")
}

// change sets a field of the packet to v, or makes it unknown if the rule may not match.
func (s *step) change(what *value, v value) {
	if s.unsure > 0 {
		v = unknown(len(what.min))
	}
	*what = v
}

// become is change for a truth: it becomes true, or may be true if the rule may not match.
func (s *step) become(what *truth) {
	if s.unsure > 0 && *what != yes {
		*what = maybe
		return
	}
	*what = yes
}

// untrack keeps the packet out of connection tracking, unless that is decided already.
func (s *step) untrack() {
	if !s.judged {
		s.change(&s.ctState, number(ctUntracked))
		s.become(&s.notrack)
	}
}
