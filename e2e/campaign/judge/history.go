// Package judge holds a history of knocks and connections against what doorward
// promises. It is pure: it has no sockets and no clock, and knows nothing of the
// daemon but its configuration in words. All times are of one monotonic clock,
// counted from the campaign's begin, and everything that takes time is a span:
// what happened did so somewhere within. So a verdict never rests on a guess of
// the moment; what could have been both ways is left open, or excused by a
// reason that is counted.
package judge

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Moment is a time since the campaign's begin.
type Moment = time.Duration

// Forever is the end of what has not ended yet.
const Forever Moment = math.MaxInt64

// Span is from before something began until after it had ended.
type Span struct{ Begin, End Moment }

// Overlaps says whether the spans have a moment in common.
func (s Span) Overlaps(o Span) bool { return s.Begin <= o.End && o.Begin <= s.End }

// Result is what became of a try to connect.
type Result uint8

// The results.
const (
	In       Result = iota // a connection, or an answer to a datagram
	Answered               // refused: a reset, or an ICMP error
	Silent                 // no answer at all
	Failed                 // not sent: nothing is known
)

// String returns a word for the result.
func (r Result) String() string {
	return [...]string{"in", "answered", "silent", "not sent"}[r]
}

// Try is one new connection that was tried.
type Try struct {
	Span
	Result Result
}

// Kind is what a knock was meant to be.
type Kind uint8

// The kinds of knocks.
const (
	Right Kind = iota
	Wrong      // a port touched that was to be left alone, or the wrong order
	Half       // begun and not ended
)

// String returns a word for the kind.
func (k Kind) String() string { return [...]string{"right", "wrong", "half"}[k] }

// Knock is one knock as its visitor sent it, from before its first touch until
// after its last.
type Knock struct {
	Span
	Kind  Kind
	Whole bool // each of its touches completed its handshake
}

// Door is what a door is configured to do.
type Door struct {
	Name      string
	OpenFor   time.Duration
	Within    time.Duration
	Penalty   time.Duration
	SingleUse bool
	Rejects   bool // strangers are refused, as if nothing were there
	Datagrams bool // its ports are UDP
	// Opens is how long after its last touch a right knock may take to open: the
	// machine's slowness, and the start of a service.
	Opens time.Duration
	// Excuses are the torments that may keep this door from opening.
	Excuses []What
	// Starts says that to open it a service must start, for which there must be
	// D-Bus.
	Starts bool
}

// What is something that happened to the machine.
type What string

// What happened, each with what it excuses.
const (
	Down      What = "daemon not ready" // knocks may be lost, nothing else
	Unguarded What = "table removed while no daemon lived"
	Link      What = "link down"
	Stall     What = "machine stalled"
	Disk      What = "disk full"
	Damage    What = "store damaged or unavailable"
	Service   What = "service killed"
	NoLog     What = "no log data"
	NoBus     What = "D-Bus or polkit away" // nothing but knocks that need a service to start
)

// Window is when it happened.
type Window struct {
	What What
	Span
}

// Events is what happened to the machine so far. It may be used by several
// goroutines; the zero value is ready.
type Events struct {
	mu  sync.Mutex // guards all
	all []Window
}

// Begin notes that something happens from now on, and returns what ends it.
func (e *Events) Begin(what What, at Moment) (end func(Moment)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.all)
	e.all = append(e.all, Window{what, Span{at, Forever}})
	return func(at Moment) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.all[n].End = at
	}
}

// During returns what of these kinds (of all, if none is named) happened during
// a span.
func (e *Events) During(s Span, kinds ...What) []Window {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []Window
	// Windows are short and in the order of their begins, so that the ones
	// looked for are near the end.
	for _, w := range slices.Backward(e.all) {
		if w.Overlaps(s) && (len(kinds) == 0 || slices.Contains(kinds, w.What)) {
			found = append(found, w)
		}
		if w.Begin < s.Begin-longest {
			break
		}
	}
	slices.Reverse(found)
	return found
}

// longest is longer than any window.
const longest = 2 * time.Minute

// Count returns how often each kind happened.
func (e *Events) Count() map[What]int {
	e.mu.Lock()
	defer e.mu.Unlock()
	count := map[What]int{}
	for _, w := range e.all {
		count[w.What]++
	}
	return count
}

// Episode is all that one source did at one door.
type Episode struct {
	Door   Door
	Source netip.Addr
	Always bool // needs no knock
	Knocks []Knock
	Tries  []Try
}

// span is from the episode's first moment to its last.
func (e *Episode) span() Span {
	s := Span{Forever, 0}
	add := func(o Span) { s = Span{min(s.Begin, o.Begin), max(s.End, o.End)} }
	for _, k := range e.Knocks {
		add(k.Span)
	}
	for _, t := range e.Tries {
		add(t.Span)
	}
	return s
}

const same = "                         (the same)"

// lines describes the episode and what happened meanwhile, in the order of their begins.
func (e *Episode) lines(events *Events) []string {
	type line struct {
		at   Moment
		text string
	}
	var all []line
	add := func(s Span, format string, args ...any) {
		end := "..."
		if s.End < Forever {
			end = fmt.Sprintf("%9.3f", s.End.Seconds())
		}
		all = append(all, line{s.Begin, fmt.Sprintf("%9.3f - %s  ", s.Begin.Seconds(), end) + fmt.Sprintf(format, args...)})
	}
	for _, k := range e.Knocks {
		add(k.Span, "knock: %s, every touch answered: %t", k.Kind, k.Whole)
	}
	for _, t := range e.Tries {
		add(t.Span, "try: %s", t.Result)
	}
	for _, w := range events.During(e.span()) {
		add(w.Span, "    %s", w.What)
	}
	slices.SortStableFunc(all, func(a, b line) int { return int(a.at - b.at) })
	// What is repeated is shown once, with the last time of it.
	var out []string
	what := func(s string) string { return s[strings.LastIndex(s, "  ")+1:] }
	for i, l := range all {
		if i > 0 && i < len(all)-1 && what(all[i-1].text) == what(l.text) && what(all[i+1].text) == what(l.text) {
			if out[len(out)-1] != same {
				out = append(out, same)
			}
			continue
		}
		out = append(out, l.text)
	}
	return out
}
