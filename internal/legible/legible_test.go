package legible

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// hostile are characters that a terminal acts upon, or that fool a reader.
var hostile = map[string]rune{
	"escape": 0x1b, "delete": 0x7f, "C1 control sequence introducer": 0x9b, "C1 operating system command": 0x9d,
	"first C1": 0x80, "last C1": 0x9f, "line separator": 0x2028, "paragraph separator": 0x2029,
	"right-to-left override": 0x202e, "right-to-left isolate": 0x2067, "left-to-right mark": 0x200e,
	"zero width joiner": 0x200d, "tag": 0xe0041, "byte order mark": 0xfeff,
}

func TestNothingHostileIsShown(t *testing.T) {
	for name, r := range hostile {
		s := "al" + string(r) + "ice"
		if got := Text(s); got != "al\ufffdice" {
			t.Errorf("%s: Text(%q) = %q, want U+FFFD in its place", name, s, got)
		}
		if got := Lines(s + "\n" + s); got != "al\ufffdice\nal\ufffdice" {
			t.Errorf("%s: Lines = %q", name, got)
		}
	}
	for _, s := range []string{"", "alice", "Ålice ± 漢字 😀", "al\ufffdice"} {
		if got := Text(s); got != s {
			t.Errorf("Text(%q) = %q, want it as it is", s, got)
		}
	}
	if got := Text("a\xffb\tc\nd"); got != "a\ufffdb\ufffdc\ufffdd" {
		t.Errorf("Text = %q", got)
	}
}

// Whatever the JSON says, it says the same once escaped, and has nothing hostile.
func TestJSONSaysTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rapid.OneOf(rapid.Rune(), rapid.SampledFrom([]rune{0x1b, 0x7f, 0x80, 0x9b, 0x2028, 0x202e, 0xe0041, 0xfeff, 0xfffd}))
		in := []string{string(rapid.SliceOf(r).Draw(t, "text")), rapid.String().Draw(t, "more")}
		var b strings.Builder
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(rapid.Bool().Draw(t, "html"))
		enc.SetIndent("", rapid.SampledFrom([]string{"", "  "}).Draw(t, "indent"))
		if err := enc.Encode(in); err != nil {
			t.Fatal(err)
		}
		escaped := JSON([]byte(b.String()))
		var back, want []string
		if err := json.Unmarshal(escaped, &back); err != nil {
			t.Fatalf("JSON(%q) = %q: %v", b.String(), escaped, err)
		}
		if err := json.Unmarshal([]byte(b.String()), &want); err != nil {
			t.Fatal(err)
		}
		if len(back) != 2 || back[0] != want[0] || back[1] != want[1] {
			t.Fatalf("JSON(%q) says %q", b.String(), back)
		}
		for _, r := range string(escaped) {
			if r != '\n' && !unicode.IsPrint(r) || r == utf8.RuneError && !strings.Contains(b.String(), "\ufffd") {
				t.Fatalf("JSON(%q) = %q has %U", b.String(), escaped, r)
			}
		}
	})
}
