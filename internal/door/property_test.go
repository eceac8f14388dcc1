package door

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/audit"
)

// world carries out a door's effects in place of the gateway, the kernel and the disk, in
// the simplest way possible.
type world struct {
	door   *Door
	now    time.Time
	kernel map[netip.Prefix]time.Time // grants, by their ends
	disk   map[netip.Prefix]map[string]bool
	banned map[target]Penalty // with those that are remembered
	op     Effect             // the service's last order that was not answered yet
	looks  int
	runs   bool
}

// tester is what properties and fuzz targets have in common.
type tester interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func (w *world) carry(t tester, effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case Give:
			if !Somebody(e.Source) {
				t.Fatalf("a grant of %v", e.Source)
			}
			if !e.Until.After(w.now) {
				t.Fatalf("a grant of %s", e.Until.Sub(w.now))
			}
			w.kernel[e.Source] = e.Until
		case Revoke:
			delete(w.kernel, e.Source)
		case Clear:
			clear(w.kernel)
			clear(w.disk)
		case KeepClaim:
			if w.disk[e.Source] == nil {
				w.disk[e.Source] = make(map[string]bool)
			}
			w.disk[e.Source][e.By] = true
		case DropClaim:
			if delete(w.disk[e.Source], e.By); len(w.disk[e.Source]) == 0 {
				delete(w.disk, e.Source)
			}
		case Penalise:
			if !Somebody(e.Source) {
				t.Fatalf("a penalty of %v", e.Source)
			}
			w.banned[e.target()] = e.Penalty
		case PenaltyEnded:
			if old := w.banned[e.target()]; old != e.Penalty || w.now.Before(old.Until) {
				t.Fatalf("over is %v, on disk %v", e.Penalty, old)
			}
		case Pardon:
			delete(w.banned, target{e.Name, e.Source})
		case PardonAll:
			clear(w.banned)
		case Start, Stop:
			w.op = e
		case Look:
			w.looks++
		}
	}
	for source, until := range w.kernel {
		if !w.now.Before(until) {
			delete(w.kernel, source)
		}
	}
}

// nobodies are sources that nobody can come from, each what a mistake in reading packets
// or prefixes would make.
var nobodies = []netip.Prefix{
	{}, Source(netip.Addr{}), netip.PrefixFrom(netip.MustParseAddr("192.0.2.2"), -1),
	Source(netip.IPv4Unspecified()), Source(netip.IPv6Unspecified()),
	netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"),
	netip.MustParsePrefix("224.0.0.1/32"), netip.MustParsePrefix("ff02::1/128"),
	netip.MustParsePrefix("::ffff:192.0.2.2/128"), netip.MustParsePrefix("192.0.2.2/24"),
}

// closeWithin shuts a network out, and checks that nothing in it has a grant or waits
// for one, and that whatever else lets it in is named.
func (w *world) closeWithin(t tester, network netip.Prefix) {
	for next, more := 0, true; more; more = next > 0 {
		var effects []Effect
		effects, _, next = w.door.RevokeWithin(w.now, network, "operator", next)
		if !Somebody(network) && len(effects) > 0 {
			t.Fatalf("closing to nobody, %v, does something: %v", network, effects)
		}
		w.carry(t, effects)
	}
	if !Somebody(network) {
		return
	}
	covers := map[netip.Prefix]bool{}
	for _, c := range w.door.Covers(w.now, network) {
		covers[c.Source] = true
	}
	for source := range w.kernel {
		in := source != Any && source.Bits() >= network.Bits() && source.Overlaps(network)
		if in || covers[source] != (source == Any || source.Overlaps(network)) {
			t.Fatalf("closed to %v: %v has a grant, and is named: %v", network, source, covers[source])
		}
	}
	for _, r := range w.door.waiting {
		if in := r.source != Any && r.source.Bits() >= network.Bits() && r.source.Overlaps(network); in {
			t.Fatalf("closed to %v: %v waits", network, r.source)
		}
	}
}

// knock has a source knock right. If the door ignores knocks the gateway does not hand
// it over; if it did, that would be recorded, and no more.
func (w *world) knock(t tester, k Knock) {
	deaf := w.door.Deaf(k.Name, k.Source)
	effects := w.door.Knock(w.now, k)
	if deaf {
		mustOnlyTell(t, effects)
	}
	w.carry(t, effects)
}

// wrong has a source knock wrong.
func (w *world) wrong(t tester, k Wrong) {
	somebody := Somebody(k.Source)
	if somebody && w.door.Deaf(k.Name, k.Source) {
		return
	}
	effects := w.door.Wrong(w.now, k)
	if !k.Proven || !somebody {
		mustOnlyTell(t, effects)
	}
	w.carry(t, effects)
}

// mustOnlyTell fails if effects are more than a refusal in the audit trail.
func mustOnlyTell(t tester, effects []Effect) {
	for _, e := range effects {
		if r, told := e.(Record); !told || r.Event != audit.EventRefused {
			t.Fatalf("an ignored knock has the effect %#v", e)
		}
	}
}

// check checks what must be so after every turn.
func (w *world) check(t tester) {
	v := w.door.View(w.now)
	known := make(map[netip.Prefix]time.Time)
	claims := 0
	for _, c := range v.Grants {
		if c.Until.After(known[c.Source]) {
			known[c.Source] = c.Until
		}
		if !w.disk[c.Source][c.By] {
			t.Fatalf("the disk does not know the claim %v", c)
		}
		claims++
	}
	for _, by := range w.disk {
		claims -= len(by)
	}
	if claims != 0 || len(known) != len(w.kernel) {
		t.Fatalf("door, disk and kernel differ: %v, %v, %v", v.Grants, w.disk, w.kernel)
	}
	for source, until := range known {
		if !w.kernel[source].Equal(until) {
			t.Fatalf("the door lets %v in until %s, the kernel until %s", source, until, w.kernel[source])
		}
	}
	if got := w.door.remembers(); !maps.Equal(got, w.banned) {
		t.Fatalf("penalties of %v are remembered, on disk are %v", got, w.banned)
	}
	stand := 0
	for _, p := range w.banned {
		if w.now.Before(p.Until) {
			stand++
		}
	}
	for _, p := range v.Penalties {
		if p != w.banned[p.target()] {
			t.Fatalf("the penalty is %v, on disk %v", p, w.banned[p.target()])
		}
	}
	if stand != len(v.Penalties) {
		t.Fatalf("penalties %v are in force, on disk %v", v.Penalties, w.banned)
	}
	for _, source := range explained {
		w.explains(t, source)
	}
	if (v.State == Dark || v.State == Closing || v.State == Failsafe) && len(w.kernel) > 0 {
		t.Fatalf("the door is %s and the kernel lets %v in", v.State, w.kernel)
	}
	if v.State == Open && w.door.rules.Service && w.op != nil {
		t.Fatalf("the door is open and %T is not answered", w.op)
	}
	r := w.door.rules
	if never := r.Idle == 0; v.State == Open && v.DarkAt.IsZero() != never || v.ForAll && (never || !r.ForAll) {
		t.Fatalf("with the rules %+v the door goes dark at %s, open to everybody until then: %v", r, v.DarkAt, v.ForAll)
	}
	if v.State == Failsafe && !r.Logins {
		t.Fatalf("the door is in failsafe and reads no logins: nothing would end it")
	}
	if _, ok := w.door.Next(); v.State == Opening && w.op == nil && (!ok || w.door.again.IsZero()) {
		t.Fatal("the door is opening, but nothing is asked of the service, now or later")
	}
	if at, ok := w.door.Next(); ok && !at.After(w.now) {
		t.Fatalf("%s: a turn at %s asks for one at %s: it would spin", v.State, w.now, at)
	}
}

// explained are the sources that Explain is asked about: some that knock, some of their
// neighbours, and everybody.
var explained = []netip.Prefix{visitor, other, Source(netip.MustParseAddr("198.51.100.9")),
	Source(netip.MustParseAddr("2001:db8::3")), Source(netip.MustParseAddr("203.0.113.7")), Any}

// explains compares what the door says of a source with what kernel and disk say.
func (w *world) explains(t tester, source netip.Prefix) {
	s := w.door.Explain(w.now, source)
	covers := make(map[netip.Prefix]time.Time)
	for _, c := range s.Covers {
		if !w.disk[c.Source][c.By] || c.Until.After(w.kernel[c.Source]) {
			t.Fatalf("%v is said to be let in by %v", source, c)
		}
		if c.Until.After(covers[c.Source]) {
			covers[c.Source] = c.Until
		}
	}
	for of, until := range w.kernel {
		in := of == Any || of.Contains(source.Addr())
		if said := covers[of]; in != said.Equal(until) || !in && !said.IsZero() {
			t.Fatalf("the kernel lets %v in until %s, which %v lies in: %v; it is said to be let in by %v", of, until, source, in, s.Covers)
		}
	}
	stand := 0
	for at, p := range w.banned {
		in := at.source == Any || at.source == source || at.source.Addr().Is6() && at.source.Contains(source.Addr()) // networks of IPv6 alone
		if in && w.now.Before(p.Until) {
			stand++
		}
	}
	for _, p := range s.Penalties {
		if p != w.banned[p.target()] || !w.door.Deaf(p.Name, source) {
			t.Fatalf("the penalty %v is said to stand for %v; the disk has %v, the door is deaf: %v", p, source, w.banned[p.target()], w.door.Deaf(p.Name, source))
		}
	}
	if stand != len(s.Penalties) {
		t.Fatalf("%d penalties stand for %v, %v are said to", stand, source, s.Penalties)
	}
}

// remembers returns all penalties, including those that are over.
func (d *Door) remembers() map[target]Penalty {
	all := make(map[target]Penalty)
	for t, n := range d.penalties.of {
		all[t] = *d.penalties.all.at(n)
	}
	return all
}

func TestDoorKernelAndDiskAgree(t *testing.T) {
	sources := []netip.Prefix{visitor, other, netip.MustParsePrefix("198.51.100.0/24"), Any}
	rapid.Check(t, func(t *rapid.T) {
		rules := Rules{Name: "ssh", OpenFor: 30 * time.Second,
			Idle:    time.Duration(rapid.IntRange(0, 120).Draw(t, "idle")) * time.Second,
			ForAll:  rapid.Bool().Draw(t, "for all"),
			Service: rapid.Bool().Draw(t, "service"), Logins: rapid.Bool().Draw(t, "logins"),
			Shared: rapid.Bool().Draw(t, "shared")}
		w := &world{door: New(rules, Saved{}, start), now: start, kernel: make(map[netip.Prefix]time.Time),
			disk: make(map[netip.Prefix]map[string]bool), banned: make(map[target]Penalty)}
		name := func(t *rapid.T) string { return rapid.SampledFrom([]string{"touch", "touch-2"}).Draw(t, "knock") }
		source := func(t *rapid.T) netip.Prefix {
			if rapid.IntRange(0, 7).Draw(t, "nobody") == 0 {
				return rapid.SampledFrom(nobodies).Draw(t, "source")
			}
			return rapid.SampledFrom(sources).Draw(t, "source")
		}
		tick := func(t *rapid.T) { w.carry(t, w.door.Tick(w.now)); w.check(t) }
		tick(t)
		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				w.now = w.now.Add(time.Duration(rapid.IntRange(1, 70).Draw(t, "seconds")) * time.Second)
				tick(t)
			},
			"knock": func(t *rapid.T) {
				w.knock(t, Knock{Name: name(t), Source: source(t), By: "touch", For: time.Duration(rapid.IntRange(0, 9).Draw(t, "for")) * time.Minute})
				tick(t)
			},
			"wrong": func(t *rapid.T) {
				w.wrong(t, Wrong{Name: name(t), Source: source(t), By: "touch", Penalty: time.Minute,
					Used: rapid.Bool().Draw(t, "used"), Proven: rapid.IntRange(0, 3).Draw(t, "proven") > 0})
				tick(t)
			},
			"seen": func(t *rapid.T) {
				if w.looks == 0 {
					t.Skip("no look under way")
				}
				w.looks--
				seen := Seen{Connections: rapid.IntRange(0, 1).Draw(t, "connections")}
				if rapid.Bool().Draw(t, "login") {
					seen.Login = w.now
				}
				if rapid.IntRange(0, 9).Draw(t, "logs") == 0 {
					seen.NoData = "no log data"
				}
				w.carry(t, w.door.Seen(w.now, seen))
				tick(t)
			},
			"service": func(t *rapid.T) {
				op := w.op
				if op == nil {
					t.Skip("nothing asked of the service")
				}
				w.op = nil
				fails := rapid.IntRange(0, 4).Draw(t, "fails")
				if _, starts := op.(Start); fails == 0 {
					w.carry(t, w.door.Failed(w.now, "broken"))
				} else if w.runs = starts && fails > 1; starts && !w.runs {
					w.carry(t, w.door.Halted(w.now)) // others cancelled the start
				} else if w.runs {
					w.carry(t, w.door.Runs(w.now))
				} else {
					w.carry(t, w.door.Stopped(w.now, ""))
				}
				tick(t)
			},
			"dies, or others start or stop it": func(t *rapid.T) {
				if w.op != nil || !rules.Service {
					t.Skip("the gateway reports only changes that it did not ask for")
				}
				if w.runs = !w.runs; w.runs {
					w.carry(t, w.door.Runs(w.now))
				} else if rapid.Bool().Draw(t, "dies") {
					w.carry(t, w.door.Stopped(w.now, "signal 9"))
				} else {
					w.carry(t, w.door.Halted(w.now))
				}
				tick(t)
			},
			"another service": func(t *rapid.T) {
				rules.Service, w.op = rapid.Bool().Draw(t, "service"), nil
				w.door.Configure(rules)
				w.carry(t, w.door.Renew(w.now))
				tick(t)
			},
			"another presence": func(t *rapid.T) {
				rules.Idle = time.Duration(rapid.IntRange(0, 120).Draw(t, "idle")) * time.Second
				rules.ForAll, rules.Logins = rapid.Bool().Draw(t, "for all"), rapid.Bool().Draw(t, "logins")
				rules.Shared = rapid.Bool().Draw(t, "shared")
				w.looks = 0
				w.door.Configure(rules)
				w.carry(t, w.door.LookElsewhere(w.now))
				tick(t)
			},
			"operator": func(t *rapid.T) {
				s := source(t)
				switch rapid.IntRange(0, 5).Draw(t, "order") {
				case 0:
					effects, err := w.door.Open(w.now, s, time.Minute, "operator")
					if (err != nil) != (w.door.Saved().State == Failsafe || !Somebody(s)) {
						t.Fatalf("open for %v in %s: %v", s, w.door.Saved().State, err)
					}
					w.carry(t, effects)
				case 1:
					w.carry(t, w.door.Close(w.now, "operator"))
				case 2:
					effects, _ := w.door.Revoke(w.now, s, "operator")
					w.carry(t, effects)
				case 3:
					w.carry(t, w.door.Arm(w.now, "operator"))
				case 4:
					effects, _ := w.door.ArmSource(w.now, s, "operator")
					w.carry(t, effects)
				case 5:
					w.closeWithin(t, netip.PrefixFrom(s.Addr(), rapid.IntRange(-1, 128).Draw(t, "bits")).Masked())
				}
				tick(t)
			},
		})
	})
}
