package main

import (
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/pages"
)

func TestManual(t *testing.T) {
	got, err := manual(`.\" A comment.
.TH DOORWARD-OPEN 1 "" doorward "doorward manual"
.SH NAME
doorward\-open \- open a door
.SH OPTIONS
.TP
\fB\-\-for\fR \fITIME\fR
for this TIME, in
two lines <here>
.TP
.B SIGTERM, SIGINT
end
.SH EXAMPLES
.PP
.RS 4
.nf
doorward open ssh \-\-for 1h   # a*b*c
.fi
.RE
.PP
\&.a_b and \fBc\fR(1), \fBdoorwardd\fR(8), \fBdoorward\-ssh\-config\fR(1)
.SS "lock KEY [\-\-now]"
Lock a key.
`)
	if err != nil {
		t.Fatal(err)
	}
	want := "# doorward open\n\nManual page doorward-open(1).\n\n\n## Name\n\ndoorward-open - open a door\n" +
		"\n## Options\n\n\n`--for` *TIME*\n:   for this TIME, in\n    two lines &lt;here>\n    \n`SIGTERM, SIGINT`\n:   end\n    " +
		"\n## Examples\n\n\n\n```sh\ndoorward open ssh --for 1h   # a*b*c\n```\n\n\n.a\\_b and `c`(1), [`doorwardd`(8)](doorwardd.md), [`doorward-ssh-config`(1)](doorward-ssh-config.md)\n" +
		"\n### `lock KEY [--now]`\n\nLock a key.\n"
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the page (-want +got):\n%s", d)
	}
	if _, err := manual(".TH A 1\n.IP x 4\n"); err == nil || err.Error() != `line 2: the macro ".IP" is not one that is understood` {
		t.Errorf("a macro that is not known: got %v", err)
	}
}

// Each table and each key of the reference has a heading of its own, and nothing
// of its description is lost.
func TestConfigurationPage(t *testing.T) {
	reference := config.Reference()
	page := configuration(reference)
	headings := map[string]int{}
	for line := range strings.Lines(page) {
		if m := regexp.MustCompile("^##+ `(.*)` {").FindStringSubmatch(line); m != nil {
			headings[m[1]]++
		}
	}
	keys := 0
	want := map[string]int{}
	for line := range strings.Lines(reference) {
		if key, _, ok := strings.Cut(line, " = "); ok && line[0] != '#' && line[0] != ' ' {
			keys++
			want[key]++
		} else if strings.HasPrefix(line, "[") {
			want[strings.TrimSpace(line)]++
		}
	}
	if d := cmp.Diff(want, headings); d != "" || keys < 20 {
		t.Errorf("headings of %d keys (-want +got):\n%s", keys, d)
	}
	words := func(text string) map[string]bool {
		all := map[string]bool{}
		for _, w := range regexp.MustCompile(`[A-Za-z]{4,}`).FindAllString(text, -1) {
			all[w] = true
		}
		return all
	}
	in := words(page)
	for w := range words(reference) {
		if !in[w] {
			t.Errorf("the page lacks %q, which the reference has", w)
		}
	}
}

func TestSchemasPage(t *testing.T) {
	page, err := schemas("../../docs/api")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## status { #status }", "| `doors[].grants[].source` | string | ", "| `doors[].dark_at` | time or null | "} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if _, err := schemas(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no schemas in") {
		t.Errorf("a directory without schemas: got %v", err)
	}
}

// A directory with somebody else's files is left alone.
func TestNothingElseIsReplaced(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "thesis.md")
	if err := os.WriteFile(mine, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	want := dir + ` has "thesis.md" in it, which is not of this program: name a new directory`
	if err := stage("../../docs", dir); err == nil || err.Error() != want {
		t.Errorf("got %v, want %q", err, want)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
	made := filepath.Join(t.TempDir(), "made")
	for range 2 {
		if err := stage("../../docs", made); err != nil {
			t.Fatal(err)
		}
	}
	menu, err := os.ReadFile(filepath.Join(made, "mkdocs.yml"))
	if first := "- doorward: reference/commands/doorward.md\n          - doorward accept: "; err != nil || !strings.Contains(string(menu), first) {
		t.Errorf("the menu has no %q: %v", first, err)
	}
}

// Whoever reads the pages in the repository can follow their links as well.
func TestLinksWithinTheRepository(t *testing.T) {
	all, err := pages.Read("../..", "README.md", "CONTRIBUTING.md", "SECURITY.md", "docs")
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for _, p := range all {
		for _, m := range regexp.MustCompile(`\]\(([^)#]+)(?:#[^)]*)?\)`).FindAllStringSubmatch(p.Text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			if _, err := os.Stat(filepath.Join("../..", filepath.Dir(p.Name), m[1])); err != nil {
				t.Errorf("%s: link to %q: %v", p.Name, m[1], err)
			}
		}
	}
	if links < 50 {
		t.Errorf("looked at %d links: that is not all of them", links)
	}
}

// site builds the site, and returns its directory.
func site(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("mkdocs"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("would be skipped, which CI does not allow: needs mkdocs")
		}
		t.Skip("needs the program mkdocs; `build/deps.sh site` installs it")
	}
	staged, built := t.TempDir(), t.TempDir()
	if err := stage("../../docs", staged); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "mkdocs", "build", "--strict", "-f", staged+"/mkdocs.yml", "-d", built)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("mkdocs: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "not included in the \"nav\"") {
		t.Errorf("a page that no menu leads to:\n%s", out)
	}
	return built
}

// document is a page of the built site.
type document struct {
	anchors map[string]bool
	links   []string // where something leads that a reader follows
	loads   []string // what a browser fetches by itself
}

// documents parses the HTML pages of a site, by their paths in it.
func documents(t *testing.T, root string) map[string]*document {
	t.Helper()
	all := map[string]*document{}
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".html" {
			return err
		}
		f, err := os.Open(filepath.Join(root, name))
		if err != nil {
			return err
		}
		defer f.Close()
		tree, err := html.Parse(f)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		doc := &document{anchors: map[string]bool{"": true}}
		for n := range tree.Descendants() {
			doc.add(n)
		}
		all[name] = doc
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (d *document) add(n *html.Node) {
	for _, a := range n.Attr {
		switch {
		case a.Key == "id" || a.Key == "name" && n.Data == "a":
			d.anchors[a.Val] = true
		case a.Key == "href" && (n.Data == "a" || n.Data == "area"):
			d.links = append(d.links, a.Val)
		case a.Key == "src" || a.Key == "srcset" || a.Key == "href" || a.Key == "data":
			d.loads = append(d.loads, a.Val)
		}
	}
}

// Every link within the site leads to a page and a heading that are there, every
// page is reached, and a browser fetches nothing from elsewhere.
func TestTheSite(t *testing.T) {
	root := site(t)
	all := documents(t, root)
	if len(all) < 40 {
		t.Fatalf("the site has %d pages: that is not all of them", len(all))
	}
	reached := map[string]bool{"index.html": true, "404.html": true}
	for name, doc := range all {
		for _, link := range doc.loads {
			if u, err := url.Parse(link); err != nil || u.IsAbs() && u.Scheme != "data" || u.Host != "" {
				t.Errorf("%s: a browser fetches %q from elsewhere", name, link)
			} else if !u.IsAbs() && name != "404.html" {
				exists(t, root, name, u)
			}
		}
		if name == "404.html" {
			continue // its links start at the root of a server
		}
		for _, link := range doc.links {
			u, err := url.Parse(link)
			if err != nil || u.IsAbs() && u.Scheme != "https" {
				t.Errorf("%s: link to %q: want one within the site, or https", name, link)
			}
			if err != nil || u.IsAbs() {
				continue
			}
			target := name
			if u.Path != "" {
				target = exists(t, root, name, u)
			}
			reached[target] = true
			if to := all[target]; to != nil && !to.anchors[u.Fragment] {
				t.Errorf("%s: link to %q: there is no such heading", name, link)
			}
		}
	}
	for name := range maps.Keys(all) {
		if !reached[name] {
			t.Errorf("no link leads to %s", name)
		}
	}
	fetchesNothing(t, root)
}

// exists resolves a link on a page, and returns the file that it leads to.
func exists(t *testing.T, root, from string, u *url.URL) string {
	t.Helper()
	target := path.Join(path.Dir(from), u.Path)
	if info, err := os.Stat(filepath.Join(root, target)); err != nil {
		t.Errorf("%s: link to %q: %v", from, u, err)
	} else if info.IsDir() {
		t.Errorf("%s: link to %q: a directory, which a browser cannot show", from, u)
	}
	return target
}

// fetchesNothing looks through style sheets, which can load fonts.
func fetchesNothing(t *testing.T, root string) {
	t.Helper()
	sheets := 0
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".css" {
			return err
		}
		sheets++
		text, err := os.ReadFile(filepath.Join(root, name))
		for _, m := range regexp.MustCompile(`(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]*)`).FindAllSubmatch(text, -1) {
			t.Errorf("%s loads %q from elsewhere", name, m[1])
		}
		return err
	})
	if err != nil || sheets == 0 {
		t.Errorf("looked at %d style sheets: %v", sheets, err)
	}
}
