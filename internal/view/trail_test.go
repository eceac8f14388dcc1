package view

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
)

// The end of a grant has a date and a zone where they differ from the record's.
func TestTrailTimes(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("time zones are not installed:", err)
	}
	summer := time.Date(2026, 10, 24, 23, 50, 0, 0, time.UTC)
	for length, want := range map[time.Duration]string{
		5 * time.Minute: "2026-10-25 01:50:00 +0200 until 01:55:00", 2 * time.Hour: "2026-10-25 01:50:00 +0200 until 2026-10-25 02:50:00 +0100",
		-2 * time.Hour: "2026-10-25 01:50:00 +0200 until 2026-10-24 23:50:00",
	} {
		u := summer.Add(length)
		cells := (&Trail{zone: berlin}).cells(audit.Record{Time: summer, Until: &u})
		if got := cells[0] + " " + cells[4]; got != want {
			t.Errorf("%v: got %q, want %q", length, got, want)
		}
	}
}

// Words are wrapped, so that no line is wider than the terminal.
func TestTrailOnATerminal(t *testing.T) {
	u := noon.Add(20 * time.Hour)
	r := audit.Record{Time: noon, Door: "ssh", Event: audit.EventGranted, Source: "2001:db8:1::/64", By: "operator alice (uid 1000)",
		Reason: strings.Repeat("because of it ", 5), Until: &u}
	for columns, want := range map[int]string{
		0: "2026-11-24 12:00:00 +0000  granted   ssh  2001:db8:1::/64  by operator alice (uid 1000): because of it because of it because of it because of it because of it  (until 2026-11-25 08:00:00)\n",
		80: `2026-11-24 12:00:00 +0000  granted   ssh  2001:db8:1::/64
    by operator alice (uid 1000): because of it because of it because of it
    because of it because of it  (until 2026-11-25 08:00:00)
`,
		110: `2026-11-24 12:00:00 +0000  granted   ssh  2001:db8:1::/64  by operator alice (uid 1000): because of it because
                                                           of it because of it because of it because of it
                                                           (until 2026-11-25 08:00:00)
`,
	} {
		var out strings.Builder
		tr := &Trail{w: &out, zone: time.UTC, width: columns}
		if err := tr.Record(r); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, out.String()); d != "" {
			t.Errorf("%d columns (-want +got):\n%s", columns, d)
		}
	}
}
