package credential

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Schedule is the hours of a week, as a clock on the wall shows them. When clocks are
// set forward, the hour that is left out is not there; when they are set back, an hour
// that is there twice counts twice.
type Schedule struct {
	spans []span // in order, apart from each other
}

// span is a part of the week in seconds from Monday's beginning; to is not in it.
type span struct{ from, to int }

const (
	day  = 24 * 60 * 60
	week = 7 * day
)

var weekdays = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

// ParseSchedule reads hours such as "Mon-Fri 08:00-18:00, Sat 09:00-12:00". Days can be
// listed ("Mon,Wed 08:00-12:00"), and without any it is all. Hours that end before they
// begin end on the next day: "Fri 22:00-06:00".
func ParseSchedule(text string) (*Schedule, error) {
	parts, err := listed(text, "days with hours")
	if err != nil {
		return nil, err
	}
	var spans []span
	var days []int // of the parts before that have no hours yet
	for _, p := range parts {
		words := strings.Fields(p)
		hours := words[len(words)-1]
		if !strings.Contains(hours, ":") {
			hours, words = "", append(words, "")
		}
		if len(words) > 2 {
			return nil, badHours(p)
		}
		if len(words) == 2 {
			named, ok := parseDays(words[0])
			if !ok {
				return nil, badHours(p)
			}
			days = append(days, named...)
		}
		if hours == "" {
			continue
		}
		from, to, ok := parseHours(hours)
		if !ok {
			return nil, badHours(p)
		}
		if days == nil {
			days = []int{0, 1, 2, 3, 4, 5, 6}
		}
		for _, d := range days {
			spans = append(spans, span{d*day + from, d*day + to})
		}
		days = nil
	}
	if days != nil {
		return nil, fmt.Errorf("%s: days without hours at the end: a whole day is 00:00-24:00", shown(text))
	}
	return &Schedule{spans: joined(spans)}, nil
}

func badHours(part string) error {
	return fmt.Errorf(`%s: allowed are days (Mon Tue Wed Thu Fri Sat Sun, or Mon-Fri) and hours (00:00-24:00), as "Mon-Fri 08:00-18:00, Sat 09:00-12:00"`,
		shown(part))
}

// parseDays reads "Mon" or "Fri-Mon".
func parseDays(text string) (days []int, ok bool) {
	first, last, ranged := strings.Cut(strings.ToLower(text), "-")
	if !ranged {
		last = first
	}
	from, to := slices.Index(weekdays, first), slices.Index(weekdays, last)
	if from < 0 || to < 0 {
		return nil, false
	}
	for d := from; ; d = (d + 1) % 7 {
		if days = append(days, d); d == to {
			return days, true
		}
	}
}

// parseHours reads "08:00-18:00" as seconds of a day; to is after from, and up to a day
// later.
func parseHours(text string) (from, to int, ok bool) {
	first, last, ranged := strings.Cut(text, "-")
	from, fine := parseClock(first)
	to, too := parseClock(last)
	if !ranged || !fine || !too || from == day || from == to {
		return 0, 0, false
	}
	if to < from {
		to += day
	}
	return from, to, true
}

// parseClock reads "08:00" as seconds of a day, up to "24:00".
func parseClock(text string) (int, bool) {
	h, m, ok := strings.Cut(text, ":")
	hour, err := strconv.ParseUint(h, 10, 8)
	minute, err2 := strconv.ParseUint(m, 10, 8)
	n := int(hour)*60*60 + int(minute)*60
	return n, ok && err == nil && err2 == nil && len(h) <= 2 && len(m) == 2 && minute < 60 && n <= day
}

// joined puts spans in order and joins those that meet. What goes on after Sunday goes
// on on Monday.
func joined(spans []span) (out []span) {
	for _, s := range spans {
		if s.to > week {
			spans = append(spans, span{0, s.to - week})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return a.from - b.from })
	for _, s := range spans {
		s.to = min(s.to, week)
		if n := len(out); n > 0 && s.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, s.to)
			continue
		}
		out = append(out, s)
	}
	return out
}

// Covers says whether t, in its own time zone, is within the hours.
func (s *Schedule) Covers(t time.Time) bool {
	inside, _ := s.look(t)
	return inside
}

// look says whether t is within the hours, and how long that stays so if no clock is
// set meanwhile; 0: for ever.
func (s *Schedule) look(t time.Time) (inside bool, stays time.Duration) {
	at := ofWeek(t)
	for _, p := range s.spans {
		if at < p.from {
			return false, s.until(t, p.from)
		}
		if at >= p.to {
			continue
		}
		if p.to == week && s.spans[0].from == 0 { // on into the next week
			if p.from == 0 {
				return true, 0
			}
			return true, s.until(t, week+s.spans[0].to)
		}
		return true, s.until(t, p.to)
	}
	return false, s.until(t, week+s.spans[0].from)
}

// until is how long it takes from t to a second of its week.
func (s *Schedule) until(t time.Time, second int) time.Duration {
	return time.Duration(second-ofWeek(t))*time.Second - time.Duration(t.Nanosecond())
}

// ofWeek is how many seconds of the week a clock on the wall has shown.
func ofWeek(t time.Time) int {
	return (int(t.Weekday())+6)%7*day + t.Hour()*60*60 + t.Minute()*60 + t.Second()
}

// Turns is when the hours end that t is within, or begin that it is not, in the time
// zone of t; false: never.
func (s *Schedule) Turns(t time.Time) (time.Time, bool) {
	inside, _ := s.look(t)
	// Clocks are set a few times in a year: each pass ends at one, or finds the moment.
	for range 64 {
		same, stays := s.look(t)
		if same != inside {
			return t, true
		}
		_, set := t.ZoneBounds()
		turn := t.Add(stays)
		switch {
		case stays > 0 && (set.IsZero() || turn.Before(set)):
			return turn, true
		case set.IsZero():
			return time.Time{}, false
		}
		t = set
	}
	return time.Time{}, false
}
