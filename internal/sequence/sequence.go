// Package sequence recognises knocks that are made of touched ports. It is
// pure: it has no sockets, no goroutines and no clock; it is handed touches and
// the time, and answers with verdicts. What a verdict leads to (a grant, a
// penalty) is the door's business, and so is not handing over the touches of a
// source that is penalised.
//
// A source is an IPv4 address or an IPv6 /64: whoever is given one of those can
// use every address in it (RFC 6177), so that addresses in it count for nothing.
// Several knocks of one source may be under way at once, as of a program that
// makes four connections or of two people behind one address: a touch is right
// if any of them explains it.
//
// What a stranger can cost, at the worst, for a rule of n ports:
//
//	a touch                 a lookup, at most 3 list moves, n marks looked at
//	a touch when it is full the same, and one source pushed out
//	a look                  one step for each source whose time is up; each was
//	                        paid for with a touch, and is looked at once
//	memory                  65,536 sources, 256 of an IPv6 /48, 64 of a /56
//	a gap                   two additions, whoever has something under way
//
// None of it depends on how many sources there are.
//
// All times within a recogniser are of a clock that stands still in gaps, in
// which nobody could be heard: see Gap.
package sequence

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/port"
)

// Rule says what a right knock is. Touch has each port once.
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
	Right bool
	// Source is the address that completed a right knock, or whose touch was
	// wrong, or the last, of a knock that was not finished; the zero Addr for
	// everybody, when the rule is ForAll.
	Source   netip.Addr
	Unproven bool      // one of the touches came from an address that may be forged
	Time     time.Time // when it was decided
	Reason   string    // for people; it names no port, since logs are read by more than those who may knock
}

// Recogniser follows the touches of all sources by one Rule. It is not safe for
// concurrent use.
type Recogniser struct {
	rule    Rule
	armed   time.Time      // the looks of a rule with Judge happen at armed + n·Judge
	place   map[uint16]int // of each port in Touch
	sources sources

	now   time.Time     // the latest that was taken in
	slept time.Duration // all gaps together
	woke  time.Time     // when the latest gap ended
}

// New returns a recogniser whose looks are counted from armed.
func New(rule Rule, armed time.Time) *Recogniser {
	place := make(map[uint16]int, len(rule.Touch))
	for i, p := range rule.Touch {
		place[p] = i
	}
	return &Recogniser{rule: rule, armed: armed, place: place, sources: newSources(), now: armed}
}

// Touch takes in one touch and returns the verdicts that are due by its time,
// in the order in which they fell: first of knocks whose time was up before,
// then, where it completes or spoils one, of this touch's own. A touch whose
// source has just been judged is ignored with it. Touches come in the order of
// their times; ports outside Rule.Listen are not the rule's.
//
// After a right knock the source is fresh for Within: touches of ports in Touch
// that fit nowhere are leftovers of knocks that were made at the same time, and
// are ignored. A port that is to be left alone stays wrong.
func (r *Recogniser) Touch(t port.Touch) []Verdict {
	if t.Port.Proto != port.TCP || !slices.Contains(r.rule.Listen, t.Port.Number) {
		return nil
	}
	now := t.Time
	t.Time = r.awake(now)
	return decided(now, r.take(t))
}

// take is Touch by the clock that stands still in gaps.
func (r *Recogniser) take(t port.Touch) []Verdict {
	who := r.who(t.Source)
	known := r.sources.of[who]
	verdicts := r.look(t.Time)
	if known != nil && known.judged {
		return verdicts
	}
	p := r.sources.of[who]
	if p == nil {
		p = &progress{who: who}
	}
	p.last, p.unproven = t.Source, p.unproven || !t.Proven
	var right bool
	var wrong string
	if r.addsUp() {
		right, wrong = r.addUp(p, t)
	} else {
		right, wrong = r.follow(p, t)
	}
	if right || wrong != "" {
		verdicts = append(verdicts, r.verdict(p, t.Time, right, wrong))
	}
	return verdicts
}

// who is whose progress a touch belongs to: an IPv4 address, the first address
// of an IPv6 /64, or the zero Addr for everybody.
func (r *Recogniser) who(a netip.Addr) netip.Addr {
	if r.rule.ForAll {
		return netip.Addr{}
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		a = netip.PrefixFrom(a, 64).Masked().Addr()
	}
	return a
}

// Look returns the verdicts on all knocks that are due by now.
func (r *Recogniser) Look(now time.Time) []Verdict {
	return decided(now, r.look(r.awake(now)))
}

// look is Look by the clock that stands still in gaps.
func (r *Recogniser) look(now time.Time) []Verdict {
	var verdicts []Verdict
	for p := r.sources.first(); p != nil && !now.Before(p.due); p = r.sources.first() {
		right, wrong := false, ""
		if r.addsUp() {
			right, wrong = r.sum(p)
		} else {
			wrong = r.unfinished(p)
		}
		if right || wrong != "" {
			verdicts = append(verdicts, r.verdict(p, now, right, wrong))
		}
		p.judged = right || wrong != ""
		r.sources.forget(p)
	}
	return verdicts
}

// verdict puts a judgement into words. A source that was wrong is forgotten; one
// that was right as well, but where it may have knocks under way beside it.
func (r *Recogniser) verdict(p *progress, now time.Time, right bool, wrong string) Verdict {
	if !right || r.addsUp() {
		r.sources.forget(p)
	}
	v := Verdict{Right: right, Source: p.last, Unproven: p.unproven, Time: now, Reason: wrong}
	if right {
		v.Reason = knocked
	}
	if r.rule.ForAll {
		v.Source = netip.Addr{}
	}
	return v
}

// Gap takes in that nobody could be heard from one moment to another, so that it
// is as if that time had not passed: what was under way goes on, and has as much
// time left as it had. A touch that is said to be of that time counts as made at
// its end. The order and the ports of touches are judged as ever. Time that was
// taken in before is not taken back: of a gap that began earlier only the rest
// counts.
func (r *Recogniser) Gap(from, to time.Time) {
	if from.Before(r.now) {
		from = r.now
	}
	if !to.After(from) {
		return
	}
	r.slept += to.Sub(from)
	r.woke, r.now = to, to
}

// awake returns what the clock that stands still in gaps says at a moment.
func (r *Recogniser) awake(now time.Time) time.Time {
	if now.After(r.now) {
		r.now = now
	}
	if now.Before(r.woke) {
		now = r.woke
	}
	return now.Add(-r.slept)
}

// decided puts the time of everybody's clock into verdicts.
func decided(now time.Time, verdicts []Verdict) []Verdict {
	for i := range verdicts {
		verdicts[i].Time = now
	}
	return verdicts
}

// GiveUp forgets what a source has under way, everybody's for the zero Addr, and
// says whether there was anything.
func (r *Recogniser) GiveUp(a netip.Addr) bool {
	if !a.IsValid() {
		some := len(r.sources.of) > 0
		r.sources = newSources()
		return some
	}
	p := r.sources.of[r.who(a)]
	if p == nil {
		return false
	}
	r.sources.forget(p)
	return true
}

// Next returns when Look has something to judge or to forget, and false when
// nothing is under way: a recogniser that nobody touches asks for no wake-up.
func (r *Recogniser) Next() (time.Time, bool) {
	if p := r.sources.first(); p != nil {
		return p.due.Add(r.slept), true
	}
	return time.Time{}, false
}

// Touched returns the ports that were touched in the knock under way of a rule
// that is ForAll: its listeners stay closed until the verdict (S1).
func (r *Recogniser) Touched() []uint16 {
	if p := r.sources.of[netip.Addr{}]; p != nil {
		return p.touched
	}
	return nil
}

// Rearm forgets what is under way and counts the looks from now, as the
// article's reset and restarted monitor do.
func (r *Recogniser) Rearm(now time.Time) { *r = *New(r.rule, now) }

// addsUp says whether all touches of a source are one knock, of which the whole
// is judged: by everybody together, or at its tick. Other rules follow each
// source's knocks touch by touch.
func (r *Recogniser) addsUp() bool { return r.rule.ForAll || r.rule.Judge > 0 }

// addUp takes a touch into a knock that is judged as a whole.
func (r *Recogniser) addUp(p *progress, t port.Touch) (right bool, wrong string) {
	if p.touched == nil {
		due := t.Time.Add(r.rule.Within + 1) // a touch at exactly Within still counts
		if r.rule.Judge > 0 {
			due = r.armed.Add((t.Time.Sub(r.armed)/r.rule.Judge + 1) * r.rule.Judge)
		}
		p.begun = t.Time
		r.sources.renew(p, due)
	}
	if slices.Contains(p.touched, t.Port.Number) {
		return false, "" // a repeat, as of a client that tries twice, counts once
	}
	p.touched = append(p.touched, t.Port.Number)
	p.latest = t.Time
	if r.rule.Judge > 0 {
		return false, ""
	}
	return r.judge(p)
}

// sum judges a whole knock when its time is up.
func (r *Recogniser) sum(p *progress) (right bool, wrong string) {
	right, wrong = r.judge(p)
	took := p.latest.Sub(p.begun)
	switch {
	case wrong != "":
	case !right:
		return false, r.only(len(p.touched))
	case took > r.rule.Within:
		return false, r.tooLong(took)
	}
	return right, wrong
}

// judge says whether the touches make the knock whole, or why they never can.
func (r *Recogniser) judge(p *progress) (right bool, wrong string) {
	for i, n := range p.touched {
		if !slices.Contains(r.rule.Touch, n) {
			return false, leftAlone
		}
		if r.rule.Given && r.rule.Touch[i] != n {
			return false, outOfOrder
		}
	}
	return len(p.touched) == len(r.rule.Touch), ""
}

// The reasons of wrong verdicts.
const (
	leftAlone  = "touched a port that is to be left alone"
	outOfOrder = "touched the ports in another order than the given one"
)

func (r *Recogniser) only(n int) string {
	within := r.rule.Within
	if r.rule.Judge > 0 {
		within = r.rule.Judge
	}
	return fmt.Sprintf("touched only %d of %d ports by the end of its %s", n, len(r.rule.Touch), within)
}

func (r *Recogniser) tooLong(took time.Duration) string {
	return fmt.Sprintf("took %s from the first touch to the last; allowed is %s",
		took.Round(time.Millisecond), r.rule.Within)
}
