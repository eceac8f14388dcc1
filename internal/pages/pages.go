// Package pages reads doorward's documentation for tests: the blocks of code on a
// page, and the commands in them. It understands as much of Markdown and of sh as the
// pages use, and judges nothing.
//
// The title of a block of code says where it is typed, and comments before it say what
// a test is to do with it:
//
//	<!-- test: exit 255 -->
//	```sh title="on your machine"
//	ssh alice@gate.example.org
//	```
package pages

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Page is one page of the documentation.
type Page struct {
	Name string // its path below the repository's root, "docs/howto/laptop.md"
	Text string
}

// Block is one block of code.
type Block struct {
	Page     string   // the page's name
	Line     int      // of its first line of code, from 1
	Language string   // "sh"; "" if the page does not say
	Title    string   // "on the gateway"
	Notes    []string // for a test: "skip, needs a phone"
	Text     string   // each line ends with a line feed
}

// At is where a block is, for messages.
func (b *Block) At() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

// Read reads the pages at or below the paths, which are files and directories relative to
// the repository's root. Only files whose names end in .md are pages.
func Read(root string, paths ...string) ([]Page, error) {
	var all []Page
	for _, path := range paths {
		err := filepath.WalkDir(filepath.Join(root, path), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(file) != ".md" {
				return err
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, file)
			all = append(all, Page{filepath.ToSlash(name), string(text)})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no pages in %q below %s", paths, root)
	}
	return all, nil
}

var (
	opening = regexp.MustCompile("^( *)```+ *([a-z]*)(?: title=\"([^\"]*)\")?$")
	note    = regexp.MustCompile(`^ *<!-- test: (.*) -->$`)
	span    = regexp.MustCompile("`([^`\n]+)`")
)

// Blocks returns the page's blocks of code in order, fenced and indented ones.
func (p *Page) Blocks() ([]*Block, error) {
	var all []*Block
	var fenced, indented *Block
	var indent string
	var notes []string
	blank := true
	for n, line := range strings.Split(p.Text, "\n") {
		code, isCode := strings.CutPrefix(line, "    ")
		open := opening.FindStringSubmatch(line)
		switch {
		case fenced != nil && strings.TrimSpace(line) == "```":
			all, fenced = append(all, fenced), nil
		case fenced != nil:
			fenced.Text += strings.TrimPrefix(line, indent) + "\n"
		case open != nil:
			indent = open[1]
			fenced = &Block{Page: p.Name, Line: n + 2, Language: open[2], Title: open[3], Notes: notes}
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			return nil, fmt.Errorf("%s:%d: %q does not begin a block of code that is understood", p.Name, n+1, line)
		case isCode && (indented != nil || blank):
			if indented == nil {
				indented = &Block{Page: p.Name, Line: n + 1, Notes: notes}
				all = append(all, indented)
			}
			indented.Text += code + "\n"
		case indented != nil && strings.TrimSpace(line) == "":
			indented.Text += "\n"
		default:
			indented = nil
		}
		blank = strings.TrimSpace(line) == ""
		if m := note.FindStringSubmatch(line); m != nil && fenced == nil {
			notes = append(notes, m[1])
		} else {
			notes = nil
		}
	}
	if fenced != nil {
		return nil, fmt.Errorf("%s:%d: the block of code does not end", p.Name, fenced.Line)
	}
	return all, nil
}

// Spans returns the pieces of code within the page's text, without those in blocks.
func (p *Page) Spans() []string {
	var all []string
	inside := false
	for paragraph := range strings.SplitSeq(p.Text, "\n\n") {
		var prose []string
		for line := range strings.SplitSeq(paragraph, "\n") {
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				inside = !inside
				continue
			}
			if !inside {
				prose = append(prose, strings.TrimSpace(line))
			}
		}
		for _, m := range span.FindAllStringSubmatch(strings.Join(prose, " "), -1) {
			all = append(all, m[1])
		}
	}
	return all
}
