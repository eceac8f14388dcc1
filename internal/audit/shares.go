package audit

import (
	"cmp"
	"container/heap"
	"container/list"
	"fmt"
	"time"
)

// Bounds of what Shares remembers and reports.
const (
	shareAtOnce   = 100              // records of somebody at a door that are kept one by one at most
	shareEvery    = 3 * time.Minute  // how often there is one more of these
	shareInterval = 30 * time.Minute // between two sums
	shareNames    = 1 << 13          // visitors with names, each at each door, that are counted separately at a time
	shareNetworks = 1 << 10          // the same of networks
)

// Who is on whose behalf something was done, so that it counts towards their share.
type Who struct {
	ID string // what they are known by for ever; "": whoever comes from the source's network has one share
	By string // their name in records
}

// Shares keep visitors from filling the trail, who can knock, and give back, as often as
// they like. Of what is recorded of one of them at a door, a hundred records are kept one by
// one, and one more every three minutes; each half hour one record for each kind of event
// says how many more there were. Where so many come that not all are counted separately, the
// others share the sums of their door. So the records of one visitor at one door are at most
// a hundred, and 480 a day and 48 more for each kind of event, whatever they do; and each
// costs the same, however many there were before.
//
// They have no clock: times are handed to them and must not go back. They are not safe
// for concurrent use.
type Shares struct {
	all    map[shareOf]*share
	quiet  quiet        // shares with nothing to report
	loud   list.List    // of *tally, oldest first
	counts map[bool]int // of shares, by whether they are of somebody with an identity
}

// shareOf identifies what has a share. Without an identity and a network it is all who are
// not counted separately.
type shareOf struct {
	door, id, network string
	class             Class
}

// others says whether it is of all who are not counted separately.
func (of *shareOf) others() bool { return of.id == "" && of.network == "" }

// share is somebody's.
type share struct {
	shareOf
	at      int               // in quiet, -1 while it is loud
	full    time.Time         // when all of it may be used again
	tallies map[string]*tally // by event, of what is not recorded yet
}

// quiet is a heap (container/heap) of shares, the one of which all may be used again first.
type quiet []*share

func (q quiet) Len() int           { return len(q) }
func (q quiet) Less(i, j int) bool { return q[i].full.Before(q[j].full) }
func (q quiet) Swap(i, j int)      { q[i], q[j] = q[j], q[i]; q[i].at, q[j].at = i, j }

// Push adds a *share.
func (q *quiet) Push(x any) {
	of := x.(*share)
	of.at = len(*q)
	*q = append(*q, of)
}

// Pop removes and returns the last *share.
func (q *quiet) Pop() any {
	last := len(*q) - 1
	of := (*q)[last]
	(*q)[last], *q, of.at = nil, (*q)[:last], -1
	return of
}

// tally is what a sum is to say.
type tally struct {
	of      *share
	by      string
	since   time.Time
	more    uint64
	sources map[string]bool
	latest  Record
}

// NewShares returns Shares of which nothing is used.
func NewShares() *Shares { return &Shares{all: make(map[shareOf]*share), counts: make(map[bool]int)} }

// Add adds a record on somebody's behalf at its time and returns the records to keep now:
// the record itself, unless it is summed up, after the sums that are due.
func (s *Shares) Add(now time.Time, who Who, r Record) []Record {
	due := s.Due(now)
	of := s.of(now, who.ID, r)
	if of.take(now) {
		if of.at >= 0 {
			heap.Fix(&s.quiet, of.at)
		}
		return append(due, r)
	}
	t := of.tallies[r.Event]
	if t == nil {
		t = &tally{of: of, since: now, sources: make(map[string]bool)}
		of.tallies[r.Event] = t
		s.loud.PushBack(t)
	}
	if of.at >= 0 {
		heap.Remove(&s.quiet, of.at)
	}
	t.more++
	t.latest, t.by = r, cmp.Or(who.By, r.By)
	if len(t.sources) < maxAddresses {
		t.sources[r.Source] = true
	}
	return due
}

// of returns somebody's share.
func (s *Shares) of(now time.Time, id string, r Record) *share {
	key, most := shareOf{r.Door, id, "", r.Class()}, shareNames
	if id == "" {
		key.network, most = cmp.Or(prefixOfSource(r.Source), "nowhere"), shareNetworks
	}
	if s.all[key] == nil && s.counts[id != ""] >= most {
		key.id, key.network = "", ""
	}
	of := s.all[key]
	if of == nil {
		of = &share{shareOf: key, full: now, tallies: make(map[string]*tally)}
		heap.Push(&s.quiet, of)
		s.all[key] = of
		s.counts[key.id != ""]++
	}
	return of
}

// take uses up a record of the share, or says that there is none (the generic cell rate
// algorithm, ITU-T I.371, annex A).
func (of *share) take(now time.Time) bool {
	if now.After(of.full) {
		of.full = now
	}
	if of.others() || of.full.Sub(now) > (shareAtOnce-1)*shareEvery {
		return false
	}
	of.full = of.full.Add(shareEvery)
	return true
}

// Due returns the sums whose half hour is over, and forgets shares of which all may be used
// again.
func (s *Shares) Due(now time.Time) []Record {
	out := s.tell(now, now.Add(-shareInterval))
	for len(s.quiet) > 0 && !now.Before(s.quiet[0].full) {
		of := heap.Pop(&s.quiet).(*share)
		delete(s.all, of.shareOf)
		s.counts[of.id != ""]--
	}
	return out
}

// All returns all sums that are left, for when the daemon ends.
func (s *Shares) All(now time.Time) []Record { return s.tell(now, now) }

// tell returns the sums that were begun at the given time or earlier.
func (s *Shares) tell(now, since time.Time) []Record {
	var out []Record
	for e := s.loud.Front(); e != nil && !e.Value.(*tally).since.After(since); e = s.loud.Front() {
		t := s.loud.Remove(e).(*tally)
		out = append(out, t.record(now))
		if delete(t.of.tallies, t.latest.Event); len(t.of.tallies) == 0 {
			heap.Push(&s.quiet, t.of)
		}
	}
	return out
}

// record returns the sum as a record. Its source is that of all, if they have one.
func (t *tally) record(now time.Time) Record {
	r := Record{Time: now, Door: t.of.door, Event: t.latest.Event, By: t.by, Count: t.more, Visit: t.latest.Visit}
	from := "one address"
	switch n := len(t.sources); {
	case n >= maxAddresses:
		from = fmt.Sprintf("at least %d addresses", n)
	case n > 1:
		from = fmt.Sprintf("%d addresses", n)
	default:
		r.Source = t.latest.Source
	}
	switch {
	case t.of.others():
		r.Source, r.By = "", ""
		from += ", of more visitors than are counted separately"
	case t.of.id == "" && r.Source == "":
		r.Source = t.of.network
	}
	r.Reason = fmt.Sprintf("%d more in %v from %s", t.more, now.Sub(t.since).Round(time.Second), from)
	last := t.latest.Reason
	if len(t.sources) > 1 {
		last = t.latest.Source + ": " + last
	}
	r.Reason += "; the last: " + last
	return r
}
