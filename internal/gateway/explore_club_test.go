package gateway

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/store"
)

// withClub has a text parsed with the club on the list of kinds, which it then stays on
// until the test ends.
func withClub() (restore func()) {
	before := kinds.All
	kinds.All = append(slices.Clone(before), club{})
	return func() { kinds.All = before }
}

// saying is something that was said at the club, by whom and about which door.
type saying struct {
	From               netip.Addr
	Text, Door, Member string
}

// wants reports whether a word was said.
func (s saying) wants(word string) bool { return slices.Contains(strings.Fields(s.Text), word) }

// sayings returns the actions of those who knock at the club, and of those who decide who
// may.
func (sc *scene) sayings() (as []action) {
	for _, text := range sc.says {
		from, words, _ := strings.Cut(text, " ")
		a := netip.MustParseAddr(from)
		as = append(as, action{text, "say", listens, func(t *trip) { t.say(a, words) }})
	}
	as = append(as, action{"an eavesdropper sends it again", "again", func(t *trip) bool { return listens(t) && t.overheard.Text != "" },
		func(t *trip) { t.hear(t.overheard) }})
	for _, name := range sc.members {
		as = append(as, action{name + " is locked out", "lock", lives, func(t *trip) { t.lock(name) }})
	}
	for _, names := range sc.lists {
		as = append(as, action{"the members become " + names, "members", func(t *trip) bool { return t.members != names },
			func(t *trip) { t.members = names }})
	}
	return as
}

// listens reports whether the club is heard.
func listens(t *trip) bool {
	return t.g != nil && t.openers[knock.Place{Medium: knock.Datagrams, Port: 5005}] != nil
}

// say has a visitor say something that nobody has said before.
func (t *trip) say(a netip.Addr, words string) {
	fields := strings.Fields(words)
	text := fmt.Sprintf("%s #%d %s", fields[0], t.left["say"], strings.Join(fields[1:], " "))
	s := saying{a, text, fields[0], fields[len(fields)-1]}
	t.overheard = s
	may := t.oracle.says(s)
	calm := t.calm()
	t.hear(s)
	if !may || !calm || t.g == nil || !t.calm() || s.wants("code") || s.wants("close") {
		return
	}
	d := t.oracle.doors[s.Door]
	end, in := t.lets(s.Door, a)
	if state := t.g.door(s.Door).door.Saved().State; state == door.Open && (!in || end.Sub(t.now) < d.lasts(s)) {
		t.found(fmt.Sprintf("P4: %s at door %s gets in for %v, want %v", s.Member, s.Door, end.Sub(t.now), d.lasts(s)))
	}
}

// lasts returns how long what was said opens.
func (d *owed) lasts(s saying) time.Duration {
	if s.wants("briefly") {
		return briefTime
	}
	return d.conf.OpenFor
}

// calm reports whether nothing is in the way of a right knock.
func (t *trip) calm() bool {
	return t.full == nil && t.g.diskProblem == "" && !t.hangs && t.commit == nil && t.refuses == 0 && !t.flushed && t.table &&
		t.g.fenceProblem == "" && !t.doubtful && !t.g.fencing.busy
}

// hear has the gateway hear something, of which its opener has made what it is.
func (t *trip) hear(s saying) {
	at := t.clock()
	t.turn(func(time.Time) {
		t.g.listened([]knock.Heard{{Source: s.From, Place: knock.Place{Medium: knock.Datagrams, Port: 5005}, Time: at, Proven: true,
			Said: clubSaid(s.Text), Path: knock.Path{From: netip.AddrPortFrom(s.From, 4444)}}})
	})
}

// answers has visitors told what has been decided to tell them.
func (t *trip) answers() {
	for t.g != nil {
		select {
		case answer := <-t.g.visitors.out:
			answer()
		default:
			t.machine.answers = nil
			return
		}
	}
}

// tells has the oracle learn what visitors are told.
func (t *trip) tells() {
	if k := t.g.keepOf("club"); k != nil {
		k.of.(*clubKept).tells = t.told
	}
}

// told checks what a visitor is told against the kernel.
func (t *trip) told(name string, v knock.Verdict, o knock.Outcome) {
	who := door.Source(v.Source)
	end, has := t.grants[grantKey{name, who}]
	d := t.oracle.doors[name]
	switch {
	case d == nil:
	case o.Open && (!has || end.Before(o.Until.Add(-time.Millisecond))):
		t.found(fmt.Sprintf("P6: %s is told that door %s is open to %v for %v, and the kernel lets it in for %v", v.By, name, v.Source,
			o.Until.Sub(t.clock()), end.Sub(t.now)))
	case o.Open:
		t.oracle.spent[v.By] = t.oracle.spent[v.By] || slices.ContainsFunc(v.Marks, func(m knock.Mark) bool { return m.Common })
		d.promised(who, v.By, t.now.Add(o.Until.Sub(t.clock())))
	case o.Closed:
		d.ended(who, v.By)
		t.found(t.oracle.kernelLetsIn())
	case o.Refused == knock.RefusedUnsaved:
		d.leaves[who] = slices.DeleteFunc(d.leaves[who], func(l leave) bool { return l.mark == codeMark+v.By && !l.used })
	case o.Refused != "" && t.calm() && !t.oracle.barred(v.By) && o.Refused != knock.RefusedWrong && !t.oracle.troubled:
		t.found(fmt.Sprintf("P4: a right knock of %s at door %s is refused: %s", v.By, name, o.Refused))
	}
}

// lock locks somebody out. When the answer says that it is done nothing is left of what
// they had.
func (t *trip) lock(name string) {
	o := t.oracle
	o.locked[name] = true
	o.over(name)
	request, err := lock(name).Order()
	if err != nil {
		t.found(err.Error())
	}
	t.turn(func(now time.Time) {
		t.g.order(context.Background(), now, control.Caller{Name: "operator"}, request, func(_ control.Reply, err error) {
			t.point()
			o.onDisk[name] = o.onDisk[name] || err == nil
			if refused(err) || err != nil && strings.HasPrefix(err.Error(), "the kernel does not have it") {
				return
			}
			for _, d := range o.doors {
				for who := range d.leaves {
					d.ended(who, name)
				}
			}
			t.found(o.kernelLetsIn())
		})
	})
}

// list notes that a gateway has read the list of members, and what it still has to read.
func (t *trip) list(read string) {
	t.oracle.members = strings.Fields(read)
	if slices.ContainsFunc(t.tasks, func(x task) bool { return strings.HasPrefix(x.kind, "readFiles") }) {
		return
	}
	for _, name := range []string{"ann", "bea", "cod"} {
		if t.oracle.barred(name) {
			t.oracle.over(name)
		}
	}
}

// barred reports whether somebody may not knock.
func (o *oracle) barred(name string) bool { return o.locked[name] || !slices.Contains(o.members, name) }

// says notes what was said at the club, and reports whether it is right.
func (o *oracle) says(s saying) bool {
	d, who := o.doors[s.Door], door.Source(s.From)
	if d == nil || o.barred(s.Member) {
		return false
	}
	mark := ""
	switch {
	case s.wants("close"):
		d.overAt(who, s.Member)
		return true
	case s.wants("only"):
		for other := range d.leaves {
			if other != who && other.Addr().Is4() == who.Addr().Is4() {
				d.overAt(other, s.Member)
			}
		}
	case s.wants("code"):
		mark = codeMark + s.Member
		if o.spent[s.Member] || o.pending(mark) {
			return false
		}
	}
	d.leaves[who] = append(d.leaves[who], leave{length: d.lasts(s), member: s.Member, mark: mark})
	return true
}

// pending reports whether a knock waits for a mark.
func (o *oracle) pending(mark string) bool {
	for _, d := range o.doors {
		for _, all := range d.leaves {
			if slices.ContainsFunc(all, func(l leave) bool { return l.mark == mark && !l.used }) {
				return true
			}
		}
	}
	return false
}

// over notes that all that somebody has ends.
func (o *oracle) over(name string) {
	for _, d := range o.doors {
		for who := range d.leaves {
			d.overAt(who, name)
		}
	}
}

// overAt notes that what somebody has at a source ends. A knock whose mark is not on disk
// has not reached the door yet.
func (d *owed) overAt(who netip.Prefix, name string) {
	d.takenBack(who, func(l leave) bool { return l.member == name && (l.mark == "" || l.used) })
}

// ended notes that it has ended: whoever asked for that was told so.
func (d *owed) ended(who netip.Prefix, name string) {
	d.leaves[who] = slices.DeleteFunc(d.leaves[who], func(l leave) bool { return l.member == name && l.over })
}

// promised notes until when somebody was told to get in.
func (d *owed) promised(who netip.Prefix, name string, until time.Time) {
	for i, l := range d.leaves[who] {
		if l.member == name && !l.over && l.used {
			d.leaves[who][i].promised = until
		}
	}
}

// kernelLetsIn says whom the kernel lets in who must not, "" for nobody.
func (o *oracle) kernelLetsIn() string {
	o.m.expire()
	for l, end := range o.m.grants {
		if d := o.doors[l.door]; d == nil || !d.mayUntil(l.source, end) {
			return fmt.Sprintf("P2: what %v had at door %s has ended, it was said, and the kernel lets it in for %v", l.source, l.door, end.Sub(o.m.now))
		}
	}
	return ""
}

// keptPromises checks that whoever was told to get in does, and that status says by what.
func (o *oracle) keptPromises(s control.Door, say func(string, ...any)) {
	d := o.doors[s.Name]
	for who, all := range d.leaves {
		for _, l := range all {
			if l.promised.IsZero() || l.over || !l.promised.After(o.m.now.Add(time.Millisecond)) {
				continue
			}
			if end := o.m.grants[grantKey{s.Name, who}]; end.Before(l.promised.Add(-time.Millisecond)) {
				say("P2: %s was told that door %s is open to %v for another %v, and the kernel lets it in for %v", l.member, s.Name, who,
					l.promised.Sub(o.m.now), end.Sub(o.m.now))
			}
			if !slices.ContainsFunc(s.Grants, func(g control.Grant) bool {
				source, _ := parseSource(g.Source)
				return source == who && slices.Contains(g.For, "club "+l.member)
			}) {
				say("P6: %s was told that door %s is open to %v, and status does not say so", l.member, s.Name, who)
			}
		}
	}
}

// membersUp notes that a daemon starts, which has read no list, and knows those who are
// locked out from the disk.
func (o *oracle) membersUp() string {
	o.members, o.troubled = nil, false
	for _, d := range o.doors {
		for who, all := range d.leaves {
			for i, l := range all {
				// By a clock that was set forward it is over, and by nobody's name as long as it is not.
				claim := o.m.claims[store.GrantKey{Door: d.conf.Name, Source: who, By: "club " + l.member}]
				if l.member != "" && !claim.Until.After(o.m.clock().Round(0)) {
					all[i].member, all[i].promised = "", time.Time{}
				}
			}
		}
	}
	for name := range o.locked {
		_, locked := o.m.marks[markKey{"", "club", name}]
		if o.onDisk[name] && !locked {
			return fmt.Sprintf("P6: %s was locked out, it was said, and a restart has forgotten it", name)
		}
		if !locked {
			delete(o.locked, name)
		}
	}
	return ""
}

// outlives notes that a daemon has ended. If the disk does not know whose a leave is, the
// next one cannot take it back from them; if it was to end, that may be forgotten or not.
func (d *owed) outlives(m *model, who netip.Prefix, l *leave) {
	_, known := m.claims[store.GrantKey{Door: d.conf.Name, Source: who, By: "club " + l.member}]
	if !known || l.over {
		l.promised = time.Time{}
	}
	if !known {
		l.member = ""
	}
	l.over = false // if the kernel did not hear of it, a restart has forgotten it
}

// unsaid forgets what visitors were told: the disk does not have it.
func (o *oracle) unsaid() {
	for _, d := range o.doors {
		for _, all := range d.leaves {
			for i := range all {
				all[i].promised = time.Time{}
			}
		}
	}
}

// clubDoor gives a door the club's knock.
func clubDoor(text, name string) string {
	return text + strings.ReplaceAll(clubKnock, "ssh", name)
}

// entered is a prefix in which members have knocked.
func entered(words ...string) []step {
	steps := []step{{do: "the daemon starts"}}
	for _, w := range append([]string{"task 0 ends", "task 0 ends"}, words...) {
		steps = append(steps, step{do: w})
	}
	return steps
}
