package tables

import (
	"fmt"
	"strings"
	"time"
)

// Span is what a duration's key may hold.
type Span struct {
	Unset    time.Duration // the default
	Min, Max time.Duration
	OrNone   bool   // zero is allowed and means none
	Word     string // what may stand instead of a duration, "" for nothing; the caller checks for it
}

const durations = `durations such as "30s", "5m", "1h"`

// Duration reads a duration within its span.
func (v Value) Duration(s Span) (time.Duration, bool) {
	if !v.Given() {
		return s.Unset, true
	}
	text, ok := v.Text(durations + s.orWord())
	if !ok {
		return 0, false
	}
	return v.DurationIn(text, s)
}

// orWord says what may stand instead of a duration.
func (s Span) orWord() string {
	if s.Word == "" {
		return ""
	}
	return fmt.Sprintf(", and %q", s.Word)
}

// DurationIn reads text, which is the value or a part of it, as a duration.
func (v Value) DurationIn(text string, s Span) (time.Duration, bool) {
	d, err := time.ParseDuration(text)
	if err != nil {
		v.Wrong(durationProblem(text), durations+s.orWord())
		return 0, false
	}
	problem := ""
	switch {
	case d == 0 && s.OrNone:
		return 0, true
	case d < 0:
		problem = "negative"
	case d == 0:
		problem = "zero"
	case d < s.Min:
		problem = "too short"
	case d > s.Max:
		problem = "too long"
	default:
		return d, true
	}
	allowed := fmt.Sprintf("%q to %q", Short(s.Min), Short(s.Max))
	if s.OrNone {
		allowed = `"0s" for none, and ` + allowed
	}
	v.Wrong(problem, allowed+s.orWord())
	return 0, false
}

// durationProblem says what keeps text from being a duration.
func durationProblem(text string) string {
	digits := strings.TrimLeft(text, "+-")
	switch {
	case strings.TrimSpace(text) == "":
		return "empty"
	case digits != "" && strings.Trim(digits, "0123456789.") == "":
		return "no unit"
	case strings.ContainsAny(text, " \t"):
		return "a duration has no spaces"
	case strings.HasSuffix(text, "d") || strings.HasSuffix(text, "w"):
		return "days and weeks are not units: write hours"
	}
	return "not a duration"
}

// Short spells a duration as a person would: "1m", not "1m0s".
func Short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Listed writes words as people do: "a", "a and b", "a, b and c".
func Listed(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " and " + words[last]
}
