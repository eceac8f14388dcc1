package gateway

import (
	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
)

// maxExpected is how many visitors of a door are told once more when its service runs.
const maxExpected = 256

// expected are visitors who were told that their grants wait for the service, by the
// source as records have it.
type expected struct {
	of    map[string][]expectation
	many  int
	state door.State // when all were looked at last
}

type expectation struct {
	toTell
	by string // who it is (whoIs)
}

// add adds one, in place of an earlier knock of the same visitor.
func (x *expected) add(by string, t toTell) {
	if x.of == nil {
		x.of = make(map[string][]expectation)
	}
	who := door.SourceString(t.grant.source)
	for i, e := range x.of[who] {
		if e.by == by {
			x.of[who][i].toTell = t
			return
		}
	}
	if x.many < maxExpected {
		x.of[who] = append(x.of[who], expectation{t, by})
		x.many++
	}
}

// tellExpected has those told who do not wait any more, as a door's effects have it: of
// all when it is in another state, else of those whom they are about.
func (d *guarded) tellExpected(effects []door.Effect) {
	x := &d.expected
	if state := d.door.Saved().State; x.state != state {
		x.state = state
		for who := range x.of {
			d.tellWho(who)
		}
		return
	}
	if x.many == 0 {
		return
	}
	for _, e := range effects {
		switch e := e.(type) {
		case door.Give:
			d.tellWho(door.SourceString(e.Source))
		case door.Record:
			if e.Event == audit.EventRevoked || e.Event == audit.EventExpired {
				d.tellWho(e.Source)
			}
		}
	}
}

// tellWho has the visitors of one source told who do not wait any more.
func (d *guarded) tellWho(who string) {
	x := &d.expected
	var wait []expectation
	for _, e := range x.of[who] {
		if d.door.Waits(e.grant.source, e.by) {
			wait = append(wait, e)
			continue
		}
		x.many--
		e.of = d.cameOf(e)
		d.gw.visitors.due = append(d.gw.visitors.due, e.toTell)
	}
	if x.of[who] = wait; len(wait) == 0 {
		delete(x.of, who)
	}
}

// cameOf is what has become of a grant that waited for the service.
func (d *guarded) cameOf(e expectation) knock.Outcome {
	of := knock.Outcome{Ports: d.conf.Ports}
	_, granted := d.door.GrantedSince(e.grant.source, e.by)
	switch saved := d.door.Saved(); {
	case granted:
		of.Open, of.Until = true, d.door.GrantEnd(d.gw.world.Now(), e.grant.source)
	case saved.State == door.Failsafe:
		of.Refused = knock.RefusedFailsafe
	case saved.Reason == door.NotStarted:
		of.Refused = knock.RefusedFailed
	default:
		of.Refused = knock.RefusedEnded
	}
	return of
}

// expectNothing has all told that nothing comes of it: the door is no longer guarded.
func (d *guarded) expectNothing() {
	for _, all := range d.expected.of {
		for _, e := range all {
			e.of = knock.Outcome{Refused: knock.RefusedEnded, Ports: d.conf.Ports}
			d.gw.visitors.due = append(d.gw.visitors.due, e.toTell)
		}
	}
	d.expected = expected{}
}
