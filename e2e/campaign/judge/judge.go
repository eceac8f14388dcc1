package judge

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// slack is how much later than said the kernel may end a grant, or the gateway a
// penalty, and early how much sooner: clocks tick.
const (
	slack = 300 * time.Millisecond
	early = 20 * time.Millisecond
)

// Verdict is what the judge has to say of an episode.
type Verdict struct {
	Wrong   string // the promise that was broken and how, "" for none
	History string // with a wrong verdict: what happened
	Open    bool   // no order was found nor excluded in time
	Sure    int    // right knocks that had to open
	Maybe   int    // right knocks that might be lost, because of what happened
	Deaf    int    // right knocks that must not open, because of a penalty
	Judged  int    // tries that count
	Excused map[What]int
}

// fate is what must become of a knock.
type fate uint8

const (
	opens fate = iota
	mayOpen
	unlessServed // it was right, and opens if its service can be started
	opensNothing
)

// penalty is when a source is penalised: for certain, and perhaps.
type penalty struct{ sure, maybe Span }

// offences is how many wrong knocks of a source the gateway remembers, at least
// and at most: each makes the next penalty twice as long.
type offences struct{ least, most int }

// doubled is a penalty after so many.
func doubled(p time.Duration, offences int) time.Duration { return p << min(offences, 12) }

// Judge judges one episode, after it has ended.
func Judge(e *Episode, events *Events) Verdict {
	v := Verdict{Excused: map[What]int{}}
	fates := e.fates(events)
	for i, f := range fates {
		switch {
		case e.Knocks[i].Kind != Right:
		case f == opens:
			v.Sure++
		case f == mayOpen, f == unlessServed:
			v.Maybe++
		default:
			v.Deaf++
		}
	}
	tries := e.count(events, &v)
	switch e.order(tries, fates, events) {
	case porcupine.Ok:
		v.Wrong = e.unserved(tries, events)
		if v.Wrong != "" {
			v.History = strings.Join(e.lines(events), "\n")
		}
		return v
	case porcupine.Unknown:
		v.Open = true
		return v
	}
	// What is wrong without those who were shut out is that somebody was let in.
	v.Wrong = "P4: shut out in spite of a right knock"
	ins := slices.DeleteFunc(slices.Clone(tries), func(t Try) bool { return !e.through(t) })
	if e.Always {
		v.Wrong = "P1: shut out in spite of `always`"
	} else if e.order(ins, fates, events) == porcupine.Illegal {
		v.Wrong = "P1, P2: let in without a grant"
	}
	v.Wrong = fmt.Sprintf("%s: door %s, source %s", v.Wrong, e.Door.Name, e.Source)
	v.History = strings.Join(e.lines(events), "\n")
	return v
}

// unserved says whether somebody was let in to where nothing listened, which is
// no business of the fence: a grant is given when the service runs.
func (e *Episode) unserved(tries []Try, events *Events) string {
	if len(e.Door.Excuses) == 0 || e.Door.Rejects {
		return ""
	}
	const repair = 3 * time.Second
	for _, t := range tries {
		lately := Span{t.Begin - repair, t.End}
		if t.Result == Answered && len(events.During(lately, append(e.Door.Excuses, Down, Stall)...)) == 0 {
			return fmt.Sprintf("P9: let in at %.3f, and nothing listened: door %s, source %s", t.Begin.Seconds(), e.Door.Name, e.Source)
		}
	}
	return ""
}

// count returns the tries that count, and why others do not.
func (e *Episode) count(events *Events, v *Verdict) []Try {
	var tries []Try
	for _, t := range e.Tries {
		if t.Result == Failed {
			continue
		}
		excuses := []What{Unguarded}
		if !e.through(t) {
			excuses = []What{Unguarded, Link, Stall}
		}
		if w := events.During(t.Span, excuses...); len(w) > 0 {
			v.Excused[w[0].What]++
			continue
		}
		v.Judged++
		tries = append(tries, t)
	}
	return tries
}

// through says whether a connection came past the fence. Behind it nothing may
// listen: then the answer came from this far, too.
func (e *Episode) through(t Try) bool {
	return t.Result == In || t.Result == Answered && !e.Door.Rejects
}

// order asks for an order of all operations that explains the tries.
func (e *Episode) order(tries []Try, fates []fate, events *Events) porcupine.CheckResult {
	var h history
	n, shut := 0, Moment(0) // shut: when all grants so far are over for certain
	if e.Always {
		n++
		h.add(Span{0, 0}, opGrant, n)
	}
	for i, k := range e.Knocks {
		kind := opGrant
		switch fates[i] {
		case opensNothing:
			continue
		case mayOpen, unlessServed:
			kind = opMaybeGrant
		}
		n++
		given := e.given(k, tries, shut, events)
		h.add(given, kind, n)
		ends := Span{given.Begin + e.Door.OpenFor - early, given.End + e.Door.OpenFor + slack}
		h.add(ends, opExpire, n)
		shut = max(shut, ends.End)
	}
	in := opIn
	if e.Door.SingleUse {
		in = opSpend
	}
	for _, t := range tries {
		if e.through(t) {
			h.add(t.Span, in, 0)
		} else {
			h.add(t.Span, opOut, 0)
		}
	}
	if n > 0 && !e.Always {
		e.torments(&h, events)
		e.takenBack(&h, fates, events)
	}
	return h.check()
}

// given is when the grant of a knock was given, if it was. Where no grant of
// before can still be live, the first connection shows that it was by then.
// On a machine that stalled, or without D-Bus, it may have been given that much
// later.
func (e *Episode) given(k Knock, tries []Try, shut Moment, events *Events) Span {
	s := Span{k.Begin, k.End + e.Door.Opens}
	late := []What{Stall}
	if e.Door.Starts {
		late = append(late, NoBus)
	}
	for more := true; more; {
		more = false
		for _, w := range events.During(s, late...) {
			by := min(w.End, e.span().End) + e.Door.Opens
			more = more || by > s.End
			s.End = max(s.End, by)
		}
	}
	for _, t := range tries {
		if shut < k.Begin && e.through(t) && t.Begin > k.Begin {
			s.End = min(s.End, max(k.End, t.End))
		}
	}
	return s
}

// torments adds what may have ended grants before their time.
func (e *Episode) torments(h *history, events *Events) {
	all := e.span()
	for _, w := range events.During(all, Unguarded) {
		h.add(w.Span, opWipe, 0)
	}
	// Without its store a daemon takes all doors for dark.
	for _, w := range events.During(all, append(e.Door.Excuses, Damage)...) {
		h.add(Span{w.Begin, min(w.End, all.End)}, opMaybeWipe, 0)
	}
	// So does one whose last one died between opening a door and saving that,
	// which takes as long as the disk is full.
	for _, k := range e.Knocks {
		unsaved := Span{k.Begin, k.End + e.Door.Opens}
		for _, w := range events.During(unsaved, Disk) {
			unsaved.End = max(unsaved.End, min(w.End, all.End)+e.Door.Opens)
		}
		for _, w := range events.During(unsaved, Down) {
			h.add(Span{w.Begin, min(w.End, all.End) + e.Door.Opens}, opMaybeWipe, 0)
		}
	}
	if !e.Door.SingleUse {
		return
	}
	// An answer that was lost leaves the grant spent all the same.
	for _, t := range e.Tries {
		if !e.through(t) && len(events.During(t.Span, Link, Stall, Unguarded)) > 0 {
			h.add(t.Span, opMaybeSpend, 0)
		}
	}
}

// takenBack adds that a wrong knock takes back what a right one had earned, unless
// a connection has used it. One that was mangled may have been wrong.
func (e *Episode) takenBack(h *history, fates []fate, events *Events) {
	for i, k := range e.Knocks {
		if fates[i] != opens && fates[i] != unlessServed && !e.used(i, events) {
			h.add(Span{k.Begin, k.End + e.Door.Within + e.Door.Opens}, opMaybeWipe, 0)
		}
	}
}

// used says whether the grant that stood when knock i began had certainly been
// used by a connection: one that began after the last right knock had ended. A
// daemon that was started since does not know it any more. Datagrams complete no
// handshake.
func (e *Episode) used(i int, events *Events) bool {
	since := Moment(-1)
	for _, k := range e.Knocks[:i] {
		if k.Kind == Right {
			since = max(since, k.End)
		}
	}
	if e.Door.Datagrams || since < 0 {
		return false
	}
	for _, t := range e.Tries {
		if t.Result == In && t.Begin > since && t.End < e.Knocks[i].Begin {
			return len(events.During(Span{since, e.Knocks[i].End + e.Door.Opens},
				append(e.Door.Excuses, Down, Unguarded, Damage, Disk, Stall)...)) == 0
		}
	}
	return false
}

// fates says of each knock what must become of it.
func (e *Episode) fates(events *Events) []fate {
	var fates []fate
	var penalties []penalty
	var known offences
	for i := range e.Knocks {
		f, p := e.fate(i, penalties, &known, events)
		fates = append(fates, f)
		penalties = append(penalties, p...)
	}
	return fates
}

// fate says what must become of a knock after the penalties before it, and what
// penalties may follow from it.
func (e *Episode) fate(i int, before []penalty, known *offences, events *Events) (fate, []penalty) {
	k, d := e.Knocks[i], e.Door
	heard := Span{k.Begin, k.End + d.Opens}
	if k.Kind == Half {
		heard.End += d.Within // it becomes wrong when its time is up
	}
	lost := !k.Whole || len(events.During(heard, append(d.Excuses, Down, Stall, Link)...)) > 0
	maybeDeaf := false
	for _, p := range before {
		if p.sure.Begin < k.Begin && k.End < p.sure.End {
			return opensNothing, nil
		}
		maybeDeaf = maybeDeaf || p.maybe.Overlaps(heard)
	}
	// The memory is the daemon's, and what the disk has of it.
	if len(events.During(Span{e.span().Begin, k.Begin}, Damage, Disk)) > 0 {
		known.least = 0
	}
	// However a knock gets mangled, a penalty that follows is over by then.
	over := k.End + d.Within + d.Opens + doubled(d.Penalty, known.most) + slack
	mangled := penalty{maybe: Span{k.Begin, over}}
	switch {
	case k.Kind == Right && !lost && !maybeDeaf && d.Starts && len(events.During(heard, NoBus)) > 0:
		return unlessServed, nil
	case k.Kind == Right && !lost && !maybeDeaf:
		return opens, nil
	case k.Kind == Right:
		known.most++
		return mayOpen, []penalty{mangled}
	case lost || maybeDeaf || e.fresh(i):
		known.most++
		return opensNothing, []penalty{mangled}
	}
	begins := k.Begin
	if k.Kind == Half {
		begins += d.Within
	}
	p := penalty{sure: Span{heard.End, begins + doubled(d.Penalty, known.least) - early},
		maybe: Span{k.Begin, heard.End + doubled(d.Penalty, known.most) + slack}}
	known.least, known.most = known.least+1, known.most+1
	// So is the penalty.
	if w := events.During(Span{k.Begin, p.sure.End}, Damage, Disk); len(w) > 0 {
		p.sure.End = min(p.sure.End, w[0].Begin)
	}
	return opensNothing, []penalty{p}
}

// fresh says whether knock i may have begun so soon after a right one that what
// was wrong with it cost nothing.
func (e *Episode) fresh(i int) bool {
	const late = 500 * time.Millisecond // the gateway's clock for a touch
	for _, k := range e.Knocks[:i] {
		if k.Kind == Right && e.Knocks[i].Begin < k.End+e.Door.Within+late {
			return true
		}
	}
	return false
}
