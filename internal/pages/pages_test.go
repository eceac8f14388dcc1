package pages

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBlocks(t *testing.T) {
	p := &Page{"a.md", strings.Join([]string{
		"# A page", "", "Text.", "", "<!-- test: before, ls -->", "<!-- test: exit 255 -->", "```sh title=\"on your machine\"", "ssh gate", "", "    indented", "```",
		"", "- an item", "    its second line", "", "    make demo", "", "    make test", "end", "", "```", "plain", "```", ""}, "\n")}
	got, err := p.Blocks()
	if err != nil {
		t.Fatal(err)
	}
	want := []*Block{
		{"a.md", 8, "sh", "on your machine", []string{"before, ls", "exit 255"}, "ssh gate\n\n    indented\n"},
		{"a.md", 16, "", "", nil, "make demo\n\nmake test\n"},
		{"a.md", 22, "", "", nil, "plain\n"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("blocks (-want +got):\n%s", d)
	}
}

func TestBlocksThatAreNotUnderstood(t *testing.T) {
	for text, want := range map[string]string{
		"x\n```sh\nls\n":                        "a.md:3: the block of code does not end",
		"```sh {linenums=1}\nls\n```\n":         "a.md:1: \"```sh {linenums=1}\" does not begin a block of code that is understood",
		"```sh title=on-the-gateway\nls\n```\n": "a.md:1: \"```sh title=on-the-gateway\" does not begin a block of code that is understood",
	} {
		if _, err := (&Page{"a.md", text}).Blocks(); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestSpans(t *testing.T) {
	p := &Page{"a.md", "Type `doorward open\nssh` and `ls`.\n\n```sh\n`date`\n\n`who`\n```\n\n`end`\n"}
	if d := cmp.Diff([]string{"doorward open ssh", "ls", "end"}, p.Spans()); d != "" {
		t.Errorf("spans (-want +got):\n%s", d)
	}
}

func TestCommands(t *testing.T) {
	for text, want := range map[string][][]string{
		"ls -l\nwho # am I\n":                        {{"ls", "-l"}, {"who"}},
		"a && b || c; d | e &":                       {{"a"}, {"b"}, {"c"}, {"d"}, {"e"}},
		"a \\\n  b >/dev/null":                       {{"a", "b"}, {"/dev/null"}},
		`say 'one; # two' "" three"four"`:            {{"one"}, {"say", "one; # two", "", "threefour"}},
		`Match host x exec "doorward knock %h -v"`:   {{"doorward", "knock", "%h", "-v"}, {"Match", "host", "x", "exec", "doorward knock %h -v"}},
		"if a; then b; fi":                           {{"if", "a"}, {"then", "b"}, {"fi"}},
		`doorward log --after "$(tail x | jq last)"`: {{"$"}, {"tail", "x"}, {"jq", "last"}, {"doorward", "log", "--after", "$(tail x | jq last)"}},
	} {
		if d := cmp.Diff(want, Commands(text)); d != "" {
			t.Errorf("%q (-want +got):\n%s", text, d)
		}
	}
}

func TestRead(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{"README.md": "a", "docs/b.md": "b", "docs/c/d.md": "d", "docs/c/e.json": "{}"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(root, "README.md", "docs")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Page{{"README.md", "a"}, {"docs/b.md", "b"}, {"docs/c/d.md", "d"}}, got); d != "" {
		t.Errorf("pages (-want +got):\n%s", d)
	}
	if _, err := Read(root, "docs/c/e.json"); err == nil || !strings.Contains(err.Error(), "no pages in") {
		t.Errorf("no pages: got %v", err)
	}
	if _, err := Read(root, "none"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a path that is not there: got %v", err)
	}
}
