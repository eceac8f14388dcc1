package touch

import (
	"time"

	"github.com/doorward/doorward/internal/knock"
)

// mark is how far the knocks of one source have got at one port of Touch.
type mark struct {
	// In the given order: when the latest of the knocks began that have got this
	// far. In any order: when the port was last touched.
	at    time.Time
	count int // how many knocks have got this far
}

// follow processes a touch for a rule that follows each source's knocks.
func (r *recogniser) follow(p *progress, t knock.Heard) (right bool, wrong string) {
	i, ours := r.index[t.Place.Port]
	switch {
	case !ours:
		return false, leftAlone
	case r.rule.Given:
		right, wrong = r.inOrder(p, i, t.Time)
	default:
		right = r.inAnyOrder(p, i, t.Time)
	}
	if right {
		p.rights++
		p.fresh = t.Time.Add(r.rule.Within)
		r.sources.renew(p, p.fresh.Add(1))
	}
	return right, wrong
}

// inOrder processes a touch of the i-th port for a rule with a given order. What a source
// touched within Within contains the whole knock in its order if the latest knock that
// has got to the port before began no longer ago: it need not be known which of the
// touches belong together, so that parallel knocks do not disturb each other. A touch
// that continues no knock is wrong at once: a source's touches try one order of the
// ports, and not every order that a long enough list of touches contains.
func (r *recogniser) inOrder(p *progress, i int, now time.Time) (right bool, wrong string) {
	r.sources.work++
	if i == 0 {
		r.begin(p, now)
		p.reach(0).at = now
		p.marks[0].count++
		return len(r.rule.Touch) == 1, ""
	}
	if wrong = r.explained(p, i, now); wrong != "" {
		if !now.After(p.fresh) {
			wrong = "" // left over from a knock beside the right one
		}
		return false, wrong
	}
	m := p.reach(i)
	before := p.marks[i-1]
	m.at = before.at
	if m.count >= before.count {
		return false, "" // a repeat, as of a client that tries twice, counts once
	}
	m.count++
	return i == len(r.rule.Touch)-1, ""
}

// explained says why no knock under way is continued by a touch of the i-th port,
// "" if one is.
func (r *recogniser) explained(p *progress, i int, now time.Time) (wrong string) {
	if i > len(p.marks) {
		return outOfOrder
	}
	if took := now.Sub(p.marks[i-1].at); took > r.rule.Within {
		return r.tooLong(took)
	}
	return ""
}

// inAnyOrder processes a touch of the i-th port for a rule without an order. Each further
// right knock takes a further touch of every port.
func (r *recogniser) inAnyOrder(p *progress, i int, now time.Time) (right bool) {
	r.begin(p, now)
	p.reach(len(r.rule.Touch) - 1)
	p.marks[i].at = now
	p.marks[i].count++
	for _, m := range p.marks {
		r.sources.work++
		if m.count <= p.rights || now.Sub(m.at) > r.rule.Within {
			return false
		}
	}
	return true
}

// begin notes that a knock begins, or may. It has until Within from now, and a touch at
// exactly that moment still counts.
func (r *recogniser) begin(p *progress, now time.Time) {
	p.begun = now
	r.sources.renew(p, now.Add(r.rule.Within+1))
}

// unfinished says what was wrong with a source whose time is up; "" for one whose
// last knock began beside a right one, or soon after it.
func (r *recogniser) unfinished(p *progress) (wrong string) {
	if !p.begun.After(p.fresh) {
		return ""
	}
	n := 0
	for _, m := range p.marks {
		if r.rule.Given && m.at.Equal(p.begun) || !r.rule.Given && m.count > p.rights {
			n++
		}
	}
	return r.only(n)
}
