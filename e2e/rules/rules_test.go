// Package rules holds the repository to what its documents promise and no
// compiler checks: which package may know which, where commands may be run,
// what is pure, what is documented. It has tests only. A rule that stands in
// the way is changed here, with its reason, in the change that needs it.
package rules

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/doorward/doorward"

// source is one Go file of the repository.
type source struct {
	name string // relative to the root, with slashes
	dir  string // the package's directory, "internal/door"
	text []byte
	ast  *ast.File
	fset *token.FileSet
	test bool
}

// at names a place for an error message: file and line.
func (s *source) at(n ast.Node) string {
	return s.name + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

// imports lists the file's import paths.
func (s *source) imports() []string {
	var paths []string
	for _, i := range s.ast.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

const root = "../.."

// sources are the Go files of the repository, whatever they are built for. Nobody
// changes them.
func sources(t *testing.T) []*source {
	t.Helper()
	all, err := parsed()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("found only %d Go files under %s: the rules would hold for nothing", len(all), root)
	}
	return all
}

var parsed = sync.OnceValues(parse)

// parse parses the files.
func parse() (all []*source, err error) {
	fset := token.NewFileSet()
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, p, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		rel = filepath.ToSlash(rel)
		all = append(all, &source{rel, path.Dir(rel), text, file, fset, strings.HasSuffix(rel, "_test.go")})
		return err
	})
	return all, err
}

func TestOnePackageComment(t *testing.T) {
	comments, dirs := map[string][]string{}, map[string]bool{}
	tested := map[string]bool{} // has a file that is not a test
	for _, s := range sources(t) {
		dirs[s.dir] = true
		tested[s.dir] = tested[s.dir] || !s.test
		if s.ast.Doc != nil {
			comments[s.dir] = append(comments[s.dir], s.name)
		}
	}
	for dir := range dirs {
		if n := len(comments[dir]); n != 1 {
			t.Errorf("%s: %d package comments %q, want one", dir, n, comments[dir])
		} else if f := comments[dir][0]; tested[dir] && strings.HasSuffix(f, "_test.go") {
			t.Errorf("%s: the package comment is in a test file, where go doc does not look", f)
		}
	}
}

func TestGofmt(t *testing.T) {
	for _, s := range sources(t) {
		want, err := format.Source(s.text)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, s.text) {
			t.Errorf("%s is not as gofmt writes it", s.name)
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		for _, d := range s.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) && d.Doc == nil {
					t.Errorf("%s: %s has no comment", s.at(d), d.Name)
				}
			case *ast.GenDecl:
				undocumented(t, s, d)
			}
		}
	}
}

// undocumented reports exported names of a declaration that has no comment for
// them: of their own, at the line's end, or for the whole group.
func undocumented(t *testing.T, s *source, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch v := spec.(type) {
		case *ast.TypeSpec:
			if v.Name.IsExported() && v.Doc == nil && d.Doc == nil {
				t.Errorf("%s: %s has no comment", s.at(v), v.Name)
			}
		case *ast.ValueSpec:
			for _, n := range v.Names {
				if n.IsExported() && v.Doc == nil && v.Comment == nil && d.Doc == nil {
					t.Errorf("%s: %s has no comment", s.at(v), n)
				}
			}
		}
	}
}

// exportedReceiver says whether a function is not a method, or is one of a type that
// others can name.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if index, ok := typ.(*ast.IndexExpr); ok {
		typ = index.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && name.IsExported()
}

func TestSize(t *testing.T) {
	const maxFunc = 100
	for _, s := range sources(t) {
		most := 600
		if s.test {
			most = 800 // tables
		}
		if n := bytes.Count(s.text, []byte("\n")); n > most {
			t.Errorf("%s: %d lines; a file has at most %d", s.name, n, most)
		}
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || s.test {
				continue
			}
			n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line
			if n > maxFunc {
				t.Errorf("%s: %s has %d lines; a function has at most %d", s.at(f), f.Name, n, maxFunc)
			}
		}
	}
}

func TestGoModHasNoReplace(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); slices.Contains(f, "replace") || slices.Contains(f, "=>") {
			t.Errorf("go.mod: %q: a replaced dependency is one that nobody else gets", strings.TrimSpace(line))
		}
	}
}

// TestTrackedFilesSpeakOfDoorwardAlone looks for what was left behind: work not
// done, places that exist on one machine only, and programs.
func TestTrackedFilesSpeakOfDoorwardAlone(t *testing.T) {
	// Written so that this file does not contain them.
	forbidden := []string{"/wo" + "rk/", "TO" + "DO", "FIX" + "ME", "X" + "XX:", "HA" + "CK:"}
	git := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z")
	git.Dir = root
	list, err := git.Output()
	if err != nil || len(list) == 0 {
		t.Skipf("git ls-files: %v: not a clone, nothing is tracked", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // removed and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(text, []byte("\x7fELF")) {
			t.Errorf("%s: a program that was built, and %d bytes for every clone from now on: git rm %s", name, len(text), name)
			continue
		}
		for n, line := range strings.Split(string(text), "\n") {
			for _, word := range forbidden {
				if strings.Contains(line, word) {
					t.Errorf("%s:%d: contains %q: %s", name, n+1, word, strings.TrimSpace(line))
				}
			}
		}
	}
}
