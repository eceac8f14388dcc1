package door

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/tape"
)

// FuzzDoor has bytes drive a door through the world of the properties, with restarts, and
// checks the same as they do. Coverage leads it to states that random walks seldom reach.
func FuzzDoor(f *testing.F) {
	const rules = "\x3c\x01\x01\x00" // idle 60 s, a service, logins
	for _, s := range []string{
		"", rules + "\x03\x00\x01\x00\x04\x01\x00\x03\x01\x00\x01",
		rules + strings.Repeat("\x01\x00\x00\x04\x01\x03\x01\x01\x01\x00\x40", 6),
		rules + "\x02\x00\x02\x03\x00\x30\x01\x03\x04\x01\x07\x00\x00\x05\x07\x01\x00\x07\x02\x01\x07\x03\x07\x04\x01",
		rules + "\x03\x00\x00\x00\x03\x01\x01\x01\x07\x03\x06\x01\x08\x00\x0a\x03\x00\x01\x01",
		"\x00\x00\x00" + strings.Repeat("\x01\x03\x00\x10\x02\x03\x09\x05", 8),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		c := tape.New(choices)
		d := &driver{t: t, c: c, sources: append([]netip.Prefix{visitor, other, netip.MustParsePrefix("198.51.100.0/24"), Any}, nobodies...)}
		d.rules = Rules{Name: "ssh", OpenFor: 30 * time.Second, Idle: time.Duration(c.Below(121)) * time.Second,
			ForAll: true, Service: c.Bool(), Logins: c.Bool()}
		d.w = &world{door: New(d.rules, Saved{}, start), now: start, kernel: make(map[netip.Prefix]time.Time),
			disk: make(map[netip.Prefix]map[string]bool), banned: make(map[target]Penalty)}
		d.tick()
		for n := 0; c.More() && n < 500; n++ {
			d.step()
			d.tick()
		}
	})
}

// driver turns bytes into what happens to a door.
type driver struct {
	t       *testing.T
	c       *tape.Tape
	w       *world
	rules   Rules
	sources []netip.Prefix
}

func (d *driver) source() netip.Prefix { return tape.Of(d.c, d.sources) }

func (d *driver) carry(effects []Effect) { d.w.carry(d.t, effects) }

func (d *driver) tick() {
	d.carry(d.w.door.Tick(d.w.now))
	d.w.check(d.t)
}

func (d *driver) step() {
	w, c := d.w, d.c
	switch c.Below(10) {
	case 0:
		w.now = w.now.Add(time.Duration(1+c.Below(70)) * time.Second)
	case 1, 2:
		d.knock()
	case 3:
		d.seen()
	case 4:
		d.answer()
	case 5: // the service dies, or others start or stop it
		if w.op == nil && d.rules.Service {
			if w.runs = !w.runs; w.runs {
				d.carry(w.door.Runs(w.now))
			} else {
				d.ends()
			}
		}
	case 6:
		d.apply()
	case 7:
		d.order()
	case 8: // until exactly the next turn that the door asks for
		if at, ok := w.door.Next(); ok {
			w.now = at
		}
	case 9:
		d.restart()
	}
}

// apply gives the door another service, or another presence.
func (d *driver) apply() {
	w, c := d.w, d.c
	what := c.Byte()
	if what&6 == 0 {
		d.rules.Service, w.op = what&1 == 1, nil
		w.door.Configure(d.rules)
		d.carry(w.door.Renew(w.now))
		return
	}
	d.rules.Logins, d.rules.ForAll, d.rules.Shared = what&1 == 1, what&4 == 4, what&8 == 8
	d.rules.Idle = time.Duration(c.Below(121)) * time.Second
	w.looks = 0
	w.door.Configure(d.rules)
	d.carry(w.door.LookElsewhere(w.now))
}

func (d *driver) knock() {
	s, right := d.source(), d.c.Bool()
	if right {
		by := tape.Of(d.c, []string{"touch", "other"})
		d.w.knock(d.t, Knock{Name: by, Source: s, By: by})
		return
	}
	n := d.c.Below(6)
	d.w.wrong(d.t, Wrong{Name: tape.Of(d.c, []string{"touch", "other"}), Source: s, By: "touch", Penalty: time.Duration(n%3) * time.Minute, Proven: n < 3})
}

func (d *driver) seen() {
	if d.w.looks == 0 {
		return
	}
	d.w.looks--
	what := d.c.Byte()
	seen := Seen{Connections: int(what & 1)}
	if what&2 != 0 {
		seen.Login = d.w.now
	}
	if what&0x1c == 0x1c {
		seen.NoData = "no log data"
	}
	d.carry(d.w.door.Seen(d.w.now, seen))
}

// answer gives the service manager's answer to the last order.
func (d *driver) answer() {
	w, op := d.w, d.w.op
	if op == nil {
		return
	}
	w.op = nil
	_, starts := op.(Start)
	switch how := d.c.Below(4); {
	case how == 3:
		d.carry(w.door.Failed(w.now, "broken"))
	case starts && how == 2: // others cancelled the start
		w.runs = false
		d.carry(w.door.Halted(w.now))
	case starts:
		w.runs = true
		d.carry(w.door.Runs(w.now))
	default:
		w.runs = false
		d.carry(w.door.Stopped(w.now, ""))
	}
}

// ends has the service end unasked: it dies, or others stop it.
func (d *driver) ends() {
	if d.c.Bool() {
		d.carry(d.w.door.Halted(d.w.now))
	} else {
		d.carry(d.w.door.Stopped(d.w.now, "signal 9"))
	}
}

func (d *driver) order() {
	w, s := d.w, d.source()
	switch d.c.Below(5) {
	case 0:
		effects, err := w.door.Open(w.now, s, time.Minute, "operator")
		if (err != nil) != (w.door.Saved().State == Failsafe || !Somebody(s)) {
			d.t.Fatalf("open for %v in %s: %v", s, w.door.Saved().State, err)
		}
		d.carry(effects)
	case 1:
		d.carry(w.door.Close(w.now, "operator"))
	case 2:
		effects, _ := w.door.Revoke(w.now, s, "operator")
		d.carry(effects)
	case 3:
		d.carry(w.door.Arm(w.now, "operator"))
	case 4:
		effects, _ := w.door.ArmSource(w.now, s, "operator")
		d.carry(effects)
	}
}

// restart ends the daemon and starts another: what was saved comes back, grants only if
// the door was open, and the service stays as it is.
func (d *driver) restart() {
	w := d.w
	v := w.door.View(w.now)
	w.door = New(d.rules, w.door.Saved(), w.now)
	w.op, w.looks = nil, 0
	if w.door.Saved().State == Open {
		for _, c := range v.Grants {
			w.door.Restore(c.Claim)
		}
	} else {
		clear(w.kernel)
		clear(w.disk)
	}
	for _, p := range w.banned {
		w.door.RestorePenalty(w.now, p)
	}
	d.tick()
	switch {
	case !d.rules.Service:
	case w.runs:
		d.carry(w.door.Runs(w.now))
	default:
		d.ends()
	}
}
