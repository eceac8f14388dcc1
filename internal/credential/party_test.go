package credential

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	now  = time.Date(2026, 11, 27, 10, 0, 0, 0, time.UTC) // a Friday
	home = netip.MustParseAddr("192.0.2.7")
	aKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFhmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZm alice@laptop"
)

// defaults fills in what a test does not care for.
func defaults(a Ask) Ask {
	if a.Now.IsZero() {
		a.Now = now
	}
	if a.Zone == nil {
		a.Zone = time.UTC
	}
	if a.Door == "" {
		a.Door = "ssh"
	}
	if !a.Source.IsValid() {
		a.Source = home
	}
	return a
}

// partyOf is the party of lines with one key.
func partyOf(t testing.TB, options ...string) *Party {
	t.Helper()
	p := &Party{ID: mustKey(t, aKey).Fingerprint.String(), Name: "alice@laptop"}
	for _, o := range options {
		p.options = append(p.options, mustKey(t, o+" "+aKey).Options)
	}
	return p
}

func TestPermits(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	at := func(s string) time.Time {
		t.Helper()
		m, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name    string
		options []string
		ask     Ask
		want    Terms
		refusal string // its text; "" for none
	}{
		{name: "nothing is restricted", options: []string{""}},
		{name: "one of its doors", options: []string{`doors="web, ssh"`}},
		{name: "another door", options: []string{`doors="web"`},
			refusal: "your key does not open this door: knock at another, or ask the gateway's operator to add this one (doors)"},
		{name: "a longest grant", options: []string{`max-open-for="90m"`}, want: Terms{AtMost: 90 * time.Minute}},
		{name: "one address", options: []string{"one-address"}, want: Terms{OneAddress: true}},
		{name: "expires", options: []string{`expiry-time="202611271030Z"`}, want: Terms{AtMost: 30 * time.Minute}},
		{name: "the shortest counts", options: []string{`expiry-time="202611271030Z",max-open-for="10m",schedule="00:00-10:20"`}, want: Terms{AtMost: 10 * time.Minute}},
		{name: "has expired", options: []string{`expiry-time="20261127100000Z"`},
			refusal: "your key has expired on Fri 2026-11-27 10:00 UTC: the gateway's operator can give it a later expiry-time"},
		{name: "expires at midnight of the gateway's zone", options: []string{`expiry-time="20261128"`}, ask: Ask{Zone: berlin},
			want: Terms{AtMost: 13 * time.Hour}},
		{name: "hours end", options: []string{`schedule="Mon-Fri 08:00-18:00, Sat 09:00-12:00"`}, ask: Ask{Zone: berlin},
			want: Terms{AtMost: 7 * time.Hour}},
		{name: "outside hours", options: []string{`schedule="Mon-Fri 08:00-18:00, Sat 09:00-12:00"`},
			ask:     Ask{Zone: berlin, Now: at("2026-11-27T17:00:00Z")},
			refusal: "your key does not count at this hour, only from Sat 2026-11-28 09:00 CET: knock then, or ask the gateway's operator for other hours (schedule)"},
		{name: "from there", options: []string{`from="198.51.100.0/24,192.0.2.0/24"`}},
		{name: "not from there", options: []string{`from="198.51.100.0/24,2001:db8::/32"`},
			refusal: "your key does not count from this address: knock from one that the gateway's operator has admitted (from)"},
		{name: "for another address", options: []string{""}, ask: Ask{Address: addr("192.0.2.8")},
			refusal: "your key may not ask for another address than its own: knock from that address, or ask the gateway's operator (any-address)"},
		{name: "for another address that may", options: []string{"any-address"}, ask: Ask{Address: addr("203.0.113.8")}},
		{name: "for another address that from does not admit", options: []string{`any-address,from="192.0.2.0/24"`}, ask: Ask{Address: addr("203.0.113.8")},
			refusal: "your key does not count from this address: knock from one that the gateway's operator has admitted (from)"},
		{name: "from another address for one that from admits", options: []string{`any-address,from="203.0.113.0/24"`}, ask: Ask{Address: addr("203.0.113.8")},
			refusal: "your key does not count from this address: knock from one that the gateway's operator has admitted (from)"},
		{name: "for its own address", options: []string{""}, ask: Ask{Address: home}},
		{name: "a second line permits it", options: []string{`doors="web"`, `doors="ssh",max-open-for="1h"`}, want: Terms{AtMost: time.Hour}},
		{name: "the first line that permits it counts", options: []string{`max-open-for="1h"`, `max-open-for="2h"`}, want: Terms{AtMost: time.Hour}},
		{name: "the reason nearest to a yes", options: []string{`doors="web"`, `doors="ssh",expiry-time="20200101Z"`, `from="198.51.100.1"`},
			refusal: "your key has expired on Wed 2020-01-01 00:00 UTC: the gateway's operator can give it a later expiry-time"},
	} {
		got, refusal := partyOf(t, c.options...).Permits(defaults(c.ask))
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: terms (-want +got):\n%s", c.name, d)
		}
		text := ""
		if refusal != nil {
			text = refusal.Text()
		}
		if text != c.refusal {
			t.Errorf("%s: refused with\n%q, want\n%q", c.name, text, c.refusal)
		}
	}
}

// What an operator has done to a party goes before everything else.
func TestLockedAndRevoked(t *testing.T) {
	k := mustKey(t, aKey)
	p := partyOf(t, `doors="web"`)
	p.locked = true
	if got := reasonOf(p, Ask{}); got != Locked {
		t.Errorf("a locked party is refused for %v, want %v", got, Locked)
	}
	p.revoked = true
	if got := reasonOf(p, Ask{}); got != Revoked {
		t.Errorf("a revoked party is refused for %v, want %v", got, Revoked)
	}
	r := NewRing(Origins{Locked: map[string]bool{k.Fingerprint.String(): true}})
	if p := r.party(k.Fingerprint.String(), ""); reasonOf(p, Ask{}) != Locked {
		t.Error("the ring's locks do not count")
	}
}

// A reason is a number that visitors of every version understand the same way.
func TestReasons(t *testing.T) {
	want := []string{"reason-0", "expired", "certificate-expired", "not-yet", "outside-hours", "from", "certificate-from", "door",
		"locked", "revoked", "principals", "critical-option", "untouched", "verification", "other-address", "code-expired", "reason-16"}
	var got []string
	for r := range Reason(17) {
		got = append(got, r.String())
		if text := (Refusal{Reason: r}).Text(); strings.Contains(text, "%!") || len(text) < 50 {
			t.Errorf("the text of %v is %q", r, text)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("reasons (-want +got):\n%s", d)
	}
	if got, want := (Refusal{Reason: 77}).Text(), "the gateway refused, for a reason that is not known here (77): a newer doorward can tell"; got != want {
		t.Errorf("an unknown reason says %q, want %q", got, want)
	}
}

func TestNames(t *testing.T) {
	for comment, want := range map[string]string{
		"":                             "",
		"alice@laptop":                 "alice@laptop",
		"  alice   at home ":           "alice at home",
		"cardno:0006 1234":             "cardno:0006 1234",
		"root SHA256:AAAA":             "root",
		"sha256:x secret:1 rescue:2 b": "b",
		"al\x1b[31mice\u202e":          "al\ufffd[31mice\ufffd",
		"tab\tand\u00a0space":          "tab\ufffdand\ufffdspace",
		strings.Repeat("ä", 40):        strings.Repeat("ä", 30) + "…",
	} {
		if got := Name(comment); got != want {
			t.Errorf("Name(%q) = %q, want %q", comment, got, want)
		}
		by := (&Party{ID: "SHA256:x", Name: Name(comment)}).By()
		if got := ID(by); got != "SHA256:x" {
			t.Errorf("ID(%q) = %q, want SHA256:x", by, got)
		}
	}
}
