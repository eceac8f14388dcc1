package credential

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the same on every machine

	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestSchedule(t *testing.T) {
	const form = "Mon 2006-01-02 15:04:05"
	for _, c := range []struct {
		hours, zone, at string // at: as the clock on the wall shows it
		covers          bool
		turns           string // as RFC 3339, in the zone; "" for never
	}{
		{"Mon-Fri 08:00-18:00, Sat 09:00-12:00", "UTC", "Fri 2026-11-27 08:00:00", true, "2026-11-27T18:00:00Z"},
		{"Mon-Fri 08:00-18:00, Sat 09:00-12:00", "UTC", "Fri 2026-11-27 07:59:59", false, "2026-11-27T08:00:00Z"},
		{"Mon-Fri 08:00-18:00, Sat 09:00-12:00", "UTC", "Fri 2026-11-27 18:00:00", false, "2026-11-28T09:00:00Z"},
		{"Mon-Fri 08:00-18:00, Sat 09:00-12:00", "UTC", "Sat 2026-11-28 12:00:00", false, "2026-11-30T08:00:00Z"},
		// Past midnight, and past the end of the week.
		{"Fri 22:00-06:00", "UTC", "Sat 2026-11-28 05:59:59", true, "2026-11-28T06:00:00Z"},
		{"Fri 22:00-06:00", "UTC", "Fri 2026-11-27 05:00:00", false, "2026-11-27T22:00:00Z"},
		{"Sun 22:00-06:00", "UTC", "Sun 2026-11-29 23:00:00", true, "2026-11-30T06:00:00Z"},
		{"Sun 22:00-06:00", "UTC", "Mon 2026-11-30 05:59:59", true, "2026-11-30T06:00:00Z"},
		{"Sun 22:00-06:00", "UTC", "Mon 2026-11-30 06:00:00", false, "2026-12-06T22:00:00Z"},
		// Lists, all days, days over the end of the week, hours that meet.
		{"Mon,Wed 08:00-10:00", "UTC", "Tue 2026-12-01 09:00:00", false, "2026-12-02T08:00:00Z"},
		{"mon , WED 8:00-10:00", "UTC", "Wed 2026-12-02 09:00:00", true, "2026-12-02T10:00:00Z"},
		{"12:00-13:00", "UTC", "Sun 2026-11-29 12:30:00", true, "2026-11-29T13:00:00Z"},
		{"Sat-Mon 00:00-24:00", "UTC", "Sun 2026-11-29 12:00:00", true, "2026-12-01T00:00:00Z"},
		{"Mon 08:00-12:00, Mon 12:00-14:00, Mon 09:00-10:00", "UTC", "Mon 2026-11-30 09:30:00", true, "2026-11-30T14:00:00Z"},
		{"00:00-24:00", "UTC", "Mon 2026-11-30 09:30:00", true, ""},
		{"00:00-24:00", "Europe/Berlin", "Mon 2026-11-30 09:30:00", true, ""},
		{"20:00-08:00, 08:00-20:00", "UTC", "Mon 2026-11-30 09:30:00", true, ""},
		// Clocks are set forward in the night to 29 March 2026, from 02:00 to 03:00.
		{"Sun 02:00-03:00", "Europe/Berlin", "Sun 2026-03-29 01:30:00", false, "2026-04-05T02:00:00+02:00"},
		{"Sun 02:30-04:00", "Europe/Berlin", "Sun 2026-03-29 01:30:00", false, "2026-03-29T03:00:00+02:00"},
		{"Sun 01:00-02:30", "Europe/Berlin", "Sun 2026-03-29 01:30:00", true, "2026-03-29T03:00:00+02:00"},
		{"Sun 01:00-05:00", "Europe/Berlin", "Sun 2026-03-29 01:30:00", true, "2026-03-29T05:00:00+02:00"},
		{"Sun 08:00-18:00", "Europe/Berlin", "Sat 2026-03-28 20:00:00", false, "2026-03-29T08:00:00+02:00"},
		// They are set back in the night to 25 October 2026, from 03:00 to 02:00.
		{"Sun 01:00-02:30", "Europe/Berlin", "Sun 2026-10-25 01:30:00", true, "2026-10-25T02:30:00+02:00"},
		{"Sun 01:00-04:00", "Europe/Berlin", "Sun 2026-10-25 01:30:00", true, "2026-10-25T04:00:00+01:00"},
		{"Sun 08:00-18:00", "Europe/Berlin", "Sat 2026-10-24 20:00:00", false, "2026-10-25T08:00:00+01:00"},
	} {
		s, err := ParseSchedule(c.hours)
		if err != nil {
			t.Errorf("%s: %v", c.hours, err)
			continue
		}
		at, err := time.ParseInLocation(form, c.at, zone(t, c.zone))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Covers(at); got != c.covers {
			t.Errorf("%q covers %s: %v, want %v", c.hours, c.at, got, c.covers)
		}
		turn, ok := s.Turns(at)
		got := ""
		if ok {
			got = turn.Format(time.RFC3339)
		}
		if got != c.turns {
			t.Errorf("%q at %s turns at %q, want %q", c.hours, c.at, got, c.turns)
		}
	}
}

func TestSchedulesThatAreNone(t *testing.T) {
	for _, s := range []string{"", "Mon", "Mon-Fri", "Mon 08:00", "Mon 08:00-08:00", "Mon 8-10", "Mon 24:00-25:00", "Mon 08:00-10:60",
		"Mon 08:00 - 10:00", "Monday 08:00-10:00", "Mon-Xyz 08:00-10:00", "Mon Tue 08:00-10:00", "Mon 08:00-10:00,", "Mon 08:00-10:00, Tue",
		"Mon -8:00-10:00", "Mon +8:00-10:00", "Mon 008:00-10:00", "Mon 08:0-10:00", "-Mon 08:00-10:00", ",", "08:00-10:00-12:00"} {
		_, err := ParseSchedule(s)
		if err == nil || !strings.Contains(err.Error(), "allowed are") && !strings.Contains(err.Error(), "a whole day is 00:00-24:00") {
			t.Errorf("ParseSchedule(%q): %v, want an error that says what is allowed", s, err)
		}
	}
}

// Whatever the schedule and the zone, nothing changes before the turn, and it is one.
func TestSchedulesTurn(t *testing.T) {
	zones := []*time.Location{time.UTC, zone(t, "Europe/Berlin"), zone(t, "America/St_Johns"), zone(t, "Australia/Lord_Howe"), zone(t, "Africa/Casablanca")}
	part := rapid.StringMatching(`((Mon|Tue|Wed|Thu|Fri|Sat|Sun)(-(Mon|Wed|Sun))? )?(0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]-(0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]`)
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(part, 1, 4).Draw(t, "hours"), ", ")
		s, err := ParseSchedule(text)
		if err != nil {
			t.Skip("hours of no length")
		}
		at := time.Unix(rapid.Int64Range(1_700_000_000, 1_900_000_000).Draw(t, "at"), 0).In(rapid.SampledFrom(zones).Draw(t, "zone"))
		turn, ok := s.Turns(at)
		if !ok {
			turn = at.AddDate(0, 0, 8)
		} else if s.Covers(turn) == s.Covers(at) {
			t.Fatalf("%q at %s: nothing turns at %s", text, at, turn)
		}
		if turn.Sub(at) > 9*24*time.Hour {
			t.Fatalf("%q at %s turns at %s, more than a week later", text, at, turn)
		}
		for m := at; m.Before(turn); m = m.Add(time.Minute) {
			if s.Covers(m) != s.Covers(at) {
				t.Fatalf("%q at %s: turns at %s, before %s", text, at, m, turn)
			}
		}
	})
}
