package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestManPagesAreFresh holds docs/man to the commands' help.
func TestManPagesAreFresh(t *testing.T) {
	dir := t.TempDir()
	if code, _, stderr := operate(t, nil, "man", "--dir", dir); code != 0 {
		t.Fatalf("man: %s", stderr)
	}
	const committed = "../../docs/man"
	if d := cmp.Diff(pagesIn(t, dir), pagesIn(t, committed)); d != "" {
		t.Errorf("docs/man is stale: go run ./cmd/doorward man\n(-help +committed):\n%s", d)
	}
}

// pagesIn reads the pages of this command that dir has.
func pagesIn(t *testing.T, dir string) map[string]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "doorward*.[157]"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no pages in %s: %v", dir, err)
	}
	pages := map[string]string{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		pages[filepath.Base(name)] = string(b)
	}
	return pages
}

func TestManText(t *testing.T) {
	in := `A paragraph
of two lines with -x and C:\dir.

.begins with a dot

  literal --one

  literal two
Text again.`
	want := `A paragraph
of two lines with \-x and C:\edir.
.PP
\&.begins with a dot
.PP
.RS 4
.nf
literal \-\-one

literal two
.fi
.RE
.PP
Text again.
`
	if d := cmp.Diff(want, manText(in)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestHelpIsAManual: every command that people see says at length what it does,
// shows how, and promises its exit status.
func TestHelpIsAManual(t *testing.T) {
	for _, c := range newRoot(&env{getenv: func(string) string { return "" }}).Commands() {
		if c.Hidden {
			continue
		}
		if !strings.Contains(c.Long, "Exit status: 0 ") {
			t.Errorf("%s: its help has no line that begins with \"Exit status: 0\"", c.CommandPath())
		}
		if c.Example == "" {
			t.Errorf("%s: its help has no examples", c.CommandPath())
		}
		for line := range strings.Lines(c.Long) {
			if len([]rune(line)) > 90 {
				t.Errorf("%s: a line of its help is too long for a terminal: %q", c.CommandPath(), line)
			}
		}
	}
}
