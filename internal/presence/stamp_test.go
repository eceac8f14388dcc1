//go:build linux

package presence

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func location(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestCutStamp(t *testing.T) {
	const now = "2026-11-24T08:00:00+01:00"
	for _, test := range []struct {
		name, line, ref, zone string
		want                  string // RFC 3339; "" for a stamp that is not known
	}{
		{"rfc 3164", "Nov 24 07:50:01 h", now, "Europe/Berlin", "2026-11-24T07:50:01+01:00"},
		{"padded with a space", "Nov  2 07:50:01 h", now, "Europe/Berlin", "2026-11-02T07:50:01+01:00"},
		{"padded with a zero", "Nov 02 07:50:01 h", now, "Europe/Berlin", "2026-11-02T07:50:01+01:00"},
		{"summer", "Jul  2 07:50:01 h", now, "Europe/Berlin", "2026-07-02T07:50:01+02:00"},
		{"half an hour ahead", "Nov 24 08:30:00 h", now, "Europe/Berlin", "2026-11-24T08:30:00+01:00"},
		{"a day ahead at most", "Nov 25 08:00:00 h", now, "Europe/Berlin", "2026-11-25T08:00:00+01:00"},
		{"more is last year", "Nov 25 08:00:01 h", now, "Europe/Berlin", "2025-11-25T08:00:01+01:00"},
		{"last year's end", "Dec 31 23:59:59 h", "2027-01-01T00:00:05Z", "UTC", "2026-12-31T23:59:59Z"},
		{"new year ahead of the clock", "Jan  1 00:00:03 h", "2026-12-31T23:59:58Z", "UTC", "2027-01-01T00:00:03Z"},
		{"leap day", "Feb 29 12:00:00 h", now, "UTC", "2024-02-29T12:00:00Z"},
		{"leap day over 2100", "Feb 29 12:00:00 h", "2103-06-01T00:00:00Z", "UTC", "2096-02-29T12:00:00Z"},
		{"on a leap day", "Feb 29 11:59:00 h", "2028-02-29T12:00:00Z", "UTC", "2028-02-29T11:59:00Z"},
		// On 25 October 2026 Berlin's clocks went from 3:00 back to 2:00.
		{"the fold, first passing", "Oct 25 02:30:00 h", "2026-10-25T02:35:00+02:00", "Europe/Berlin", "2026-10-25T02:30:00+02:00"},
		{"the fold, second passing", "Oct 25 02:30:00 h", "2026-10-25T02:35:00+01:00", "Europe/Berlin", "2026-10-25T02:30:00+01:00"},
		{"the fold, later", "Oct 25 02:30:00 h", now, "Europe/Berlin", "2026-10-25T02:30:00+01:00"},
		// On 29 March 2026 there was no 2:30. In 2025 there was, but a log that is still
		// being written would have later stamps.
		{"a time that was skipped", "Mar 29 02:30:00 h", now, "Europe/Berlin", ""},
		{"a time that will be skipped", "Mar 29 02:30:00 h", "2026-03-28T01:00:00+01:00", "Europe/Berlin", "2025-03-29T02:30:00+01:00"},
		{"a time that is skipped tomorrow", "Mar 29 02:30:00 h", "2026-03-28T02:30:00+01:00", "Europe/Berlin", ""},
		{"half an hour of daylight saving", "Apr  5 01:45:00 h", "2026-04-10T00:00:00Z", "Australia/Lord_Howe", "2026-04-05T01:45:00+10:30"},
		{"a zone that skips midnight", "Apr 24 00:30:00 h", "2026-11-24T00:00:00Z", "Africa/Cairo", ""},

		{"thousandths", "Nov 24 07:50:01.123 h", now, "Europe/Berlin", "2026-11-24T07:50:01.123+01:00"},
		{"thousandths of the fold", "Oct 25 02:30:00.5 h", "2026-10-25T02:35:00+01:00", "Europe/Berlin", "2026-10-25T02:30:00.5+01:00"},
		{"rfc 5424", "<38>1 2026-11-24T07:50:01.123456+01:00 h", now, "Europe/Berlin", "2026-11-24T07:50:01.123456+01:00"},
		{"rfc 5424, the lowest priority", "<0>1 2026-11-24T06:50:01Z h", now, "Europe/Berlin", "2026-11-24T07:50:01+01:00"},
		{"rfc 3339", "2026-11-24T07:50:01+01:00 h", now, "Europe/Berlin", "2026-11-24T07:50:01+01:00"},
		{"with a fraction", "2026-11-24T07:50:01.123456+01:00 h", now, "Europe/Berlin", "2026-11-24T07:50:01.123456+01:00"},
		{"another zone", "2026-11-24T12:20:01+05:30 h", now, "Europe/Berlin", "2026-11-24T07:50:01+01:00"},
		{"Z", "2026-11-24T06:50:01Z h", now, "Europe/Berlin", "2026-11-24T07:50:01+01:00"},
		{"short-iso", "2026-11-24T07:50:01+0100 h", now, "Europe/Berlin", "2026-11-24T07:50:01+01:00"},
		{"years ago", "2019-11-24T07:50:01+0100 h", now, "Europe/Berlin", "2019-11-24T07:50:01+01:00"},

		{"no zone", "2026-11-24T07:50:01 h", now, "UTC", ""},
		{"a space for the T", "2026-11-24 07:50:01 h", now, "UTC", ""},
		{"with a year", "Nov 24 2026 07:50:01 h", now, "UTC", ""},
		{"another language", "nov. 24 07:50:01 h", now, "UTC", ""},
		{"no such day", "Nov 31 07:50:01 h", now, "UTC", ""},
		{"an hour of one digit", "2026-11-24T7:50:01Z h", now, "UTC", ""},
		{"a zone of a day", "2026-11-24T07:50:01+24:00 h", now, "UTC", ""},
		{"a year before year 0", "0000-01-01T00:00:00+01:00 h", now, "UTC", ""},
		{"a year of five digits", "<38>1 9999-12-31T23:59:59-01:00 h", now, "UTC", ""},
		{"a zone of sixty minutes", "2026-11-24T07:50:01-0160 h", now, "UTC", ""},
		{"an hour padded with a space", "Nov 02  7:50:01 h", now, "UTC", ""},
		{"a day without padding", "Nov 2  07:50:01 h", now, "UTC", ""},
		{"no such hour", "Nov 24 24:00:00 h", now, "UTC", ""},
		{"no thousandths", "Nov 24 07:50:01. h", now, "UTC", ""},
		{"thousandths and no end", "Nov 24 07:50:01.123", now, "UTC", ""},
		{"thousandths that are none", "Nov 24 07:50:01.12x h", now, "UTC", ""},
		{"ten digits of a second", "Nov 24 07:50:01.1234567890 h", now, "UTC", ""},
		{"a comma", "Nov 24 07:50:01,123 h", now, "UTC", ""},
		{"rfc 5424, a comma", "<38>1 2026-11-24T07:50:01,5Z h", now, "UTC", ""},
		{"rfc 5424, seven digits", "<38>1 2026-11-24T07:50:01.1234567Z h", now, "UTC", ""},
		{"rfc 5424, a short zone", "<38>1 2026-11-24T07:50:01+0100 h", now, "UTC", ""},
		{"rfc 5424, no stamp", "<38>1 - h", now, "UTC", ""},
		{"rfc 5424, another version", "<38>2 2026-11-24T07:50:01Z h", now, "UTC", ""},
		{"rfc 5424, no such priority", "<192>1 2026-11-24T07:50:01Z h", now, "UTC", ""},
		{"rfc 5424, a priority with a zero", "<038>1 2026-11-24T07:50:01Z h", now, "UTC", ""},
		{"rfc 5424, another stamp", "<38>1 Nov 24 07:50:01 h", now, "UTC", ""},
		{"seconds since 1970", "1795503001 h", now, "UTC", ""},
		{"nothing", "", now, "UTC", ""},
		{"a stamp alone", "Nov 24 07:50:01", now, "UTC", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			ref, err := time.Parse(time.RFC3339, test.ref)
			if err != nil {
				t.Fatal(err)
			}
			got, rest, ok := cutStamp(test.line, ref.In(location(t, test.zone)))
			if !ok {
				if test.want != "" {
					t.Errorf("cutStamp(%q) finds no stamp, want %s", test.line, test.want)
				}
				return
			}
			if s := got.Format(time.RFC3339Nano); s != test.want {
				t.Errorf("cutStamp(%q) = %s, want %q", test.line, s, test.want)
			}
			if rest != " h" {
				t.Errorf("cutStamp(%q) leaves %q, want %q", test.line, rest, " h")
			}
		})
	}
}

var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Australia/Lord_Howe",
	"Africa/Cairo", "Africa/Casablanca", "Pacific/Auckland", "Pacific/Apia", "Asia/Kathmandu", "America/Havana"}

// Any time of the past year that a syslog daemon writes is read back as the same instant,
// or, if the clock was set back, as the other instant with that time; never as later than
// now.
func TestPastYearReadsBack(t *testing.T) {
	var locs []*time.Location
	for _, z := range zones {
		locs = append(locs, location(t, z))
	}
	start := time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		loc := rapid.SampledFrom(locs).Draw(t, "zone")
		now := start.Add(time.Duration(rapid.Int64Range(0, 6*365*24*3600).Draw(t, "now")) * time.Second).In(loc)
		// A stamp from a day less than a year ago would count as tomorrow's.
		past := now.Add(-time.Duration(rapid.Int64Range(0, 363*24*3600).Draw(t, "ago")) * time.Second)
		got, _, ok := cutStamp(past.Format(time.Stamp)+" host", now)
		if !ok {
			t.Fatalf("%s at %s: no stamp found", past, now)
		}
		if got.Equal(past) {
			return
		}
		apart := got.Sub(past).Abs()
		if got.Format(time.DateTime) != past.Format(time.DateTime) || apart > 2*time.Hour || got.After(now) {
			t.Fatalf("%s at %s: read as %s", past, now, got)
		}
	})
}

// Every second of the hours around each change of the clocks is read back exactly.
func TestClockChangesReadBack(t *testing.T) {
	berlin := location(t, "Europe/Berlin")
	for _, change := range []string{"2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z"} {
		at, _ := time.Parse(time.RFC3339, change)
		for past := at.Add(-3 * time.Hour); past.Before(at.Add(3 * time.Hour)); past = past.Add(7 * time.Second) {
			// If a line is read at once, it is known which of two instants is meant.
			now := past.In(berlin)
			got, _, ok := cutStamp(now.Format(time.Stamp)+" host", now)
			if !ok || !got.Equal(past) {
				t.Fatalf("%s, read at once: got %s, %v", now, got, ok)
			}
		}
	}
}

func TestStampForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[A-Za-z0-9: .+TZ-]{0,40}`).Draw(t, "text")
		now := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
		got, rest, ok := cutStamp(s, now)
		if ok && (!strings.HasSuffix(s, rest) || got.yearless && got.After(now.Add(ahead))) {
			t.Fatalf("cutStamp(%q) = %s, %q", s, got, rest)
		}
	})
}
