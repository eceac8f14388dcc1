package output

import (
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
