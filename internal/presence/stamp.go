//go:build linux

package presence

import (
	"strings"
	"time"
)

// ahead is how far in the future a timestamp without a year may be before it is taken for
// last year's: the clock and zone of a log's writer are sometimes wrong.
const ahead = 24 * time.Hour

// stamp is the time that a line of a log begins with.
type stamp struct {
	time.Time
	yearless bool // the year was inferred
}

// cutStamp reads the stamp that line begins with and returns the rest, from the space
// after it on. Known are RFC 3164's "Nov  2 07:50:01", also with a fraction of the
// second; RFC 3339's "2026-11-02T07:50:01.25+01:00", also with a zone like "+0100", which
// older journalctl writes as short-iso; and RFC 5424's "<38>1
// 2026-11-02T07:50:01.25+01:00". A stamp without a zone is in ref's location; for one
// without a year see latest. For anything else it returns false: no day is guessed. The
// rest is then "", unless the form is known.
func cutStamp(line string, ref time.Time) (stamp, string, bool) {
	switch {
	case line == "":
		return stamp{}, "", false
	case line[0] == '<':
		return cutProtocolStamp(line, ref)
	case line[0] >= '0' && line[0] <= '9':
		return cutISO(line, ref)
	}
	return cutBSD(line, ref)
}

// cutProtocolStamp reads "<PRI>1 STAMP" as strictly as RFC 5424, section 6, has
// it: a zone with a colon, no more than six digits of a fraction.
func cutProtocolStamp(line string, ref time.Time) (stamp, string, bool) {
	priority, rest, ok := strings.Cut(line[1:], ">1 ")
	if !ok || priority != "0" && !isNumber(priority, 191) {
		return stamp{}, "", false
	}
	st, after, ok := cutISO(rest, ref)
	if !ok {
		return stamp{}, "", false
	}
	text := rest[:len(rest)-len(after)]
	zone := strings.LastIndexAny(text, "Z+-")
	if len(text[:zone]) > len("2006-01-02T15:04:05.999999") || strings.Contains(text, ",") ||
		text[zone] != 'Z' && text[len(text)-3] != ':' {
		return stamp{}, "", false
	}
	return st, after, true
}

func cutISO(line string, ref time.Time) (stamp, string, bool) {
	// time.Parse takes a fraction after the seconds whatever the layout says,
	// and an hour of one digit.
	end := strings.IndexByte(line, ' ')
	if end <= len("2006-01-02T15:04:05") || line[len("2006-01-02T15")] != ':' {
		return stamp{}, "", false
	}
	for _, layout := range []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700"} {
		if t, err := time.Parse(layout, line[:end]); err == nil && soundZone(t, line[:end]) && soundYear(t) {
			return stamp{Time: t.In(ref.Location())}, line[end:], true
		}
	}
	return stamp{}, "", false
}

// soundZone says whether the zone that s ends with is within RFC 3339's 23:59;
// time.Parse takes 24 hours and 60 minutes too.
func soundZone(t time.Time, s string) bool {
	_, east := t.Zone()
	return max(east, -east) < 24*60*60 && (s[len(s)-1] == 'Z' || s[len(s)-2:] <= "59")
}

// soundYear says whether RFC 3339 can write the time in every zone; encoding/json refuses
// other years.
func soundYear(t time.Time) bool { return t.Year() > 0 && t.Year() < 9999 }

func cutBSD(line string, ref time.Time) (stamp, string, bool) {
	// time.Parse takes other numbers of spaces and digits than the layout's.
	const width = len("Nov  2 07:50:01")
	if len(line) <= width || line[5] == ' ' || line[6] != ' ' || line[7] == ' ' || line[9] != ':' {
		return stamp{}, "", false
	}
	end := width + fraction(line[width:])
	if end == len(line) || line[end] != ' ' {
		return stamp{}, "", false
	}
	// "_2" is a day padded with a space; some daemons pad with a zero.
	for _, layout := range []string{"Jan _2 15:04:05 2006", "Jan 02 15:04:05 2006"} {
		// 2000 is a leap year, so every day of a year is one of its days.
		wall, err := time.Parse(layout, line[:end]+" 2000")
		if err != nil {
			continue
		}
		t, ok := latest(wall, ref)
		return stamp{Time: t.Add(time.Duration(wall.Nanosecond())), yearless: true}, line[end:], ok
	}
	return stamp{}, "", false
}

// fraction is the length of the "." and one to nine digits that s begins with, 0
// for none.
func fraction(s string) int {
	if s[0] != '.' {
		return 0
	}
	n := 1
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	if n == 1 || n > len(".999999999") {
		return 0
	}
	return n
}

// latest returns the latest instant whose month, day and time of day in ref's
// location are wall's and that is not more than ahead after ref. If a clock
// that was put back passed that reading twice, it is the second passing unless
// that is still to come. A reading that was skipped since, by a clock put
// forward, is false: the writer's clock is another, and an earlier year would be
// a guess. So is one that no year has.
func latest(wall, ref time.Time) (time.Time, bool) {
	// Eight years reach over 2100, which has no 29 February.
	for year := ref.Year() + 1; year >= ref.Year()-8; year-- {
		first, second, ok := instants(wall, year, ref.Location())
		switch {
		case first.IsZero() || first.After(ref.Add(ahead)):
			continue
		case !ok:
			return time.Time{}, false
		case second.After(ref):
			return first, true
		}
		return second, true
	}
	return time.Time{}, false
}

// instants returns the one or two (else equal) instants of year that read as
// wall in loc, earlier first. For a reading that year's clock skipped it is
// false, with the instant at which a clock that was not put forward would have
// shown it; for a day that year does not have, with zero times.
func instants(wall time.Time, year int, loc *time.Location) (first, second time.Time, ok bool) {
	utc := time.Date(year, wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), wall.Second(), 0, time.UTC)
	if utc.Day() != wall.Day() { // 29 February
		return first, second, false
	}
	// An instant and its reading are less than 26 hours apart, so the offsets
	// a little further out are those on both sides of any change of the clock.
	for _, probe := range []time.Duration{-26 * time.Hour, 26 * time.Hour} {
		_, offset := utc.Add(probe).In(loc).Zone()
		t := utc.Add(-time.Duration(offset) * time.Second).In(loc)
		if t.Hour() != wall.Hour() || t.Minute() != wall.Minute() || t.Day() != wall.Day() {
			if first.IsZero() {
				first = t // should neither fit
			}
			continue
		}
		if !ok || t.Before(first) {
			first = t
		}
		if !ok || t.After(second) {
			second = t
		}
		ok = true
	}
	return first, second, ok
}
