package share

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var example = Knock{
	Door: "ssh", Host: "gate.example.org", Touch: []uint16{59000, 59002}, Wait: 22,
	Then: "Connect within 30s.", Made: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), Each: 3 * time.Second,
}

// TestGolden: what users get to read is what somebody has last read in testdata.
func TestGolden(t *testing.T) {
	for name, text := range map[string]string{
		"knock.txt": example.Text(), "knock.sh": example.Shell(), "knock.ps1": example.PowerShell(),
	} {
		want, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), text); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// TestPowerShellHoldsTogether checks what can be checked without PowerShell:
// quotes and brackets close in order, and nothing is used that version 5.1
// does not know.
func TestPowerShellHoldsTogether(t *testing.T) {
	text := example.PowerShell()
	for i, line := range strings.Split(text, "\n") {
		for _, c := range []byte(line) {
			if c < ' ' || c > '~' {
				// 5.1 reads a file without a mark in the system's code page.
				t.Errorf("line %d has the byte %#x: %s", i+1, c, line)
			}
		}
	}
	for _, word := range []string{"&&", "||", "??", " ? ", "ForEach-Object -Parallel", "clean {", "$host", "@door@", "@each@"} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(word)) {
			t.Errorf("it contains %q, which 5.1 does not know, or uses for something else", word)
		}
	}
	if left := unclosed(text); left != "" {
		t.Errorf("%q is not closed", left)
	}
}

// unclosed returns the brackets and quotes of a PowerShell text that have no
// partner. It understands comments, both kinds of strings, and $( ) within strings.
func unclosed(text string) string {
	var open []byte // '(', '{', '[' and '"'
	partner := map[byte]byte{')': '(', '}': '{', ']': '['}
	for i := 0; i < len(text); i++ {
		c := text[i]
		inString := len(open) > 0 && open[len(open)-1] == '"'
		switch {
		case inString && c == '"':
			open = open[:len(open)-1]
		case inString && strings.HasPrefix(text[i:], "$("):
			open = append(open, '(')
			i++
		case inString:
		case c == '#':
			i += strings.IndexByte(text[i:], '\n')
		case c == '\'':
			end := strings.IndexByte(text[i+1:], '\'')
			if end < 0 {
				return text[i:]
			}
			i += end + 1
		case strings.IndexByte(`"({[`, c) >= 0:
			open = append(open, c)
		case partner[c] != 0:
			if len(open) == 0 || open[len(open)-1] != partner[c] {
				return string(append(open, c))
			}
			open = open[:len(open)-1]
		}
	}
	return string(open)
}

func TestUnclosed(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "{ ( ) }": "", `"a $(b "c)") )"`: "", "'(' # {\n": "", "{ (": "{(", `"`: `"`, "(}": "(}", "'": "'",
	} {
		if got := unclosed(text); got != want {
			t.Errorf("unclosed(%q) = %q, want %q", text, got, want)
		}
	}
}
