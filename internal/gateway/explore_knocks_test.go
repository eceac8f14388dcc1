package gateway

import (
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/touch"
)

// attempt is the touches of one source, or everybody's.
type attempt struct {
	touches []touched
	rights  int       // right knocks among them
	right   time.Time // the latest, zero for none
	given   bool      // the door is open for it, before the oracle has looked
}

type touched struct {
	by   netip.Addr
	port uint16
	at   time.Time
}

type fault struct {
	until  time.Time
	wall   time.Duration // how far the wall clock was off
	length time.Duration
}

// touch notes a touch that was heard, and returns the doors at which it completed a right
// knock.
func (o *oracle) touch(a netip.Addr, p uint16) (right []*owed) {
	for _, d := range o.doors {
		k, who := d.knock(), d.who(a)
		if !slices.Contains(k.Listen, p) {
			continue
		}
		if _, deaf := d.told[who]; deaf {
			continue
		}
		before := d.faults[who]
		d.overdue(o.m)
		if d.faults[who] != before {
			continue // its time was up before this touch
		}
		t := d.attempts[who]
		if t == nil {
			t = &attempt{}
			d.attempts[who] = t
		}
		t.touches = append(t.touches, touched{a, p, o.m.now})
		if k.Judge > 0 {
			continue
		}
		switch {
		case !slices.Contains(k.Touch, p):
			d.wrong(o.m, who)
		case t.complete(k, o.m.now):
			t.rights, t.right = t.rights+1, o.m.now
			source := door.Source(a)
			d.leaves[source] = append(d.leaves[source], leave{length: d.conf.OpenFor, earned: true})
			d.came = o.m.now
			right = append(right, d)
		}
	}
	return right
}

// complete reports whether the touches contain one more right knock, all of it recent
// enough. The explored knocks have no order.
func (t *attempt) complete(k touch.Rule, now time.Time) bool {
	for _, p := range k.Touch {
		count, latest := 0, time.Time{}
		for _, x := range t.touches {
			if x.port == p {
				count, latest = count+1, x.at
			}
		}
		if count <= t.rights || now.Sub(latest) > k.Within {
			return false
		}
	}
	return true
}

// ports returns the ports that were touched, each once.
func (t *attempt) ports() (ports []uint16) {
	for _, x := range t.touches {
		if !slices.Contains(ports, x.port) {
			ports = append(ports, x.port)
		}
	}
	return ports
}

// last returns when the latest touch came.
func (t *attempt) last() time.Time { return t.touches[len(t.touches)-1].at }

func (d *owed) wrong(m *model, who netip.Prefix) {
	source := door.Any
	if t := d.attempts[who]; t != nil && who != door.Any {
		source = door.Source(t.touches[len(t.touches)-1].by)
	}
	delete(d.attempts, who)
	if d.knock().Penalty == 0 {
		return
	}
	length := d.knock().Penalty
	if who != door.Any {
		for range d.times[who] {
			length *= 2
		}
		d.times[who]++
	}
	d.faults[who] = fault{m.now.Add(length), m.wall, length}
	if used, _ := d.used(m, source); !used {
		d.sure = d.sure && !slices.ContainsFunc(d.leaves[source], func(l leave) bool { return l.earned && !l.used }) // has not come
		d.takenBack(source, func(l leave) bool { return l.earned })
	}
}

// used reports whether a connection may have used a source's grant since it was given,
// and whether that is certain: a grant of a former daemon may count from later.
func (d *owed) used(m *model, source netip.Prefix) (used, sure bool) {
	l := grantKey{d.conf.Name, source}
	at, ok := m.used[l]
	since, known := m.since[l]
	return ok && (!known || !at.Before(since)), known
}

// overdue judges the attempts whose time is up at a door that judges at once.
func (d *owed) overdue(m *model) {
	within := d.knock().Within
	for who, t := range d.attempts {
		switch {
		case d.knock().Judge > 0 || m.now.Sub(t.last()) <= within:
		case !t.right.IsZero() && t.last().Sub(t.right) <= within: // left over from beside a right one
			delete(d.attempts, who)
		default:
			d.wrong(m, who)
		}
	}
}

// looked judges everybody's touches. The oracle does not know when the door does: it is
// when the door says that it has opened, or ignores knocks.
func (d *owed) looked(m *model, s control.Door) string {
	k, t := d.knock(), d.attempts[door.Any]
	if k.Judge == 0 {
		return ""
	}
	whole := t != nil && d.whole(t)
	deaf := slices.ContainsFunc(s.Penalties, func(p control.Penalty) bool { return p.Source == "any" })
	_, known := d.told[door.Any]
	switch {
	case deaf && !known:
		if _, blamed := d.faults[door.Any]; blamed {
			return ""
		}
		if whole || t == nil {
			return "P5: everybody is penalised, and nobody knocked wrong"
		}
		d.wrong(m, door.Any)
	case t != nil && (s.State == "open" || s.State == "opening"):
		delete(d.attempts, door.Any)
		if !t.given {
			d.leaves[door.Any] = append(d.leaves[door.Any], leave{})
		}
		if !whole {
			return "P1: the door opens to everybody, and the knock was not right"
		}
	case s.State == "failsafe":
		clear(d.attempts)
	case t != nil && s.State == "dark" && m.now.Sub(t.touches[0].at) >= k.Judge:
		return "P4: a knock was not judged in its time"
	}
	return ""
}

// whole reports whether just the right ports were touched.
func (d *owed) whole(t *attempt) bool {
	ports := t.ports()
	return len(ports) == len(d.knock().Touch) &&
		!slices.ContainsFunc(ports, func(p uint16) bool { return !slices.Contains(d.knock().Touch, p) })
}
