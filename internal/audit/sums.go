package audit

import (
	"container/list"
	"fmt"
	"net/netip"
	"time"
)

// Bounds of what Sums remembers and reports.
const (
	sumInterval  = time.Minute // between two sums of a prefix
	maxSingle    = 10          // refusals of a prefix that are recorded one by one before the others are summed up
	maxPrefixes  = 256         // that are counted separately at a time
	maxAddresses = 32          // that are counted in one sum
	lenIPv4      = 24          // length of a prefix: what one owner's network often has
	lenIPv6      = 48
)

// Sums keeps a flood of refusals from becoming a flood of records. The first ten
// refusals of a prefix (IPv4 /24, IPv6 /48) at a door are recorded one by one; then one
// record a minute says how many more there were, until there are none for a minute. If
// wrong knocks come from more than 256 prefixes at a time, the others share one sum for
// each door. So refusals become at most about 2,816 records a minute, whatever strangers
// send, and each costs the same, however many there were before.
//
// It has no clock: times are handed to it and must not go back. It is not safe
// for concurrent use.
type Sums struct {
	byPrefix map[prefixOf]*sum
	quiet    list.List // of *sum with nothing to report, oldest since first
	loud     list.List // of *sum with something to report, likewise
}

// prefixOf identifies the refusals that are summed up together.
type prefixOf struct{ door, prefix string }

// elsewhere stands for the prefixes that are not counted separately.
const elsewhere = "elsewhere"

// sum is what came from one prefix.
type sum struct {
	prefixOf
	at        *list.Element
	since     time.Time // since when it has been quiet, or loud
	single    int       // how many were recorded one by one
	more      uint64    // how many were not recorded yet
	addresses map[string]bool
	latest    Record
}

// NewSums returns Sums that know of no refusals.
func NewSums() *Sums { return &Sums{byPrefix: make(map[prefixOf]*sum)} }

// Add adds a record at its time and returns the records to keep now: the record itself,
// unless it is summed up, after the sums that are due.
func (s *Sums) Add(now time.Time, r Record) []Record {
	if r.Event != EventRefused {
		return []Record{r}
	}
	due := s.Due(now)
	of := s.of(now, r)
	if of.single < maxSingle {
		of.single++
		return append(due, r)
	}
	if of.more == 0 {
		s.quiet.Remove(of.at)
		of.since, of.at = now, s.loud.PushBack(of)
	}
	of.more++
	of.latest = r
	if len(of.addresses) < maxAddresses {
		of.addresses[r.Source] = true
	}
	return due
}

// of returns the sum that a refusal belongs to.
func (s *Sums) of(now time.Time, r Record) *sum {
	key := prefixOf{r.Door, prefixOfSource(r.Source)}
	told := 0
	if s.byPrefix[key] == nil && len(s.byPrefix) >= maxPrefixes {
		key.prefix, told = elsewhere, maxSingle
	}
	of := s.byPrefix[key]
	if of == nil {
		of = &sum{prefixOf: key, since: now, single: told, addresses: make(map[string]bool)}
		of.at = s.quiet.PushBack(of)
		s.byPrefix[key] = of
	}
	return of
}

// prefixOfSource returns the prefix that a source is summed up in; a source that is
// not an address is its own.
func prefixOfSource(source string) string {
	p, err := netip.ParsePrefix(source)
	if err != nil {
		a, err := netip.ParseAddr(source)
		if err != nil {
			return source
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	bits := lenIPv6
	if p.Addr().Is4() {
		bits = lenIPv4
	}
	if p, err = p.Addr().Prefix(min(bits, p.Bits())); err != nil {
		return source
	}
	return p.String()
}

// Due returns the sums whose minute is over, and forgets prefixes from which
// nothing came for a minute.
func (s *Sums) Due(now time.Time) []Record {
	out := s.tell(now, now.Add(-sumInterval))
	for e := s.quiet.Front(); e != nil && over(e, now.Add(-sumInterval)); e = s.quiet.Front() {
		s.quiet.Remove(e)
		delete(s.byPrefix, e.Value.(*sum).prefixOf)
	}
	return out
}

// All returns all sums that are left, for when the daemon ends.
func (s *Sums) All(now time.Time) []Record { return s.tell(now, now) }

// tell returns the sums that have been loud since the given time or longer.
func (s *Sums) tell(now, since time.Time) []Record {
	var out []Record
	for e := s.loud.Front(); e != nil && over(e, since); e = s.loud.Front() {
		of := e.Value.(*sum)
		out = append(out, of.record(now))
		s.loud.Remove(e)
		of.more, of.since, of.at = 0, now, s.quiet.PushBack(of)
		clear(of.addresses)
	}
	return out
}

func over(e *list.Element, since time.Time) bool { return !e.Value.(*sum).since.After(since) }

// record returns the sum as a record.
func (of *sum) record(now time.Time) Record {
	who, source := "one address", of.prefix
	switch n := len(of.addresses); {
	case n >= maxAddresses:
		who = fmt.Sprintf("at least %d addresses", n)
	case n > 1:
		who = fmt.Sprintf("%d addresses", n)
	}
	if source == elsewhere {
		source, who = "", who+" in more networks than are counted separately"
	}
	return Record{Time: now, Door: of.door, Event: EventRefused, Source: source, By: of.latest.By, Count: of.more,
		Reason: fmt.Sprintf("%d more in %v from %s; the last, %s: %s", of.more,
			now.Sub(of.since).Round(time.Second), who, of.latest.Source, of.latest.Reason)}
}
