package seal

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		code := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "code"))
		text := FormatCode(code)
		for _, as := range []string{text, strings.ToLower(text), strings.ReplaceAll(text, "-", ""), " " + strings.ReplaceAll(text, "-", "  ") + "\n",
			strings.NewReplacer("0", "o", "1", "l").Replace(text)} {
			if got, err := ParseCode(as); err != nil || got != code {
				t.Errorf("%q: %x, %v", as, got, err)
			}
		}
		at := rapid.IntRange(0, len(text)-1).Draw(t, "at")
		for _, bad := range []string{text[:at], text[:at] + text[at+1:] + "7777", text + "0", text[:at] + "!" + text[at+1:]} {
			if got, err := ParseCode(bad); err == nil {
				t.Errorf("%q was read as %x", bad, got)
			}
		}
	})
	if _, err := ParseCode("0000-0000-0000-0000-0000-0000-0000"); err == nil || !strings.Contains(err.Error(), "mistyped") {
		t.Error(err)
	}
}
