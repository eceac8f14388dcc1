package gateway

import (
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// maxRecalled limits the refusals that a start reads from the audit trail.
const maxRecalled = 10_000

// recalled is what the audit trail says about refusals before the start. It does not
// change.
type recalled struct {
	since time.Time // zero where it says nothing
	of    map[string]*audit.Guesses
}

// recall reads the audit trail when that is asked for first, outside the loop.
func (g *Gateway) recall() recalled {
	const day = 24 * time.Hour
	if g.storeProblem != "" || g.store.SetAside() != "" {
		return recalled{}
	}
	since := g.countingSince.Add(-day)
	page, err := g.Log(control.LogQuery{Events: []string{audit.EventRefused}, Since: since, Limit: maxRecalled})
	if err != nil {
		g.log.Warn("cannot read the refusals of the last day; they are counted since the start", "err", err)
		return recalled{}
	}
	found := page.Records
	if len(found) == maxRecalled && found[0].Time.After(since) {
		since = found[0].Time // earlier ones may not all have been read
	}
	of := make(map[string]*audit.Guesses)
	for _, r := range found {
		if r.Time.Before(since) || !r.Time.Before(g.countingSince) {
			continue
		}
		if of[r.Door] == nil {
			of[r.Door] = audit.NewGuesses(since)
		}
		of[r.Door].Add(r)
	}
	return recalled{since, of}
}

// before returns what is known about a door from before the start, nil for nothing.
func (r recalled) before(name string) *audit.Guesses {
	switch {
	case r.since.IsZero():
		return nil
	case r.of[name] == nil:
		return audit.NewGuesses(r.since)
	}
	return r.of[name]
}

// guessesAt returns a function that writes down what each door has counted until now, and
// that may be called outside the loop.
func (g *Gateway) guessesAt(now time.Time) (count func(doors []control.Door)) {
	of := make([]*audit.Guesses, len(g.doors))
	for i, d := range g.doors {
		of[i] = d.guesses.Snapshot()
	}
	return func(doors []control.Door) {
		for i, guesses := range of {
			if guesses.Began().Equal(g.countingSince) { // else the door came later
				guesses = guesses.After(g.recalled().before(doors[i].Name))
			}
			doors[i].Guesses = control.Guesses{Hour: guessesOf(guesses.Hour(now)), Day: guessesOf(guesses.Day(now))}
		}
	}
}

// guessesOf returns refusals as status shows them.
func guessesOf(g audit.Guessed) control.GuessesOf {
	of := control.GuessesOf{Since: g.Since, Refused: g.Refused, Top: []control.GuessesFrom{}}
	for _, f := range g.Top {
		of.Top = append(of.Top, control.GuessesFrom(f))
	}
	return of
}
