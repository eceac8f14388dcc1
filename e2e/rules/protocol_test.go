package rules

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// requirement is a numbered item of docs/PROTOCOL.md, with the lines that belong to it.
var requirement = regexp.MustCompile(`(?m)^(\d+)\. .*\n(?: +\S.*\n)*`)

// Every requirement of the protocol has a number, and names the tests that hold it, which
// exist.
func TestEveryRequirementIsHeld(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "PROTOCOL.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	items := requirement.FindAllStringSubmatch(text, -1)
	if len(items) < 20 {
		t.Fatalf("docs/PROTOCOL.md has %d requirements, want at least 20", len(items))
	}
	for i, item := range items {
		if n := strconv.Itoa(i + 1); item[1] != n {
			t.Errorf("requirement %s comes where %s should", item[1], n)
		}
		if !strings.Contains(item[0], "MUST") {
			t.Errorf("requirement %s requires nothing", item[1])
		}
		tests := holder.FindAllStringSubmatch(item[0], -1)
		if len(tests) == 0 {
			t.Errorf("requirement %s is held by no test", item[1])
		}
		for _, test := range tests {
			if !hasTest(t, test[1], test[2]) {
				t.Errorf("requirement %s is held by %s.%s, which is not there", item[1], test[1], test[2])
			}
		}
	}
	rest := requirement.ReplaceAllString(text, "")
	for _, test := range holder.FindAllStringSubmatch(rest, -1) {
		if !hasTest(t, test[1], test[2]) {
			t.Errorf("docs/PROTOCOL.md names %s.%s, which is not there", test[1], test[2])
		}
	}
	for line := range strings.Lines(rest) {
		if strings.Contains(line, "MUST") && !strings.Contains(line, "RFC 2119") {
			t.Errorf("this is required and has no number: %s", line)
		}
	}
}
