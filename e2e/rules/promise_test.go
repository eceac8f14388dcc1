package rules

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	promise = regexp.MustCompile(`(?m)^## (P\d+) .*$`)
	holder  = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")
)

// Every sentence of the promise names the tests that hold it, and they exist.
func TestEveryPromiseIsHeld(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "PROMISE.md"))
	if err != nil {
		t.Fatal(err)
	}
	heads := promise.FindAllStringSubmatchIndex(string(text), -1)
	if len(heads) < 9 {
		t.Fatalf("docs/PROMISE.md has %d promises, want at least 9", len(heads))
	}
	for i, h := range heads {
		end := len(text)
		if i+1 < len(heads) {
			end = heads[i+1][0]
		}
		name, section := string(text[h[2]:h[3]]), string(text[h[1]:end])
		_, held, _ := strings.Cut(section, "Held by")
		tests := holder.FindAllStringSubmatch(held, -1)
		if len(tests) == 0 {
			t.Errorf("%s is held by no test", name)
		}
		for _, test := range tests {
			if !hasTest(t, test[1], test[2]) {
				t.Errorf("%s is held by %s.%s, which is not there", name, test[1], test[2])
			}
		}
	}
}

// Every row of who may do what names the tests that show it, and they exist.
func TestEveryThreatIsTested(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "THREATS.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "## Who may do what")
	table, _, _ = strings.Cut(table, "\n## ")
	rows := 0
	for line := range strings.Lines(table) {
		who, rest, isRow := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		if !strings.HasPrefix(line, "| ") || !isRow || who == "who" {
			continue
		}
		rows++
		tests := holder.FindAllStringSubmatch(rest, -1)
		if len(tests) == 0 {
			t.Errorf("the row of %q names no test", who)
		}
		for _, test := range tests {
			if !hasTest(t, test[1], test[2]) {
				t.Errorf("the row of %q names %s.%s, which is not there", who, test[1], test[2])
			}
		}
	}
	if rows < 15 {
		t.Errorf("docs/THREATS.md has %d rows of who may do what, want at least 15", rows)
	}
}

// hasTest says whether a package's tests have a function.
func hasTest(t *testing.T, pkg, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(pkg), "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
