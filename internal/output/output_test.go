package output

import (
	"strings"
	"testing"
	"time"
)

func TestSpell(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", time.Millisecond: "1s", 59 * time.Second: "59s", time.Minute: "1m 00s",
		time.Hour - time.Second: "59m 59s", time.Hour: "1h 00m", 24*time.Hour - time.Second: "23h 59m", 50 * time.Hour: "2d 02h",
	} {
		if got := Spell(d); got != want {
			t.Errorf("Spell(%v) = %q, want %q", d, got, want)
		}
	}
}

// Identities are shortened on a terminal, and nothing that only looks like one.
func TestParty(t *testing.T) {
	const who = "sealed alice SHA256:VqjJCl8CNraVTajJLkzNoPWTq0s6BRnL7YqKqCqDZR/"
	for _, tt := range []struct {
		text  string
		width int
		want  string
	}{
		{who, 0, who},
		{who, 80, "sealed alice SHA256:VqjJCl8CNraV…"},
		{who + ", operator bob (uid 1)", 80, "sealed alice SHA256:VqjJCl8CNraV…, operator bob (uid 1)"},
		{"ci secret:0123456789abcdef0123456789abcdef", 80, "ci secret:0123456789ab…"},
		{"SHA256:short", 80, "SHA256:short"},
		{"alice cert:7:" + strings.Repeat("_", 48) + who[len("sealed alice"):], 80, "alice cert:7 SHA256:VqjJCl8CNraV…"},
		{"alice cert:7:" + strings.Repeat("_", 48) + who[len("sealed alice"):], 0, "alice cert:7:" + strings.Repeat("_", 48) + who[len("sealed alice"):]},
		{"a\x1b[31mb", 80, Text("a\x1b[31mb")},
	} {
		if got := Party(tt.text, tt.width); got != tt.want {
			t.Errorf("Party(%q, %d) = %q, want %q", tt.text, tt.width, got, tt.want)
		}
	}
}
