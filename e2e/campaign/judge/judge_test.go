package judge

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = time.Second

// at is a span of ten milliseconds.
func at(seconds float64) Span {
	b := Moment(seconds * float64(second))
	return Span{b, b + 10*time.Millisecond}
}

func tries(r Result, seconds ...float64) []Try {
	var all []Try
	for _, s := range seconds {
		all = append(all, Try{at(s), r})
	}
	return all
}

func knock(k Kind, seconds float64) Knock { return Knock{Span: at(seconds), Kind: k, Whole: true} }

func web() Door {
	return Door{Name: "web", OpenFor: 2 * second, Within: second, Penalty: 4 * second, Opens: second}
}

func TestJudge(t *testing.T) {
	single := web()
	single.SingleUse = true
	rejects := web()
	rejects.Rejects = true
	served := web()
	served.Excuses, served.Starts = []What{Service}, true
	half := knock(Right, 10)
	half.Whole = false
	tests := []struct {
		name    string
		episode Episode
		windows []Window
		wrong   string // begins with, "" for right
	}{
		{"a stranger is kept out", Episode{Tries: tries(Silent, 1, 2, 3)}, nil, ""},
		{"a stranger gets in", Episode{Tries: append(tries(Silent, 1), tries(In, 2)...)}, nil, "P1, P2"},
		{"a stranger hears that nothing listens", Episode{Tries: tries(Answered, 1)}, nil, "P1, P2"},
		{"where the door answers that to all", Episode{Door: rejects, Tries: tries(Answered, 1)}, nil, ""},
		{"a stranger gets in where no table is", Episode{Tries: tries(In, 2)}, []Window{{Unguarded, Span{1 * second, 3 * second}}}, ""},
		{"after there is one again", Episode{Tries: tries(In, 4)}, []Window{{Unguarded, Span{1 * second, 3 * second}}}, "P1, P2"},
		{"a stranger gets in while no daemon lives", Episode{Tries: tries(In, 2)}, []Window{{Down, Span{1 * second, 3 * second}}}, "P1, P2"},
		{"always", Episode{Always: true, Tries: tries(In, 1, 2)}, nil, ""},
		{"always, shut out", Episode{Always: true, Tries: tries(Silent, 1, 2)}, nil, "P1: shut out"},
		{"always, shut out by a dead link", Episode{Always: true, Tries: tries(Silent, 1)}, []Window{{Link, Span{0, 2 * second}}}, ""},

		{"a right knock opens", Episode{Knocks: []Knock{knock(Right, 10)},
			Tries: append(tries(Silent, 9, 10.2, 13.5), tries(In, 10.5, 11.9)...)}, nil, ""},
		{"a right knock opens, and nothing listens", Episode{Door: served, Knocks: []Knock{knock(Right, 10)}, Tries: tries(Answered, 10.5)}, nil, "P9"},
		{"a moment after the service was killed", Episode{Door: served, Knocks: []Knock{knock(Right, 10)}, Tries: tries(Answered, 10.5)},
			[]Window{{Service, Span{9 * second, 9 * second}}}, ""},
		{"a right knock does not", Episode{Knocks: []Knock{knock(Right, 10)}, Tries: tries(Silent, 11.1)}, nil, "P4"},
		{"a right knock opens and shuts too soon", Episode{Knocks: []Knock{knock(Right, 10)},
			Tries: append(tries(In, 10.5), tries(Silent, 11.5)...)}, nil, "P4"},
		{"a right knock opens for too long", Episode{Knocks: []Knock{knock(Right, 10)}, Tries: tries(In, 10.5, 13.4)}, nil, "P1, P2"},
		{"and even a little too long", Episode{Knocks: []Knock{knock(Right, 10)}, Tries: tries(In, 10.1, 12.5)}, nil, "P1, P2"},
		{"unless the machine stalled before", Episode{Knocks: []Knock{knock(Right, 10)}, Tries: tries(In, 11.9, 13.8)},
			[]Window{{Stall, Span{10500 * time.Millisecond, 11800 * time.Millisecond}}}, ""},
		{"two right knocks open for longer", Episode{Knocks: []Knock{knock(Right, 10), knock(Right, 11.5)},
			Tries: tries(In, 10.5, 13.4)}, nil, ""},
		{"a grant that was renewed ends with the first", Episode{Knocks: []Knock{knock(Right, 10), knock(Right, 11.5)},
			Tries: append(tries(In, 10.5), tries(Silent, 13.4)...)}, nil, "P4"},
		{"a right knock may be lost in a crash", Episode{Knocks: []Knock{knock(Right, 10)}, Tries: tries(Silent, 11.1)},
			[]Window{{Down, Span{10 * second, 11 * second}}}, ""},
		{"but not be given twice", Episode{Knocks: []Knock{knock(Right, 10)},
			Tries: append(append(tries(In, 10.2), tries(Silent, 10.4)...), tries(In, 10.6)...)},
			[]Window{{Down, Span{10 * second, 11 * second}}}, "P4"},
		{"a crash takes no grant", Episode{Knocks: []Knock{knock(Right, 10)}, Tries: append(tries(In, 10.5), tries(Silent, 11.7)...)},
			[]Window{{Down, Span{11200 * time.Millisecond, 12 * second}}}, "P4"},
		{"unless a full disk kept the open door from being saved", Episode{Knocks: []Knock{knock(Right, 10)},
			Tries: append(tries(In, 10.5), tries(Silent, 11.7)...)},
			[]Window{{Disk, Span{9 * second, 11 * second}}, {Down, Span{11200 * time.Millisecond, 12 * second}}}, ""},
		{"a table that went takes it", Episode{Knocks: []Knock{knock(Right, 10)}, Tries: append(tries(In, 10.5), tries(Silent, 11.7)...)},
			[]Window{{Unguarded, Span{11200 * time.Millisecond, 11400 * time.Millisecond}}}, ""},
		{"a knock that was not whole need not open", Episode{Knocks: []Knock{half}, Tries: tries(Silent, 11.1)}, nil, ""},

		{"without D-Bus no service starts", Episode{Door: served, Knocks: []Knock{knock(Right, 10)}, Tries: tries(Silent, 11.1)},
			[]Window{{NoBus, Span{9 * second, 12 * second}}}, ""},
		{"or later", Episode{Door: served, Knocks: []Knock{knock(Right, 10)}, Tries: append(tries(Silent, 11.1), tries(In, 14.5)...)},
			[]Window{{NoBus, Span{9 * second, 12 * second}}}, ""},
		{"which does not matter where none must", Episode{Knocks: []Knock{knock(Right, 10)}, Tries: tries(Silent, 11.1)},
			[]Window{{NoBus, Span{9 * second, 12 * second}}}, "P4"},
		{"once it is back they do", Episode{Door: served, Knocks: []Knock{knock(Right, 10)}, Tries: tries(Silent, 11.1)},
			[]Window{{NoBus, Span{5 * second, 9 * second}}}, "P4"},
		{"a grant lasts without D-Bus", Episode{Door: served, Knocks: []Knock{knock(Right, 10)}, Tries: append(tries(In, 10.5), tries(Silent, 11.7)...)},
			[]Window{{NoBus, Span{11100 * time.Millisecond, 12 * second}}}, "P4"},
		{"and ends", Episode{Door: served, Knocks: []Knock{knock(Right, 10)}, Tries: tries(In, 10.5, 13.4)},
			[]Window{{NoBus, Span{11100 * time.Millisecond, 14 * second}}}, "P1, P2"},
		{"without D-Bus a stranger gets in", Episode{Door: served, Tries: tries(In, 10.5)},
			[]Window{{NoBus, Span{9 * second, 12 * second}}}, "P1, P2"},
		{"without D-Bus a wrong knock is forgiven", Episode{Door: served, Knocks: []Knock{knock(Wrong, 10), knock(Right, 13)}, Tries: tries(In, 13.5)},
			[]Window{{NoBus, Span{9 * second, 12 * second}}}, "P1, P2"},

		{"a wrong knock opens", Episode{Knocks: []Knock{knock(Wrong, 10)}, Tries: tries(In, 10.5)}, nil, "P1, P2"},
		{"half a knock opens", Episode{Knocks: []Knock{knock(Half, 10)}, Tries: tries(In, 10.5)}, nil, "P1, P2"},
		{"a wrong knock takes back what a right one earned", Episode{Knocks: []Knock{knock(Right, 10), knock(Wrong, 10.5)},
			Tries: tries(Silent, 11.5)}, nil, ""},
		{"but not what was used", Episode{Knocks: []Knock{knock(Right, 10), knock(Wrong, 10.5)},
			Tries: append(tries(In, 10.3), tries(Silent, 11.5)...)}, nil, "P4"},
		{"unless the daemon was started since", Episode{Knocks: []Knock{knock(Right, 10), knock(Wrong, 10.5)},
			Tries: append(tries(In, 10.3), tries(Silent, 11.5)...)}, []Window{{Down, Span{10400 * time.Millisecond, 10450 * time.Millisecond}}}, ""},
		{"who is penalised is let in", Episode{Knocks: []Knock{knock(Wrong, 10), knock(Right, 12)}, Tries: tries(In, 12.5)}, nil, "P1, P2"},
		{"who may be penalised", Episode{Knocks: []Knock{knock(Wrong, 10), knock(Right, 14.5)}, Tries: tries(In, 15)}, nil, ""},
		{"who is not any more is shut out", Episode{Knocks: []Knock{knock(Wrong, 10), knock(Right, 17)}, Tries: tries(Silent, 18.2)}, nil, "P4"},
		{"the second wrong one costs twice as much", Episode{Knocks: []Knock{knock(Wrong, 10), knock(Wrong, 16), knock(Right, 21.5)},
			Tries: tries(In, 22)}, nil, "P1, P2"},
		{"and not more", Episode{Knocks: []Knock{knock(Wrong, 10), knock(Wrong, 16), knock(Right, 27)},
			Tries: tries(Silent, 28.2)}, nil, "P4"},
		{"unless the first may have been forgotten", Episode{Knocks: []Knock{knock(Wrong, 10), knock(Wrong, 16), knock(Right, 21.5)},
			Tries: tries(In, 22)}, []Window{{Damage, Span{11 * second, 11500 * time.Millisecond}}}, ""},
		{"what is left of a right knock costs nothing", Episode{Knocks: []Knock{knock(Right, 10), knock(Half, 10.9), knock(Right, 13.2)},
			Tries: tries(In, 13.4)}, nil, ""},
		{"a penalty outlives a crash", Episode{Knocks: []Knock{knock(Wrong, 10), knock(Right, 13)}, Tries: tries(In, 13.5)},
			[]Window{{Down, Span{11500 * time.Millisecond, 12 * second}}}, "P1, P2"},
		{"but not a damaged store", Episode{Knocks: []Knock{knock(Wrong, 10), knock(Right, 13)}, Tries: tries(In, 13.5)},
			[]Window{{Damage, Span{11500 * time.Millisecond, 12 * second}}}, ""},

		{"of single use", Episode{Door: single, Knocks: []Knock{knock(Right, 10)},
			Tries: append(tries(In, 10.5), tries(Silent, 10.7, 11.5)...)}, nil, ""},
		{"of single use, used twice", Episode{Door: single, Knocks: []Knock{knock(Right, 10)}, Tries: tries(In, 10.5, 10.7)}, nil, "P1, P2"},
		{"of single use, never", Episode{Door: single, Knocks: []Knock{knock(Right, 10)}, Tries: tries(Silent, 11.2)}, nil, "P4"},
		{"of single use, spent by an answer that was lost", Episode{Door: single, Knocks: []Knock{knock(Right, 10)},
			Tries: tries(Silent, 11.2, 11.5)}, []Window{{Stall, Span{11190 * time.Millisecond, 11220 * time.Millisecond}}}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var events Events
			for _, w := range test.windows {
				events.Begin(w.What, w.Begin)(w.End)
			}
			e := test.episode
			if e.Door.Name == "" {
				e.Door = web()
			}
			v := Judge(&e, &events)
			if test.wrong == "" && v.Wrong != "" || !strings.HasPrefix(v.Wrong, test.wrong) {
				t.Errorf("got the verdict %q, want %q\n%s", v.Wrong, test.wrong, v.History)
			}
			if v.Wrong != "" && !strings.Contains(v.History, "try:") {
				t.Errorf("the history is not shown: %q", v.History)
			}
		})
	}
}

// Whatever a gateway without fault does is found right: histories are drawn from
// a gateway of a few lines, with moments of its own within the spans.
func TestJudgeAcquitsTheInnocent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := web()
		d.SingleUse = rapid.Bool().Draw(t, "single use")
		e := Episode{Door: d}
		var until, deaf, now, given, used Moment
		wrong := 0
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			now += rapid.Custom(func(t *rapid.T) Moment {
				return Moment(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond
			}).Draw(t, "pause")
			moment := now + Moment(rapid.IntRange(0, 50).Draw(t, "in"))*time.Millisecond
			s := Span{now, moment + Moment(rapid.IntRange(0, 50).Draw(t, "out"))*time.Millisecond}
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				e.Knocks = append(e.Knocks, Knock{s, Right, true})
				if moment >= deaf {
					if moment >= until {
						given = moment
					}
					until = moment + d.OpenFor
				}
			case 1:
				e.Knocks = append(e.Knocks, Knock{s, Wrong, true})
				if moment >= deaf {
					deaf = moment + d.Penalty<<wrong
					wrong++
					if used < given { // nobody has used it
						until = min(until, moment)
					}
				}
			default:
				r := Silent
				if moment < until {
					r = In
				}
				if r == In {
					used = moment
				}
				if r == In && d.SingleUse {
					until = 0
				}
				e.Tries = append(e.Tries, Try{s, r})
			}
			now = s.End
		}
		if v := Judge(&e, &Events{}); v.Wrong != "" {
			t.Fatalf("got the verdict %q\n%s", v.Wrong, v.History)
		}
	})
}
