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
	"fmt"
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

// stage writes all pages of the site to the directory to.
func stage(docs, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.CopyFS(to, os.DirFS(docs)); err != nil {
		return err
	}
	for _, name := range notPages {
		if err := os.RemoveAll(filepath.Join(to, name)); err != nil {
			return err
		}
	}
	pages, err := reference(docs)
	if err != nil {
		return err
	}
	for name, text := range pages {
		path := filepath.Join(to, "reference", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// reference makes the pages of the reference, by their names below it.
func reference(docs string) (map[string]string, error) {
	pages := map[string]string{"configuration.md": configuration(config.Reference())}
	manuals, err := filepath.Glob(filepath.Join(docs, "man", "doorward*.[18]"))
	if err != nil {
		return nil, err
	}
	slices.Sort(manuals)
	for _, path := range manuals {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		page, err := manual(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
		pages[filepath.Join("commands", name+".md")] = page
	}
	if pages["json.md"], err = schemas(filepath.Join(docs, "api")); err != nil {
		return nil, err
	}
	return pages, nil
}
