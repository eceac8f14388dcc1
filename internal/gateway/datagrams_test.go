package gateway

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// letter is a kind of knock that hears UDP: each datagram says what its verdict is. A right
// one leaves a mark with its own text as the key, and is right only once.
type letter struct{}

func (letter) Name() string       { return "letter" }
func (letter) Reference() string  { return "" }
func (letter) Needs() knock.Needs { return knock.Needs{} }
func (letter) Read(t *tables.Table) knock.Rule {
	p, _ := t.At("port").Port(port.UDP)
	first := t.At("first").Bool(true)
	return letterRule{port: p, first: first, streams: t.At("streams").Bool(false)}
}

type letterRule struct {
	knock.Rule
	port    uint16
	first   bool
	streams bool // carry letters, too
}

func (r letterRule) Hears() []knock.Place {
	all := []knock.Place{{Medium: knock.Datagrams, Port: r.port}}
	if r.streams {
		all = append(all, knock.Place{Medium: knock.Streams, Port: r.port})
	}
	return all
}
func (r letterRule) ForAll() bool         { return false }
func (r letterRule) Warnings() []string   { return nil }
func (r letterRule) Lasts() time.Duration { return 0 }
func (r letterRule) Glance(netip.Addr, []byte, bool, []byte) (knock.Rank, int) {
	return knock.Claimed, 0
}
func (r letterRule) Open(d knock.Datagram) (any, []byte, bool) {
	return string(d.Payload), nil, true
}

func (r letterRule) Recogniser(_ time.Time, marks []knock.Mark) knock.Recogniser {
	rec := &letters{rule: r, seen: make(map[string]bool)}
	for _, m := range marks {
		rec.seen[m.Key] = true
	}
	return rec
}

type letters struct {
	answering
	rule letterRule
	seen map[string]bool
}

func (l *letters) Hear(h knock.Heard) []knock.Verdict {
	said, _ := h.Said.(string)
	v := knock.Verdict{Source: h.Source, Proven: h.Proven, Time: h.Time, Penalty: time.Minute, Path: h.Path,
		Reason: "says " + said, Right: strings.HasPrefix(said, "open") && !l.seen[said], First: l.rule.first}
	if v.Right {
		l.seen[said] = true
		v.Marks = []knock.Mark{{Key: said, Value: []byte("seen")}}
	}
	v.Answer = func(o knock.Outcome) []byte {
		if o.Refused != "" {
			return fmt.Appendf(nil, "%s: %s", said, o.Refused)
		}
		return fmt.Appendf(nil, "%s: open %t for %s, waits %t", said, o.Open, o.Left.Round(time.Second), o.Waits)
	}
	return []knock.Verdict{v}
}

// withLetters puts the kind on the list for a test.
func withLetters(t *testing.T) {
	before := kinds.All
	kinds.All = append(slices.Clone(before), letter{})
	t.Cleanup(func() { kinds.All = before })
}

const letterKnock = `
[[door.ssh.knock]]
kind = "letter"
port = 5005
`

// letterDoor has no service, so that it opens at once.
var letterDoor = strings.Replace(sshDoor, "[door.ssh.service]\nunit = \"ssh.service\"\n", "", 1) + letterKnock

// write hands the gateway a datagram, as the listener does.
func (r *running) write(from netip.Addr, said string) {
	r.Hear([]knock.Heard{letterFrom(from, said)})
	synctest.Wait()
}

func letterFrom(from netip.Addr, said string) knock.Heard {
	return knock.Heard{Source: from, Place: knock.Place{Medium: knock.Datagrams, Port: 5005}, Time: time.Now(), Said: said,
		Path: knock.Path{From: netip.AddrPortFrom(from, 4444), To: netip.MustParseAddrPort("198.51.100.1:5005"), If: 2}}
}

// answered returns the answers since its last call.
func (m *machine) answered() (all []string) {
	m.do(func() { all, m.answers = m.answers, nil })
	return all
}

func (r *running) wantAnswers(want ...string) {
	r.t.Helper()
	if got := r.m.answered(); !slices.Equal(got, want) {
		r.t.Errorf("answered %q, want %q", got, want)
	}
}

// A visitor gets an answer once what the knock leads to has happened, and only one.
func TestAnswers(t *testing.T) {
	withLetters(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), letterDoor)
		r.write(visitor, "open 1")
		r.wantAnswers("192.0.2.2:4444 open 1: open true for 30s, waits false")
		r.write(visitor6, "wrong")
		r.wantAnswers()
		m.do(func() { m.broken = fmt.Errorf("out of memory") })
		r.write(visitor6, "open 2")
		r.wantAnswers()
	})
}

func TestAnAnswerWhileTheServiceStarts(t *testing.T) {
	withLetters(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.slow = make(chan struct{})
		r := run(t, m, configPath(t), sshDoor+letterKnock)
		r.write(visitor, "open 1")
		got := m.answered()
		if len(got) != 1 || !strings.HasSuffix(got[0], "waits true") || !strings.Contains(got[0], "open false") {
			t.Errorf("answered %q, want that it waits", got)
		}
		close(m.slow)
		synctest.Wait()
		r.wantState("open")
		r.wantAnswers("192.0.2.2:4444 open 1: open true for 30s, waits false")
	})
}

// No answer says that a door is open before the mark is on disk, or if it cannot be saved.
func TestAnswersWaitForMarks(t *testing.T) {
	withLetters(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r, disk := runSlowly(t, m, configPath(t), letterDoor)
		goOn := disk.hang(t)
		r.write(visitor, "open 1")
		r.wantAnswers()
		if len(m.grants) != 0 {
			t.Fatal("the kernel lets in before the mark is on disk")
		}
		goOn()
		synctest.Wait()
		r.wantAnswers("192.0.2.2:4444 open 1: open true for 30s, waits false")
		m.do(func() { m.full = fmt.Errorf("no space left on device") })
		r.write(visitor6, "open 2")
		r.wantAnswers()
		if len(m.grants) != 1 {
			t.Errorf("grants %v, want the first alone", m.grants)
		}
	})
}

// A penalised source is ignored and gets no answer, and what may be forged penalises
// nobody.
func TestDatagramsAndPenalties(t *testing.T) {
	withLetters(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), strings.Replace(letterDoor, "[door.ssh]", "[door.ssh]\npenalties = \"door\"", 1))
		r.write(visitor, "open 1")
		for range 20 {
			r.write(visitor, "wrong")
		}
		if len(m.banned) != 0 || len(m.grants) != 1 {
			t.Errorf("forged words left penalties %v and grants %v", m.banned, m.grants)
		}
		r.wantAnswers("192.0.2.2:4444 open 1: open true for 30s, waits false")
		proven := letterFrom(visitor6, "wrong")
		proven.Proven = true
		r.Hear([]knock.Heard{proven})
		synctest.Wait()
		r.wantAnswers("[2001:db8::7]:4444 wrong: wrong")
		r.touch(visitor, 59001)
		r.write(visitor, "open 2")
		r.wantAnswers()
		if len(m.banned) != 2 {
			t.Errorf("penalties %v, want those of the touch and of the proven word", m.banned)
		}
	})
}

// The listener hears at the places of doors that hear, holds all other places, and has the
// openers of the configuration in use.
func TestTheListenerForDatagrams(t *testing.T) {
	withLetters(t)
	const there = letterKnock + "\n"
	open := func(m *machine) (all []string) {
		m.do(func() {
			for at, by := range m.openers {
				all = append(all, fmt.Sprintf("%d %v", at.Port, by))
			}
		})
		return all
	}
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), letterDoor)
		want := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			if got := open(m); !slices.Equal(got, want) {
				t.Errorf("%s: the listener has %q, want %q", what, got, want)
			}
		}
		first, then := "5005 "+fmt.Sprint(letterRule{port: 5005, first: true}), "5005 "+fmt.Sprint(letterRule{port: 5005})
		want("at the start", first)
		write(t, r.path, strings.Replace(letterDoor, letterKnock, there+"first = false\n", 1))
		r.order(control.ApplyRequest{Action: "apply"})
		want("with another rule", then)
		m.do(func() { m.seen = door.Seen{NoData: "no log data"} })
		time.Sleep(time.Hour)
		synctest.Wait()
		want("in failsafe", "5005 <nil>")
		r.write(visitor, "open 1")
		if len(m.grants) != 0 {
			t.Errorf("in failsafe a datagram opens: %v", m.grants)
		}
		m.do(func() { m.taken = []uint16{5006} })
		write(t, r.path, strings.Replace(letterDoor, "5005", "5006", 1))
		if got := r.order(control.ApplyRequest{Action: "apply"}); got != "error: nothing was changed: 5006/udp: address already in use" {
			t.Errorf("a port that is taken: %q", got)
		}
		want("after that", "5005 <nil>")
	})
}

// Where a rule hears streams the port is listened on, its connections are handed over, and
// whoever takes them has the opener; while nothing is heard the port is held.
func TestTheListenerForStreams(t *testing.T) {
	withLetters(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), letterDoor+"streams = true\n")
		place := knock.Place{Medium: knock.Streams, Port: 5005}
		want := func(what string, heard bool) {
			t.Helper()
			synctest.Wait()
			m.do(func() {
				by, given := m.openers[place]
				if got := slices.Contains(m.streams, 5005); got != heard || !given || (by != nil) != heard || !slices.Contains(m.held, 5005) {
					t.Errorf("%s: handed over %t, opened by %v, held %v; want %t", what, got, by, m.held, heard)
				}
			})
		}
		want("at the start", true)
		r.Hear([]knock.Heard{{Source: visitor, Place: place, Time: time.Now(), Said: "open 1", Proven: true,
			Path: knock.Path{From: netip.AddrPortFrom(visitor, 4444), Stream: 7}}})
		synctest.Wait()
		if _, ok := m.grants[grantKey{"ssh", door.Source(visitor)}]; !ok {
			t.Errorf("grants %v, want one of %v", m.grants, visitor)
		}
		m.do(func() { m.seen = door.Seen{NoData: "no log data"} })
		time.Sleep(time.Hour)
		want("in failsafe", false)
		m.do(func() { m.taken = []uint16{5006} })
		write(t, r.path, strings.ReplaceAll(letterDoor, "5005", "5006")+"streams = true\n")
		if got := r.order(control.ApplyRequest{Action: "apply"}); !strings.Contains(got, "5006/tcp: address already in use") {
			t.Errorf("a port that is taken: %q", got)
		}
	})
}

// The metrics count dropped datagrams by reason, if a knock hears datagrams.
func TestDatagramsThatCameToNothing(t *testing.T) {
	withLetters(t)
	synctest.Test(t, func(t *testing.T) {
		r := run(t, newMachine(), configPath(t), letterDoor)
		want := map[string]uint64{"foreign": 1, "strange": 2, "crowded": 3, "overrun": 4, "withheld": 5, "replied": 6}
		if got := r.ReadMetrics().Datagrams; !maps.Equal(got, want) {
			t.Errorf("datagrams %v, want %v", got, want)
		}
		write(t, r.path, sshDoor)
		r.order(control.ApplyRequest{Action: "apply"})
		if got := r.ReadMetrics().Datagrams; got != nil {
			t.Errorf("datagrams %v, although no knock hears any", got)
		}
	})
}

// A socket that has died is opened again, and the trail says which.
func TestADatagramSocketThatDied(t *testing.T) {
	withLetters(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), letterDoor)
		m.do(func() { m.dead = []uint16{5005} })
		time.Sleep(upkeepInterval)
		synctest.Wait()
		m.do(func() { m.dead = nil })
		r.wantState("dark")
		if last := m.trail[len(m.trail)-1]; last.Reason != "the listener on 5005/udp had died; reopened" {
			t.Errorf("the trail ends with %+v", last)
		}
	})
}

// The fence keeps the machine's own packets from all places of knocks.
func TestTheFenceIsToldOfAllPlaces(t *testing.T) {
	var log bytes.Buffer
	udp := knock.Place{Medium: knock.Datagrams, Port: 5005}
	g := doorsOf(&log, oracular{places: []knock.Place{at(59000), udp}})
	f := fenceDoors(&config.Config{Doors: []config.Door{g.doors[0].conf}})
	if len(f) != 1 || !slices.Equal(f[0].Listen, []port.Range{at(59000).Range(), udp.Range()}) {
		t.Errorf("the fence is told %+v", f)
	}
}

// What two listeners have heard reaches the doors in the order of its times, and one turn
// handles only so much.
func TestTheOrderOfTwoListeners(t *testing.T) {
	var log bytes.Buffer
	g := doorsOf(&log)
	g.heard = make(chan []knock.Heard, 64)
	heard := func(after time.Duration, n int) (all []knock.Heard) {
		for range n {
			all = append(all, knock.Heard{Time: verdictsStart.Add(after)})
		}
		return all
	}
	g.heard <- heard(time.Second, 1)
	g.heard <- heard(3*time.Second, maxBatch)
	g.heard <- heard(0, 1)
	got := g.waitingToo(heard(2*time.Second, 1))
	if !slices.IsSortedFunc(got, func(a, b knock.Heard) int { return a.Time.Compare(b.Time) }) || len(got) != maxBatch+2 {
		t.Errorf("%d were heard, want %d, in the order of their times", len(got), maxBatch+2)
	}
	if len(g.heard) != 1 {
		t.Errorf("%d batches wait, want 1: a turn handles no more than there was when it began", len(g.heard))
	}
}

// Only so many visitors are answered in a second.
func TestAnswersAreBounded(t *testing.T) {
	v, n := newVisitors(), 0
	for v.may(verdictsStart) {
		n++
	}
	if n != visitorsPerSecond || !v.may(verdictsStart.Add(time.Second)) {
		t.Errorf("%d are answered in a second, want %d, and again in the next", n, visitorsPerSecond)
	}
}

// patient is a listener that says whether it is behind, and counts how often it was asked.
type patient struct {
	late  bool
	asked *int
}

func (p patient) isBehind() bool { *p.asked++; return p.late }

type patientListener struct {
	*tcpListener
	patient
}

func (p *patientListener) Behind() bool { return p.isBehind() }

type patientMail struct {
	*udpListener
	patient
}

func (p *patientMail) Behind() bool { return p.isBehind() }

// No knock is judged late while one of the listeners is behind. Both are asked each time,
// since each answers for the time since it was last asked.
func TestEitherListenerMayBeBehind(t *testing.T) {
	for _, tt := range []struct{ touches, datagrams, want bool }{
		{false, false, false}, {true, false, true}, {false, true, true}, {true, true, true},
	} {
		asked := 0
		w := World{Touches: &patientListener{patient: patient{tt.touches, &asked}}, Datagrams: &patientMail{patient: patient{tt.datagrams, &asked}}}
		if got := w.behind(); got != tt.want || asked != 2 {
			t.Errorf("%+v: behind %t, %d were asked", tt, got, asked)
		}
	}
}

// A kind that hears datagrams but has no opener is reported, and hears none.
func TestAKindThatOpensNothing(t *testing.T) {
	var log bytes.Buffer
	g := doorsOf(&log, oracular{places: []knock.Place{at(59000), {Medium: knock.Datagrams, Port: 5005}}})
	g.syncListeners()
	ports := g.listeners.udp.(*udpListener).openers
	if by, held := ports[knock.Place{Medium: knock.Datagrams, Port: 5005}]; !held || by != nil || g.listeners.problem != "5005/udp: its kind of knock opens no datagrams" {
		t.Errorf("the listener has %v, its problem is %q", ports, g.listeners.problem)
	}
}
