// Command site puts the pages of doorward's documentation together for MkDocs:
// those that people write, as they are, and those of the reference, made from
// what the programs themselves are made from. It is run by build/site.sh.
//
//	go run ./build/site DIR
//
// DIR is made; what an earlier run left there is replaced. The reference is made
// of the manual pages in docs/man, of the configuration's reference with every
// key, and of the JSON schemas in docs/api.
package main

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/doorward/doorward/internal/config"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "site: error: one argument is needed: the directory to make")
		os.Exit(2)
	}
	if err := stage("docs", os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "site: error:", err)
		os.Exit(1)
	}
}

// notPages are the directories of docs that the site has in another form, or not.
var notPages = []string{"man", "model"}

// menu is the configuration of MkDocs, and manuals the line in it that stands for
// the manual pages.
//
//go:embed mkdocs.yml
var menu string

//go:embed site.css
var style string

const manuals = "          - MANUALS # a line for each page of docs/man\n"

// stage writes the configuration of MkDocs to the directory to, and all pages of
// the site to its directory "pages".
func stage(docs, to string) error {
	if err := empty(to); err != nil {
		return err
	}
	written := filepath.Join(to, "pages")
	if err := os.CopyFS(written, os.DirFS(docs)); err != nil {
		return err
	}
	for _, name := range notPages {
		if err := os.RemoveAll(filepath.Join(written, name)); err != nil {
			return err
		}
	}
	pages, err := reference(docs)
	if err != nil {
		return err
	}
	if err := link(filepath.Join(written, "reference", "index.md")); err != nil {
		return err
	}
	pages["../site.css"] = style
	for name, text := range pages {
		path := filepath.Join(written, "reference", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(to, "mkdocs.yml"), []byte(configured(pages)), 0o644)
}

// empty removes a directory that an earlier run has made, and nothing else.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != "pages" && e.Name() != "mkdocs.yml" {
			return fmt.Errorf("%s has %q in it, which is not of this program: name a new directory", dir, e.Name())
		}
	}
	return os.RemoveAll(dir)
}

// configured is the configuration of MkDocs with a line for each command's page.
func configured(pages map[string]string) string {
	commands := map[string]string{} // names of pages by their titles
	for name := range pages {
		if command, ok := strings.CutPrefix(name, "commands/"); ok {
			commands[strings.ReplaceAll(strings.TrimSuffix(command, ".md"), "doorward-", "doorward ")] = name
		}
	}
	var lines strings.Builder
	for _, title := range slices.Sorted(maps.Keys(commands)) {
		fmt.Fprintf(&lines, "          - %s: reference/%s\n", title, commands[title])
	}
	return strings.Replace(menu, manuals, lines.String(), 1)
}

// link adds the pages that are made to the one that leads to them.
func link(index string) error {
	f, err := os.OpenFile(index, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("- [Configuration](configuration.md): every key of `doorward.toml`\n" +
		"- [doorward](commands/doorward.md), the command, and [doorwardd](commands/doorwardd.md), the daemon\n" +
		"- [JSON](json.md): every object that commands print and the API takes\n")
	return errors.Join(err, f.Close())
}

// reference makes the pages of the reference, by their names below it.
func reference(docs string) (map[string]string, error) {
	pages := map[string]string{"configuration.md": configuration(config.Reference())}
	paths, err := filepath.Glob(filepath.Join(docs, "man", "doorward*.[18]"))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("no manual pages in %s: %v", docs, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		page, err := manual(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
		pages["commands/"+name+".md"] = page
	}
	pages["json.md"], err = schemas(filepath.Join(docs, "api"))
	return pages, err
}
