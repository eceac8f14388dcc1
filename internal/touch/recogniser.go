// Package touch is the knock of touched ports: of a list of open TCP ports a visitor
// connects to some and leaves the others alone. Touches of penalised sources are not
// handed to its recogniser.
//
// A source is an IPv4 address or an IPv6 /64: whoever is given one of those can use every
// address in it (RFC 6177), so addresses within it are not distinguished. Several knocks
// of one source may be under way at once, for instance from a program that makes four
// connections or from two people behind one address: a touch is right if any of them
// explains it.
//
// What a stranger can cost at worst, for a rule of n ports:
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
package touch

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/knock"
)

// knocked is the reason of a right verdict.
const knocked = "touched the right ports"

// recogniser follows the touches of all sources by one Rule. It is a
// knock.Recogniser.
type recogniser struct {
	rule    Rule
	armed   time.Time      // a rule with Judge judges at armed + n·Judge
	index   map[uint16]int // of each port in Touch
	sources sources

	now   time.Time     // the latest time processed
	slept time.Duration // all gaps together
}

func newRecogniser(rule Rule, armed time.Time) *recogniser {
	index := make(map[uint16]int, len(rule.Touch))
	for i, p := range rule.Touch {
		index[p] = i
	}
	return &recogniser{rule: rule, armed: armed, index: index, sources: newSources(), now: armed}
}

// Hear processes one touch and returns the verdicts that are due by its time, in order:
// first on knocks whose time was up before, then, if this touch completes or spoils one,
// on its own. A touch whose source has just been judged is ignored. Touches come in order
// of time; ports outside Rule.Listen do not belong to the rule.
//
// After a right knock the source is fresh for Within: touches of ports in Touch
// that fit nowhere are leftovers of knocks that were made at the same time, and
// are ignored. A port that is to be left alone stays wrong.
func (r *recogniser) Hear(t knock.Heard) []knock.Verdict {
	if t.Place.Medium != knock.Connections || !slices.Contains(r.rule.Listen, t.Place.Port) {
		return nil
	}
	now := t.Time
	t.Time = r.awake(now)
	return decided(now, r.take(t))
}

// take is Hear by the clock that stands still in gaps.
func (r *recogniser) take(t knock.Heard) []knock.Verdict {
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

// who returns the source whose progress a touch belongs to: an IPv4 address, the first
// address of an IPv6 /64, or the zero Addr for everybody.
func (r *recogniser) who(a netip.Addr) netip.Addr {
	if r.rule.Everybody {
		return netip.Addr{}
	}
	a = a.Unmap().WithZone("")
	if a.Is6() {
		a = netip.PrefixFrom(a, 64).Masked().Addr()
	}
	return a
}

// Look returns the verdicts on all knocks that are due by now.
func (r *recogniser) Look(now time.Time) []knock.Verdict {
	return decided(now, r.look(r.awake(now)))
}

// look is Look by the clock that stands still in gaps.
func (r *recogniser) look(now time.Time) []knock.Verdict {
	var verdicts []knock.Verdict
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

// verdict puts a judgement into words. A source that was wrong is forgotten; one that was
// right is forgotten, too, unless it may have other knocks under way.
func (r *recogniser) verdict(p *progress, now time.Time, right bool, wrong string) knock.Verdict {
	if !right || r.addsUp() {
		r.sources.forget(p)
	}
	v := knock.Verdict{Right: right, Source: p.last, Proven: !p.unproven, Time: now, Reason: knocked}
	if !right {
		v.Reason, v.Code, v.Penalty = wrong, codeOf(wrong), r.rule.Penalty
	}
	if r.rule.Everybody {
		v.Everybody, v.Source = true, netip.Addr{}
	}
	return v
}

// Gap notes that nobody could be heard from one moment to another, as if that time had
// not passed: what was under way goes on, and has as much time left as it had. A touch
// within that time counts as made at its end. The order and the ports of touches are
// judged as ever. Time that was already processed is not taken back: of a gap that began
// earlier only the rest counts.
func (r *recogniser) Gap(from, to time.Time) {
	if from.Before(r.now) {
		from = r.now
	}
	if !to.After(from) {
		return
	}
	r.slept += to.Sub(from)
	r.now = to
}

// awake returns the time, at a moment, of the clock that stands still in gaps. It never
// goes back: a touch that the listener had in hand while time went on counts as made when
// that was processed, and not as one that comes too late.
func (r *recogniser) awake(now time.Time) time.Time {
	if now.After(r.now) {
		r.now = now
	}
	return r.now.Add(-r.slept)
}

// decided sets the time of verdicts by the ordinary clock.
func decided(now time.Time, verdicts []knock.Verdict) []knock.Verdict {
	for i := range verdicts {
		verdicts[i].Time = now
	}
	return verdicts
}

// GiveUp forgets what a source has under way; for the zero Addr, or if the knock is
// everybody's, what everybody has.
func (r *recogniser) GiveUp(a netip.Addr) bool {
	if !a.IsValid() || r.rule.Everybody {
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
func (r *recogniser) Next() (time.Time, bool) {
	if p := r.sources.first(); p != nil {
		return p.due.Add(r.slept), true
	}
	return time.Time{}, false
}

// Closed returns the ports that were touched in the knock under way, for a rule that is
// everybody's: these listeners stay closed until the verdict (S1).
func (r *recogniser) Closed() (closed []knock.Place) {
	if p := r.sources.of[netip.Addr{}]; p != nil {
		for _, n := range p.touched {
			closed = append(closed, place(n))
		}
	}
	return closed
}

// Follow continues with a rule that asks for the same knock: what a wrong one costs may
// differ.
func (r *recogniser) Follow(rule knock.Rule) bool {
	other, ok := rule.(Rule)
	if !ok || !r.rule.same(other) {
		return false
	}
	r.rule = other
	return true
}

// Rearm forgets what is under way and counts judgements from now, as the article's reset
// and restarted monitor do.
func (r *recogniser) Rearm(now time.Time) { *r = *newRecogniser(r.rule, now) }

// addsUp says whether all touches of a source are one knock, which is judged as a whole:
// everybody's together, or at each interval. Other rules follow each source's knocks
// touch by touch.
func (r *recogniser) addsUp() bool { return r.rule.Everybody || r.rule.Judge > 0 }

// addUp adds a touch to a knock that is judged as a whole.
func (r *recogniser) addUp(p *progress, t knock.Heard) (right bool, wrong string) {
	if p.touched == nil {
		due := t.Time.Add(r.rule.Within + 1) // a touch at exactly Within still counts
		if r.rule.Judge > 0 {
			due = r.armed.Add((t.Time.Sub(r.armed)/r.rule.Judge + 1) * r.rule.Judge)
		}
		p.begun = t.Time
		r.sources.renew(p, due)
	}
	if slices.Contains(p.touched, t.Place.Port) {
		return false, "" // a repeat, as of a client that tries twice, counts once
	}
	p.touched = append(p.touched, t.Place.Port)
	p.latest = t.Time
	if r.rule.Judge > 0 {
		return false, ""
	}
	return r.judge(p)
}

// sum judges a whole knock when its time is up.
func (r *recogniser) sum(p *progress) (right bool, wrong string) {
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

// judge says whether the touches complete the knock, or why they never can.
func (r *recogniser) judge(p *progress) (right bool, wrong string) {
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
	leftAlone  = "touched a port that must be left alone"
	outOfOrder = "touched the ports in the wrong order"
	unfinished = "touched only" // how the reason begins
)

// codeOf returns the code of a reason.
func codeOf(wrong string) string {
	switch {
	case wrong == leftAlone:
		return "port"
	case wrong == outOfOrder:
		return "order"
	case strings.HasPrefix(wrong, unfinished):
		return "unfinished"
	}
	return "late"
}

func (r *recogniser) only(n int) string {
	within := r.rule.Within
	if r.rule.Judge > 0 {
		within = r.rule.Judge
	}
	return fmt.Sprintf(unfinished+" %d of %d ports by the end of its %s", n, len(r.rule.Touch), within)
}

func (r *recogniser) tooLong(took time.Duration) string {
	return fmt.Sprintf("took %s from the first touch to the last; allowed is %s",
		took.Round(time.Millisecond), r.rule.Within)
}
