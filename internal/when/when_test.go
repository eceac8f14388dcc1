package when

import (
	"testing"
	"time"
)

const moment = "2006-01-02 15:04:05 -0700"

func TestParse(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("time zones are not installed:", err)
	}
	now := time.Date(2026, 11, 24, 12, 30, 15, 0, berlin)
	for s, want := range map[string]string{
		"now": "2026-11-24 12:30:15 +0100", "today": "2026-11-24 00:00:00 +0100", "yesterday": "2026-11-23 00:00:00 +0100",
		"03:00": "2026-11-24 03:00:00 +0100", "23:59:58": "2026-11-24 23:59:58 +0100", "2026-11-20": "2026-11-20 00:00:00 +0100",
		"2026-07-01 03:00": "2026-07-01 03:00:00 +0200", "2026-07-01 03:00:07": "2026-07-01 03:00:07 +0200", "2026-07-01T03:00": "2026-07-01 03:00:00 +0200",
		"2026-11-24T03:00:00Z": "2026-11-24 04:00:00 +0100", "2026-11-24T03:00:00.5+05:00": "2026-11-23 23:00:00 +0100",
		"-2h": "2026-11-24 10:30:15 +0100", "2h ago": "2026-11-24 10:30:15 +0100", "-1d2h30m15s": "2026-11-23 10:00:00 +0100", "1w ago": "2026-11-17 12:30:15 +0100",
		"1h 30m ago": "2026-11-24 11:00:15 +0100", "-10000w": "", "2h": "", "-2h ago": "", "-2": "", "-1.5h": "", "": "", "24:00": "", "2026-02-30": "", "tomorrow": "",
		"2026-10-25 02:30": "2026-10-25 02:30:00 +0200",
	} {
		got, err := Parse(s, now, false)
		if text := got.In(berlin).Format(moment); want != "" && (err != nil || text != want) || want == "" && err == nil {
			t.Errorf("%q: got %s, %v, want %s", s, text, err, want)
		}
	}
	// Of an hour that comes twice, each can be had.
	for _, tt := range []struct {
		zone, s, first, second string
	}{
		{"Europe/Berlin", "2026-10-25 02:30", "2026-10-25 02:30:00 +0200", "2026-10-25 02:30:00 +0100"},
		{"America/New_York", "2026-11-01 01:30", "2026-11-01 01:30:00 -0400", "2026-11-01 01:30:00 -0500"},
		{"America/Havana", "2026-11-01", "2026-11-01 00:00:00 -0400", "2026-11-01 00:00:00 -0500"},
		{"Australia/Lord_Howe", "2026-04-05 01:45", "2026-04-05 01:45:00 +1100", "2026-04-05 01:45:00 +1030"},
	} {
		zone, err := time.LoadLocation(tt.zone)
		if err != nil {
			t.Fatal(err)
		}
		for later, want := range map[bool]string{false: tt.first, true: tt.second} {
			got, err := Parse(tt.s, now.In(zone), later)
			if text := got.Format(moment); err != nil || text != want {
				t.Errorf("%s in %s, the later: %v: got %s, %v, want %s", tt.s, tt.zone, later, text, err, want)
			}
		}
	}
}

// The same goes for a midnight that comes twice.
func TestMidnightTwice(t *testing.T) {
	havana, err := time.LoadLocation("America/Havana")
	if err != nil {
		t.Fatal(err)
	}
	for later, want := range map[bool]string{false: "2026-11-01 00:00:00 -0400", true: "2026-11-01 00:00:00 -0500"} {
		for s, day := range map[string]int{"today": 1, "yesterday": 2} {
			got, err := Parse(s, time.Date(2026, 11, day, 12, 0, 0, 0, havana), later)
			if text := got.Format(moment); err != nil || text != want {
				t.Errorf("%s, the later: %v: got %s, %v, want %s", s, later, text, err, want)
			}
		}
	}
}
