// Package sequence recognises knocks that are made of touched ports. It is
// pure: it has no sockets, no goroutines and no clock; it is handed touches and
// the time, and answers with verdicts. What a verdict leads to (a grant, a
// penalty) is the door's business, and so is not handing over the touches of a
// source that is penalised.
package sequence

import (
	"container/list"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/port"
)

// Rule says what a right knock is.
type Rule struct {
	Listen []uint16      // every TCP port whose touch counts
	Touch  []uint16      // those of them that must be touched; the others must not
	Given  bool          // Touch must be touched in its order
	Within time.Duration // the longest from the first touch to the last
	Judge  time.Duration // 0: judged at once; else only every so often
	ForAll bool          // everybody's touches add up to one knock
}

// knocked is the reason of a right verdict.
const knocked = "touched the right ports"

// Verdict is what a source's touches came to.
type Verdict struct {
	Right  bool
	Source netip.Addr // the zero Addr for everybody, when the rule is ForAll
	Time   time.Time  // when it was decided
	Reason string     // for people; it names no port, since logs are read by more than those who may knock
}

// maxSources bounds the memory that strangers can take: so many sources may
// have a knock under way. Beyond it the source whose knock is oldest loses its
// progress, without a verdict.
const maxSources = 1 << 16

// maxNeighbours bounds how many of them may share an IPv6 /64, which is what
// one subscriber is given (RFC 6177): a stranger who owns one cannot push out
// the knocks of others.
const maxNeighbours = 64

// Recogniser follows the touches of all sources by one Rule. It is not safe for
// concurrent use.
type Recogniser struct {
	rule       Rule
	armed      time.Time  // the looks of a rule with Judge happen at armed + n·Judge
	underway   *list.List // of *progress, by due, soonest first
	of         map[netip.Addr]*list.Element
	neighbours map[netip.Prefix]int // how many of underway, by IPv6 /64
}

// progress is one knock under way.
type progress struct {
	source      netip.Addr
	first, last time.Time
	due         time.Time // the first moment at which it is judged without a further touch
	touched     []uint16  // in order, each port once
}

// New returns a recogniser whose looks are counted from armed.
func New(rule Rule, armed time.Time) *Recogniser {
	return &Recogniser{
		rule:       rule,
		armed:      armed,
		underway:   list.New(),
		of:         make(map[netip.Addr]*list.Element),
		neighbours: make(map[netip.Prefix]int),
	}
}

// Touch takes in one touch and returns the verdicts that are due by its time,
// in the order in which they fell: first of knocks whose time was up before,
// then, where it completes or spoils one, of this touch's own. A touch whose
// source has just been judged wrong is ignored with it. Touches come in the
// order of their times; ports outside Rule.Listen are not the rule's.
func (r *Recogniser) Touch(t port.Touch) []Verdict {
	if t.Port.Proto != port.TCP || !slices.Contains(r.rule.Listen, t.Port.Number) {
		return nil
	}
	source := t.Source
	if r.rule.ForAll {
		source = netip.Addr{}
	}
	verdicts := r.Look(t.Time)
	for _, v := range verdicts {
		if v.Source == source {
			return verdicts
		}
	}
	p := r.of[source]
	if p == nil {
		p = r.begin(source, t.Time)
	}
	k := p.Value.(*progress)
	if slices.Contains(k.touched, t.Port.Number) {
		return verdicts // a repeat, as of a client that tries twice, counts once
	}
	k.touched = append(k.touched, t.Port.Number)
	k.last = t.Time
	if r.rule.Judge > 0 {
		return verdicts
	}
	right, wrong := r.judge(k)
	switch {
	case wrong != "":
		verdicts = append(verdicts, r.end(p, t.Time, false, wrong))
	case right:
		verdicts = append(verdicts, r.end(p, t.Time, true, knocked))
	}
	return verdicts
}

// Look returns the verdicts on all knocks that are due by now.
func (r *Recogniser) Look(now time.Time) []Verdict {
	var verdicts []Verdict
	for e := r.underway.Front(); e != nil; e = r.underway.Front() {
		k := e.Value.(*progress)
		if now.Before(k.due) {
			break
		}
		right, wrong := r.judge(k)
		switch {
		case wrong != "":
		case !right:
			wrong = fmt.Sprintf("touched only %d of %d ports by the end of its %s",
				len(k.touched), len(r.rule.Touch), r.time())
		case k.last.Sub(k.first) > r.rule.Within:
			wrong = fmt.Sprintf("took %s from the first touch to the last; allowed is %s",
				k.last.Sub(k.first).Round(time.Millisecond), r.rule.Within)
		}
		if wrong != "" {
			verdicts = append(verdicts, r.end(e, now, false, wrong))
			continue
		}
		verdicts = append(verdicts, r.end(e, now, true, knocked))
	}
	return verdicts
}

// time is how long a knock may be under way before it is judged.
func (r *Recogniser) time() time.Duration {
	if r.rule.Judge > 0 {
		return r.rule.Judge
	}
	return r.rule.Within
}

// Next returns when Look has something to judge, and false when nothing is
// under way: a recogniser that nobody touches asks for no wake-up.
func (r *Recogniser) Next() (time.Time, bool) {
	if e := r.underway.Front(); e != nil {
		return e.Value.(*progress).due, true
	}
	return time.Time{}, false
}

// Touched returns the ports that were touched in the knock under way of a rule
// that is ForAll: its listeners stay closed until the verdict (S1).
func (r *Recogniser) Touched() []uint16 {
	if e := r.of[netip.Addr{}]; e != nil {
		return e.Value.(*progress).touched
	}
	return nil
}

// Rearm forgets what is under way and counts the looks from now, as the
// article's reset and restarted monitor do.
func (r *Recogniser) Rearm(now time.Time) { *r = *New(r.rule, now) }

// judge says whether the touches make the knock whole, or why they never can.
func (r *Recogniser) judge(k *progress) (right bool, wrong string) {
	for i, p := range k.touched {
		if !slices.Contains(r.rule.Touch, p) {
			return false, "touched a port that is to be left alone"
		}
		if r.rule.Given && r.rule.Touch[i] != p {
			return false, "touched the ports in another order than the given one"
		}
	}
	return len(k.touched) == len(r.rule.Touch), ""
}

// begin starts a knock of source. Since all knocks of a rule have the same
// time, the one that began last is due last, and the list stays sorted.
func (r *Recogniser) begin(source netip.Addr, now time.Time) *list.Element {
	due := now.Add(r.rule.Within + 1) // a touch at exactly Within still counts
	if r.rule.Judge > 0 {
		due = r.armed.Add((now.Sub(r.armed)/r.rule.Judge + 1) * r.rule.Judge)
	}
	near := neighbourhood(source)
	if r.neighbours[near] >= maxNeighbours {
		r.forget(r.oldest(near))
	} else if r.underway.Len() >= maxSources {
		r.forget(r.underway.Front())
	}
	e := r.underway.PushBack(&progress{source: source, first: now, last: now, due: due})
	r.of[source] = e
	if near.IsValid() {
		r.neighbours[near]++
	}
	return e
}

// end takes a knock off and returns the verdict on it.
func (r *Recogniser) end(e *list.Element, now time.Time, right bool, reason string) Verdict {
	k := e.Value.(*progress)
	r.forget(e)
	return Verdict{Right: right, Source: k.source, Time: now, Reason: reason}
}

func (r *Recogniser) forget(e *list.Element) {
	k := r.underway.Remove(e).(*progress)
	delete(r.of, k.source)
	if near := neighbourhood(k.source); near.IsValid() {
		if r.neighbours[near]--; r.neighbours[near] == 0 {
			delete(r.neighbours, near)
		}
	}
}

// oldest returns the knock that has been under way for longest among those of
// one /64. It is only asked for when the /64 is full, and a stranger pays for
// the walk with a TCP handshake.
func (r *Recogniser) oldest(near netip.Prefix) *list.Element {
	e := r.underway.Front()
	for neighbourhood(e.Value.(*progress).source) != near {
		e = e.Next()
	}
	return e
}

// neighbourhood is the /64 of an IPv6 source; an IPv4 source has none.
func neighbourhood(source netip.Addr) netip.Prefix {
	if !source.Is6() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(source, 64).Masked()
}
