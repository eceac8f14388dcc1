package sealed

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// What stands of a key's grants is what one of its lines still allows: from there, until then,
// at this door.
func TestWhatStandsWhereAndUntil(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t, alice.line(""))
	at := func(n time.Duration) string { return s.now.Add(n).UTC().Format("20060102150405Z") }
	clock := func(n time.Duration) string { return s.now.Add(n).In(time.Local).Format("15:04") }
	here, there := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("198.51.100.7")
	const no = -time.Second
	for options, want := range map[string][2]time.Duration{ // how long a grant here and there may last; 0: for ever
		"":                                    {0, 0},
		`from="192.0.2.0/24"`:                 {0, no},
		`from="!192.0.2.7,*"`:                 {no, 0},
		`doors="panel"`:                       {no, no},
		`expiry-time="` + at(-1) + `"`:        {no, no},
		`expiry-time="` + at(time.Hour) + `"`: {time.Hour, time.Hour},
		`from="198.51.100.7",expiry-time="` + at(time.Minute) + `"`:                                             {no, time.Minute},
		`schedule="` + clock(-2*time.Hour) + "-" + clock(-time.Hour) + `"`:                                      {no, no},
		`from="192.0.2.7",expiry-time="` + at(time.Minute) + `"` + "\n" + `expiry-time="` + at(time.Hour) + `"`: {time.Hour, time.Hour},
		`expiry-time="` + at(time.Minute) + `"` + "\n" + `from="192.0.2.0/24"`:                                  {0, time.Minute},
	} {
		var text string
		for line := range strings.SplitSeq(options, "\n") {
			text += alice.line(line) + "\n"
		}
		if c := s.feed(keysFile, text); len(c.Warnings) > 0 {
			t.Fatalf("%s: %v", options, c.Warnings)
		}
		standing := s.kept.Stands(s.now, "web", "alice "+alice.id())
		for i, source := range []netip.Addr{here, there} {
			got := no
			if standing != nil {
				if until, stands := standing(source); stands && until.IsZero() {
					got = 0
				} else if stands {
					got = until.Sub(s.now).Round(time.Second)
				}
			}
			if got != want[i] {
				t.Errorf("%s: a grant to %s may last %v, want %v", options, source, got, want[i])
			}
		}
	}
}
