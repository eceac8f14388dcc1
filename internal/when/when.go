// Package when reads times as people write them: "2026-11-24 03:00", "yesterday",
// "2h ago". It has no clock.
package when

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// ago matches how long ago something was.
var ago = regexp.MustCompile(`^([0-9]{1,4}[wdhms])+$`)

var part = regexp.MustCompile(`([0-9]+)([wdhms])`)

var units = map[string]time.Duration{"w": 7 * 24 * time.Hour, "d": 24 * time.Hour, "h": time.Hour, "m": time.Minute, "s": time.Second}

// Parse reads a time as people write it, in the zone of now. If clocks show two moments
// alike, when summer time ends, it returns the earlier one, or the later one if later is
// set. The error has the text, and what is allowed.
func Parse(s string, now time.Time, later bool) (time.Time, error) {
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	switch s {
	case "now":
		return now, nil
	case "today":
		return oneOfTwo(midnight, later), nil
	case "yesterday":
		return oneOfTwo(midnight.AddDate(0, 0, -1), later), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	span, minus := strings.CutPrefix(s, "-")
	span, before := strings.CutSuffix(span, " ago")
	if span = strings.ReplaceAll(span, " ", ""); minus != before && ago.MatchString(span) {
		for _, p := range part.FindAllStringSubmatch(span, -1) {
			n, _ := strconv.Atoi(p[1]) // at most four digits
			now = now.Add(-time.Duration(n) * units[p[2]])
		}
		return now, nil
	}
	for _, form := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly, "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.ParseInLocation(form, s, now.Location()); err == nil {
			return oneOfTwo(t, later), nil
		}
	}
	for _, form := range []string{"15:04:05", "15:04"} {
		if t, err := time.Parse(form, s); err == nil {
			t = time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, now.Location())
			return oneOfTwo(t, later), nil
		}
	}
	return now, fmt.Errorf("%q: allowed are a time such as \"2026-11-24 03:00\", \"2026-11-24\", \"03:00\" (of today), "+
		"today, yesterday, now, \"-2h\" or \"2h ago\", and one as in RFC 3339", s)
}

// oneOfTwo returns the earlier or the later one of the moments that a clock shows as t.
// Clocks are put back by an hour, or, on Lord Howe Island, by half an hour.
func oneOfTwo(t time.Time, later bool) time.Time {
	for _, d := range []time.Duration{30 * time.Minute, time.Hour} {
		if !later {
			d = -d
		}
		if other := t.Add(d); other.Format(time.DateTime) == t.Format(time.DateTime) {
			return other
		}
	}
	return t
}
