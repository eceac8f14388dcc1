//go:build linux

package presence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// auto is the first place that has log data. The journal comes first, since its trusted
// fields say who wrote an entry, but only where journald runs: an image may contain an
// old journal. Then the text logs of the Debian and the Red Hat families, and Busybox's
// syslogd's (Alpine), which puts all into one file.
//
// Which one that is may change with each check. If a place can be read only in part, the
// next one counts beside it. A login that was seen in any of them stays one.
type auto struct {
	socket string // journald's; it runs where this exists
	places []*place
	best   *Login // the latest login so far, never after now; nil for none
}

// place is one of the places that auto looks at.
type place struct {
	source
	costs bool     // looking costs something even if there is nothing
	again retry    // while another place has data
	has   bool     // it had data at the last look
	why   string   // why it has none, or not all of it
	hint  string   // what to do about that
	odd   []string // what it said then, for people
}

func newAuto() *auto {
	a := &auto{socket: "/run/systemd/journal/socket", places: []*place{{source: newJournal(), costs: true}}}
	for _, path := range []string{"/var/log/auth.log", "/var/log/secure", "/var/log/messages"} {
		a.places = append(a.places, &place{source: newFiles([]string{path})})
	}
	return a
}

func (a *auto) String() string {
	var names []string
	for _, p := range a.places {
		if p.has {
			names = append(names, p.String())
		}
	}
	if len(names) == 0 {
		return "auto (nothing found yet)"
	}
	return strings.Join(names, ", ")
}

// at is the first place with data, nil for none.
func (a *auto) at() source {
	if i := slices.IndexFunc(a.places, func(p *place) bool { return p.has }); i >= 0 {
		return a.places[i].source
	}
	return nil
}

func (a *auto) last(ctx context.Context, now time.Time) (Login, bool, []string, error) {
	if a.best != nil && a.best.Time.After(now) {
		a.best.Time = now // the clock was set back
	}
	// While one has data, those that failed before are left alone; if none has any more,
	// all are asked.
	spare := a.at() != nil
	err := a.look(ctx, now, spare)
	if spare && errors.Is(err, ErrNoData) {
		err = a.look(ctx, now, false)
	}
	if err != nil && !errors.Is(err, errPart) {
		return Login{}, false, a.said(), err
	}
	if a.best == nil {
		return Login{}, false, a.said(), err
	}
	return *a.best, true, a.said(), err
}

// newLogins collects those of all places, since reading one may have begun and then
// failed.
func (a *auto) newLogins() (all []Login, lost int) {
	for _, p := range a.places {
		some, without := p.newLogins()
		all, lost = append(all, some...), lost+without
	}
	return all, lost
}

// look asks one place after the other until one has all its data.
func (a *auto) look(ctx context.Context, now time.Time, spare bool) error {
	var slow, part error
	for i, p := range a.places {
		if spare && !p.has && !p.again.due(now) {
			continue
		}
		login, ok, err := a.ask(ctx, now, p)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if ok && (a.best == nil || login.Time.After(a.best.Time)) {
			a.best = &login
		}
		switch {
		case err == nil:
			for _, other := range a.places[i+1:] {
				*other = place{source: other.source, costs: other.costs}
			}
			return nil
		case errors.Is(err, errPart):
			part = err
		case !errors.Is(err, ErrNoData):
			slow = err
		}
	}
	switch {
	case part != nil:
		return part
	case slow != nil:
		return slow
	}
	return a.none()
}

// ask looks at a place and remembers what it said.
func (a *auto) ask(ctx context.Context, now time.Time, p *place) (Login, bool, error) {
	login, ok, odd, err := Login{}, false, []string(nil), a.runs(p)
	if err == nil {
		login, ok, odd, err = p.last(ctx, now)
	}
	p.has, p.why, p.hint, p.odd = err == nil || errors.Is(err, errPart), "", "", odd
	var none *noData
	switch {
	case p.has:
		p.again = retry{}
		return login, ok, err
	case errors.As(err, &none):
		p.why, p.hint = none.why, none.hint
	default:
		p.why = err.Error()
	}
	if p.costs || len(odd) > 0 {
		p.again.failed(now, askAtMost)
	}
	return Login{}, false, err
}

// runs says why it makes no sense to look at the place.
func (a *auto) runs(p *place) error {
	if _, ok := p.source.(*journal); !ok {
		return nil
	}
	if _, err := os.Stat(a.socket); err != nil {
		return &noData{why: fmt.Sprintf("journald does not run (%v)", plain(err))}
	}
	return nil
}

// said returns the oddities, for people: all of places with data, and of the places
// before them that they have none.
func (a *auto) said() (all []string) {
	first := slices.IndexFunc(a.places, func(p *place) bool { return p.has })
	for i, p := range a.places {
		if p.has || first < 0 {
			all = append(all, p.odd...)
			continue
		}
		for _, odd := range p.odd {
			if i < first {
				all = append(all, fmt.Sprintf("logins are read from %s, because %s", a, odd))
			}
		}
	}
	return all
}

// none says why there is no data anywhere.
func (a *auto) none() error {
	var why, hints []string
	for _, p := range a.places {
		why = append(why, p.why)
		if len(p.odd) > 0 && p.hint != "" { // it exists, but cannot be read
			hints = append(hints, p.hint)
		}
	}
	hints = append(slices.Compact(hints), autoHint)
	return &noData{why: strings.Join(why, "; "), hint: strings.Join(hints, "; ")}
}

const autoHint = "run journald or a syslog daemon, and let doorward's user read its log; " +
	"or name the log that sshd writes in presence.logins, or set it to \"off\""

// askAtMost is how long a place that failed is not asked again, while another has
// data.
const askAtMost = time.Minute

// retry says when to try again what failed: after a while that doubles with each
// time. The zero retry is due.
type retry struct {
	wait time.Duration
	at   time.Time
}

// due says whether it is time to try. It is if the clock was set back.
func (r *retry) due(now time.Time) bool {
	return !now.Before(r.at) || r.at.Sub(now) > r.wait
}

// failed notes a failure. The wait is never longer than most.
func (r *retry) failed(now time.Time, most time.Duration) {
	r.wait = min(max(2*r.wait, 5*time.Second), most)
	r.at = now.Add(r.wait)
}
