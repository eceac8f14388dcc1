package gateway

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
)

// source returns whose knock it is that an address has begun.
func (k *heardKnock) source(a netip.Addr) netip.Prefix {
	if k.conf.ForAll() {
		return door.Any
	}
	return door.Source(a)
}

// hear hands what was heard to the knock that listens there. A kind with a Keeper judges
// it even where the door ignores it: a visitor with a right knock is told why nothing
// opens, and the knock is not right again later.
func (d *guarded) hear(k *heardKnock, h knock.Heard) {
	d.apply(d.door.Tick(h.Time)) // a penalty that had ended by then has ended, however late the turn
	if !k.kept && d.door.Deaf(k.conf.Name, k.source(h.Source)) {
		return
	}
	for _, v := range k.rec.Hear(h) {
		d.judged(k, v)
	}
}

// judged hands a recogniser's verdict to the door.
func (d *guarded) judged(k *heardKnock, v knock.Verdict) {
	if v.Everybody != k.conf.ForAll() || v.Everybody && (v.Close || v.Only) {
		d.gw.log.Error("a knock came to nothing", "door", d.name(), "knock", k.conf.Name,
			"err", "its recogniser's verdict is for everybody, or for one, against its rule")
		return
	}
	source, by := k.source(v.Source), party(k.conf.Kind, v.By)
	right := door.Knock{Name: k.conf.Name, Source: source, By: by, Reason: v.Reason, For: v.OpenFor}
	if v.AtMost > 0 {
		right.Latest = v.Time.Add(v.AtMost) // a service may take minutes to start
	}
	var cannot knock.Refusal
	if v.Right && !v.Close && k.kept {
		cannot = d.cannot(right, v)
	}
	if cannot != "" && v.Undo != nil {
		v.Marks, v.Notes = v.Undo(), nil
	}
	marks := d.marks(k.conf.Kind, v.Marks)
	for _, m := range marks {
		d.gw.marks.keep(m)
	}
	d.note(right, v)
	if v.Right && v.First && !v.Close && cannot == "" && len(marks) > 0 {
		d.knockFirst(right, marks, v)
		return
	}
	d.gw.remember(marks)
	switch {
	case v.Right && v.Close:
		d.closes(v.Time, right, v)
	case cannot != "":
		d.refuseRight(v.Time, right, cannot, v)
	case v.Right:
		d.opens(v.Time, right, v)
	default:
		d.wrong(k, right, v)
	}
}

// note records what a kind says of a right knock, in the commit that has its marks.
func (d *guarded) note(k door.Knock, v knock.Verdict) {
	if !v.Right {
		return
	}
	for _, n := range v.Notes {
		d.gw.tell(audit.Record{Time: v.Time, Door: d.name(), Event: noteEvent(n.Event), Source: door.SourceString(k.Source), By: k.By, Reason: n.Detail}, k.By)
	}
}

// wrong hands a wrong knock to the door.
func (d *guarded) wrong(k *heardKnock, of door.Knock, v knock.Verdict) {
	w := door.Wrong{Name: of.Name, Source: of.Source, By: of.By, Reason: v.Reason, Penalty: v.Penalty, Proven: v.Proven}
	if v.Proven && v.Penalty > 0 { // else it takes nothing back, and anybody could cause queries to the kernel
		w.Used = d.used(of.Source, of.By)
	}
	if k.excused(v) {
		w.Penalty, w.Reason = 0, w.Reason+"; the knock was changed meanwhile, so there is no penalty"
	}
	if v.Alarm && d.gw.alarms.due(v.Time, d.gw.whoIs(of.By)) {
		d.gw.tell(audit.Record{Time: v.Time, Door: d.name(), Event: audit.EventAlarm, Source: door.SourceString(of.Source), By: of.By, Reason: v.Reason}, of.By)
	}
	d.refuse(v.Code, d.door.Wrong(v.Time, w))
	d.tellLater(v, of, knock.Outcome{Refused: knock.RefusedWrong})
}

// refuse carries out the effects of a knock, and counts it if it was refused.
func (d *guarded) refuse(why string, effects []door.Effect) {
	refused := func(e door.Effect) bool {
		r, is := e.(door.Record)
		return is && r.Event == audit.EventRefused
	}
	for _, e := range effects {
		if refused(e) {
			d.metered.refused[control.Refusal(why)]++
			break
		}
	}
	d.apply(effects)
}

// mostOfOne is how many grants whoever is known by a name of their own has at a door at a
// time: one in sixteen of what a door with single_use holds. They have as many addresses as
// an IPv6 network, and each would cost memory here and in the kernel.
const mostOfOne = 1 << 12

// opens hands a right knock to the door.
func (d *guarded) opens(now time.Time, k door.Knock, v knock.Verdict) {
	d.metered.knock = now
	switch j := d.gw.judge(now, d.name(), k); {
	case j.Ends:
		d.refuseRight(now, k, knock.RefusedEnded, v)
		return
	case !j.Until.IsZero() && (k.Latest.IsZero() || j.Until.Before(k.Latest)):
		k.Latest = j.Until
	}
	switch _, granted := d.door.GrantedSince(k.Source, k.By); {
	case granted:
	case v.Extend && !d.door.Waits(k.Source, k.By):
		d.refuseRight(now, k, knock.RefusedNothing, v)
		return
	case v.By != "" && d.door.Claims(k.By) >= mostOfOne:
		d.refuseRight(now, k, knock.RefusedMany, v)
		return
	}
	effects := d.door.Knock(now, k)
	why := "crowded"
	if d.door.Deaf(k.Name, k.Source) {
		why = "deaf"
	}
	d.refuse(why, effects)
	of := ledTo(k.Source, effects)
	if v.Only && of.Refused == "" {
		d.endElsewhere(now, k)
	}
	d.tellLater(v, k, of)
}

// cannot says why nothing can come of a right knock, "" when that is not known: the door
// ignores it, or the fence cannot be changed. The latter may be over in a moment, so it is a
// reason only where a knock would use something up for nothing.
func (d *guarded) cannot(k door.Knock, v knock.Verdict) knock.Refusal {
	if why := d.ignores(k); why != "" {
		return why
	}
	if v.Undo != nil && d.gw.fenceProblem != "" {
		return knock.RefusedKernel
	}
	return ""
}

// ignores says why the door ignores a right knock, "" when it does not.
func (d *guarded) ignores(k door.Knock) knock.Refusal {
	switch {
	case !d.door.Deaf(k.Name, k.Source):
		return ""
	case d.door.Saved().State == door.Failsafe:
		return knock.RefusedFailsafe
	case !d.door.Looked():
		return knock.RefusedEarly
	}
	return knock.RefusedPenalty
}

// whyRefused is why a right knock opens nothing, for the audit trail.
var whyRefused = map[knock.Refusal]string{
	knock.RefusedFailsafe: "the door is in failsafe",
	knock.RefusedEarly:    "the door has not looked for log data yet",
	knock.RefusedPenalty:  "the source is penalised at the door",
	knock.RefusedNothing:  "there is no grant to extend",
	knock.RefusedMany:     fmt.Sprintf("who sent it has %d grants at the door already", mostOfOne),
	knock.RefusedEnded:    "who sent it may not knock any more",
	knock.RefusedKernel:   "the fence cannot be changed, which doorward status explains",
}

// refuseRight records a right knock that opens nothing, and tells the visitor why.
func (d *guarded) refuseRight(now time.Time, k door.Knock, why knock.Refusal, v knock.Verdict) {
	code := "deaf"
	if why == knock.RefusedMany {
		code = "crowded"
	}
	d.refuse(code, []door.Effect{door.Record{Record: audit.Record{Time: now, Door: d.name(), Event: audit.EventRefused,
		Source: door.SourceString(k.Source), By: k.By, Reason: "a right knock, but " + whyRefused[why]}}})
	d.tellLater(v, k, knock.Outcome{Refused: why})
}

// closes takes back what somebody's knocks have earned at a source.
func (d *guarded) closes(now time.Time, k door.Knock, v knock.Verdict) {
	effects, _ := d.door.WithdrawAt(now, k.Source, door.Withdrawal{Party: k.By, Reason: v.Reason})
	d.apply(effects)
	d.tellLater(v, k, knock.Outcome{Closed: true})
}

// endElsewhere ends what somebody's knocks have earned at other addresses. Most have
// nothing there, and then no grants are walked through.
func (d *guarded) endElsewhere(now time.Time, k door.Knock) {
	if !d.door.Elsewhere(k.Source, k.By) {
		return
	}
	d.gw.endPartiesOn(now, &partyEnd{
		of:   door.Withdrawal{Party: k.By, At: elsewhereThan(k.Source), Reason: "a knock from " + door.SourceString(k.Source) + " takes its place"},
		then: func(time.Time, int) {}, doors: []string{d.name()},
	})
}

// judge says whether somebody may not have what they knocked for any more, or not for so
// long: that may have become so while their knock was on its way.
func (g *Gateway) judge(now time.Time, at string, of door.Knock) door.Judgement {
	for _, k := range g.keeps {
		if _, ours := whoOf(k.kind, of.By); ours {
			return judgement(now, k.standing(now, at, of.By), of.Source)
		}
	}
	return door.Judgement{}
}

// alarms limits how often the same visitor raises one.
type alarms map[string]time.Time // when they did last, by who they are

// Whoever can raise an alarm can raise many.
const (
	alarmEvery = time.Minute
	maxAlarms  = 1024
)

// due says whether somebody's alarm is to be recorded.
func (a *alarms) due(now time.Time, party string) bool {
	if last, ok := (*a)[party]; ok && now.Sub(last) < alarmEvery {
		return false
	}
	if *a == nil || len(*a) >= maxAlarms {
		*a = make(alarms)
	}
	(*a)[party] = now
	return true
}
