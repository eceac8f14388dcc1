// Package mutants has the deliberate faults that the tests of the promise must
// notice, as replacements in the source, and makes overlays of them for the go
// command. No program imports it: a fault gets into a binary only by
// `go build -overlay`.
package mutants

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

//go:embed mutants.txt
var table string

//go:embed noticed.txt
var noticed string

// Noticed returns, by the name of the mutant, the test that noticed it the last time:
// the path of a package, from the module's root, and the name of a test, as in
// "internal/door TestExplore". A Hunt is faster if that test runs first.
func Noticed() map[string]string {
	by := map[string]string{}
	for line := range strings.Lines(noticed) {
		if words := strings.Fields(line); len(words) == 3 && words[0] != "#" {
			by[words[0]] = words[1] + " " + words[2]
		}
	}
	return by
}

// Mutant is one deliberate fault.
type Mutant struct {
	Name     string // a-z and -, unique
	Breaks   string // the sentence of docs/PROMISE.md that it breaks, "P1" to "P10"
	File     string // the path of its file, from the module's root
	Old, New string // text that is in the file exactly once, and what replaces it
}

// Load returns all mutants, in the order of the table. An error says where the
// table cannot be read.
func Load() ([]Mutant, error) {
	var all []Mutant
	var m *Mutant
	var text *string
	lines := bufio.NewScanner(strings.NewReader(table))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "mutant ") && len(words) == 4:
			all = append(all, Mutant{Name: words[1], Breaks: words[2], File: words[3]})
			m, text = &all[len(all)-1], nil
		case line == "old" && m != nil:
			text = &m.Old
		case line == "new" && m != nil:
			text = &m.New
		case line == "":
			text = nil
		case text != nil:
			*text += line + "\n"
		case strings.HasPrefix(line, "#"):
		default:
			return nil, fmt.Errorf("mutants.txt:%d: %q: allowed are mutant NAME PROMISE FILE, "+
				"old and new with lines of Go, and comments", n, line)
		}
	}
	return all, lines.Err()
}

// Overlay writes a mutant's source into dir, which must exist, and returns the path of
// a file for the go command's -overlay. It fails if the mutant's old text is not in its
// file exactly once; mutants.txt must then follow the source.
func (m Mutant) Overlay(dir string) (path string, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	file := filepath.Join(root, filepath.FromSlash(m.File))
	source, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("mutant %q: %w", m.Name, err)
	}
	text, err := m.replaced(string(source))
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, m.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return writeOverlay(root, dir, map[string]string{m.File: text})
}

// replaced returns the source with the fault.
func (m Mutant) replaced(source string) (string, error) {
	if n := strings.Count(source, m.Old); n != 1 || m.Old == "" {
		return "", fmt.Errorf("mutant %q: its old text is in %s %d times, want once", m.Name, m.File, n)
	}
	return strings.Replace(source, m.Old, m.New, 1), nil
}

// moduleRoot returns the directory of go.mod, which is the working directory or above it.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			err = errors.New("there is no go.mod at or above the working directory")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}
