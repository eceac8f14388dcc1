package gateway

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
)

// oracular is a knock whose recogniser gives the verdict that the test chooses, whatever
// is heard. It counts how often it was asked for its places.
type oracular struct {
	knock.Rule
	places []knock.Place
	forAll bool
	says   knock.Verdict
	asked  *int
}

func (o oracular) Hears() []knock.Place {
	if o.asked != nil {
		*o.asked++
	}
	return o.places
}
func (o oracular) ForAll() bool         { return o.forAll }
func (o oracular) Lasts() time.Duration { return time.Minute }
func (o oracular) Recogniser(time.Time, []knock.Mark) knock.Recogniser {
	return &answering{says: o.says}
}

type answering struct{ says knock.Verdict }

func (a *answering) Hear(h knock.Heard) []knock.Verdict {
	v := a.says
	v.Time, v.Source = h.Time, h.Source
	return []knock.Verdict{v}
}
func (a *answering) Look(time.Time) []knock.Verdict { return nil }
func (a *answering) Next() (time.Time, bool)        { return time.Time{}, false }
func (a *answering) Gap(_, _ time.Time)             {}
func (a *answering) Follow(knock.Rule) bool         { return false }
func (a *answering) GiveUp(netip.Addr) bool         { return false }
func (a *answering) Rearm(time.Time)                {}
func (a *answering) Closed() []knock.Place          { return nil }

var verdictsStart = time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)

// doorsOf returns a gateway that does not run, with a door for each rule.
func doorsOf(log *bytes.Buffer, rules ...oracular) *Gateway {
	g := &Gateway{changes: newChanges(), marks: make(marks), visitors: newVisitors(), sums: audit.NewSums(), log: slog.New(slog.NewTextHandler(log, nil)), config: &config.Config{}}
	g.world.Now = func() time.Time { return verdictsStart }
	m := newMachine()
	g.listeners = &listeners{log: g.log, tcp: (*tcpListener)(m), udp: (*udpListener)(m)}
	g.async = func(task func() event) { task()(verdictsStart) }
	for i, r := range rules {
		conf := config.Door{Name: fmt.Sprintf("door%d", i), OpenFor: time.Minute,
			Knocks: []config.Knock{{Name: "oracle", Kind: "oracle", Rule: r}}, Presence: config.Presence{Idle: time.Hour}}
		d := g.newGuarded(conf, door.Saved{}, verdictsStart)
		d.ctx = context.Background()
		g.doors = append(g.doors, d)
	}
	return g
}

func at(port uint16) knock.Place { return knock.Place{Medium: knock.Connections, Port: port} }

func (g *Gateway) hears(p knock.Place) {
	g.listened([]knock.Heard{{Source: visitor, Place: p, Time: verdictsStart, Proven: true}})
}

// A verdict leads to a grant, by the kind and whomever it names. One that cannot be
// carried out leads to nothing, and is logged.
func TestVerdicts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		forAll bool
		says   knock.Verdict
		want   string // who was given a grant by whom
		log    string
	}{
		{name: "right", says: knock.Verdict{Right: true}, want: "192.0.2.2 by oracle"},
		{name: "right, of somebody", says: knock.Verdict{Right: true, By: "alice"}, want: "192.0.2.2 by oracle alice"},
		{name: "right, of everybody", forAll: true, says: knock.Verdict{Right: true, Everybody: true}, want: "any by oracle"},
		{name: "of everybody, by a rule that is not for all", says: knock.Verdict{Right: true, Everybody: true},
			log: "verdict is for everybody, or for one, against its rule"},
		{name: "of one, by a rule that is for all", forAll: true, says: knock.Verdict{Right: true},
			log: "verdict is for everybody, or for one, against its rule"},
		{name: "with marks that may follow", says: knock.Verdict{Right: true, Marks: []knock.Mark{{Key: "used", Value: []byte{1}}}},
			want: "192.0.2.2 by oracle"},
		{name: "with marks that must be on disk first, and are not yet",
			says: knock.Verdict{Right: true, First: true, Marks: []knock.Mark{{Key: "used", Value: []byte{1}}}}},
		{name: "with a mark that has no key", says: knock.Verdict{Right: true, Marks: []knock.Mark{{Value: []byte{1}}}},
			want: "192.0.2.2 by oracle", log: "cannot save the marks of a knock; a restart would forget them"},
		{name: "with a mark that is too long, and must be on disk first",
			says: knock.Verdict{Right: true, First: true, Marks: []knock.Mark{{Key: "k", Value: make([]byte, 1025)}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			g := doorsOf(&log, oracular{places: []knock.Place{at(59000)}, forAll: tt.forAll, says: tt.says})
			g.hears(at(59000))
			got := ""
			for k := range g.changes.claims {
				got = door.SourceString(k.Source) + " by " + k.By
			}
			if got != tt.want {
				t.Errorf("given %q, want %q", got, tt.want)
			}
			if g := log.String(); !strings.Contains(g, tt.log) || (tt.log == "") != (g == "") {
				t.Errorf("the log has %q, want %q", g, tt.log)
			}
		})
	}
}

// What is heard goes to the one knock of its place, and costs the same however many doors
// there are; so does a turn that does not change what is to be heard.
func TestWhatIsHeardCostsTheSameHoweverManyDoors(t *testing.T) {
	var log bytes.Buffer
	asked := 0
	var rules []oracular
	for i := range 300 {
		rules = append(rules, oracular{places: []knock.Place{at(uint16(20000 + i))}, says: knock.Verdict{Proven: true}, asked: &asked})
	}
	g := doorsOf(&log, rules...)
	tcp := g.listeners.tcp.(*tcpListener)
	g.hears(at(20007))
	g.syncListeners()
	if len(tcp.listening) != len(rules) || tcp.sets != 1 {
		t.Fatalf("the listener listens on %d ports and was set %d times; want %d, once", len(tcp.listening), tcp.sets, len(rules))
	}
	before := asked
	for range 100 {
		g.hears(at(20007))
		g.hears(at(1)) // nobody's
		g.syncListeners()
	}
	if asked != before || tcp.sets != 1 {
		t.Errorf("200 touches asked for places %d times and set the listener %d times, want never", asked-before, tcp.sets-1)
	}
	for i, d := range g.doors {
		if got := len(d.refusals); (got > 0) != (i == 7) {
			t.Errorf("door %d refused %d knocks; only door 7 was knocked at", i, got)
		}
	}
	g.config = &config.Config{} // as a new one
	g.doors = g.doors[:1]
	g.syncListeners()
	if len(tcp.listening) != 1 || tcp.listening[0] != 20000 {
		t.Errorf("with one door left the listener listens on %v", tcp.listening)
	}
	if d, _ := g.knockAt(at(20007), ""); d != nil {
		t.Errorf("what is heard on 20007 goes to %s, which is gone", d.name())
	}
}

// Nobody with a name of their own takes all the grants that a door can have: what they have
// is given again, and more only when some of it has ended. Who has no name is many.
func TestNobodyTakesAllGrants(t *testing.T) {
	for _, by := range []string{"alice", ""} {
		var log bytes.Buffer
		g := doorsOf(&log, oracular{places: []knock.Place{at(59000)}, says: knock.Verdict{Right: true, By: by}})
		from := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, byte(n >> 8), byte(n)}) }
		knocks := func(n int) {
			g.listened([]knock.Heard{{Source: from(n), Place: at(59000), Time: verdictsStart, Proven: true}})
		}
		for n := range mostOfOne {
			knocks(n)
		}
		d := g.doors[0]
		if got := d.door.Granted(); got != mostOfOne {
			t.Fatalf("%q has %d grants, want %d", by, got, mostOfOne)
		}
		refused := func() uint64 { return d.metered.refused[control.Refusal("crowded")] }
		if knocks(0); refused() != 0 {
			t.Errorf("%q is refused a grant that they have", by)
		}
		more := 0
		if by == "" {
			more = 1
		}
		if knocks(mostOfOne); d.door.Granted() != mostOfOne+more || refused() != uint64(1-more) {
			t.Errorf("%q: one more, and there are %d grants and %d refusals, want %d and %d", by, d.door.Granted(), refused(), mostOfOne+more, 1-more)
		}
		effects, _ := d.door.Revoke(verdictsStart, door.Source(from(1)), "an operator")
		d.apply(effects)
		if knocks(mostOfOne + 1); d.door.Granted() != mostOfOne+more {
			t.Errorf("%q: when one has ended, another makes %d grants, want %d", by, d.door.Granted(), mostOfOne+more)
		}
	}
}
