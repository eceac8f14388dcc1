package main

import (
	"fmt"
	"regexp"
	"strings"
)

// manual turns a manual page into Markdown. It knows the macros of man(7) that
// docs/man uses, and fails on any other, so that nothing is lost unseen.
func manual(roff string) (string, error) {
	m := &page{}
	for n, line := range strings.Split(strings.TrimRight(roff, "\n"), "\n") {
		if err := m.line(line); err != nil {
			return "", fmt.Errorf("line %d: %w", n+1, err)
		}
	}
	m.fence(false)
	text := others.ReplaceAllString(m.b.String(), "[`$1`($2)]($1.md)")
	return strings.TrimRight(text, "\n") + "\n", nil
}

// others are the manual pages that a page names and that the site has as well.
var others = regexp.MustCompile("`(doorwardd?(?:-[a-z]+)*)`\\(([18])\\)")

// page is a manual page that is being turned.
type page struct {
	b       strings.Builder
	section string
	literal bool // between .nf and .fi
	tag     bool // the next line is a list's term
	item    bool // in the body of a list's term
}

// line takes the next line of the page.
func (m *page) line(line string) error {
	macro, rest, _ := strings.Cut(line, " ")
	switch {
	case strings.HasPrefix(line, `.\"`):
	case macro == ".TH":
		name, rest, _ := strings.Cut(rest, " ")
		section, _, _ := strings.Cut(rest, " ")
		m.b.WriteString("# " + strings.ReplaceAll(strings.ToLower(plain(name)), "doorward-", "doorward ") + "\n\n")
		m.b.WriteString("Manual page " + strings.ToLower(plain(name)) + "(" + section + ").\n\n")
	case macro == ".SH":
		m.section, m.item = plain(rest), false
		m.b.WriteString("\n## " + sentence(m.section) + "\n\n")
	case macro == ".SS": // what a command within this one is called with
		m.item = false
		m.b.WriteString("\n### `" + plain(strings.Trim(rest, `"`)) + "`\n\n")
	case macro == ".PP":
		m.item = false
		m.b.WriteString("\n")
	case macro == ".TP":
		m.tag = true
	case macro == ".RS", macro == ".RE":
	case macro == ".nf":
		m.fence(true)
	case macro == ".fi":
		m.fence(false)
	case macro == ".B" || macro == ".I":
		m.text(`\fB` + rest + `\fR`)
	case strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'"):
		return fmt.Errorf("the macro %q is not one that is understood", macro)
	default:
		m.text(line)
	}
	return nil
}

// text takes a line that is not a macro.
func (m *page) text(line string) {
	switch {
	case m.literal:
		m.b.WriteString(plain(line) + "\n")
	case m.tag: // a definition list: the term, then its text behind a colon
		m.tag, m.item = false, true
		m.b.WriteString("\n" + fonts(line) + "\n:   ")
	case m.item:
		m.b.WriteString(strings.TrimLeft(fonts(line), " ") + "\n    ")
	default:
		m.b.WriteString(fonts(line) + "\n")
	}
}

// fence begins or ends code.
func (m *page) fence(begin bool) {
	if m.literal == begin {
		return
	}
	m.literal = begin
	switch {
	case !begin:
		m.b.WriteString("```\n\n")
	case m.section == "EXAMPLES":
		m.b.WriteString("\n```sh\n")
	default:
		m.b.WriteString("\n```text\n")
	}
}

// fonts turns roff's fonts into Markdown's: bold is code, as it is what is typed,
// and italic stays.
func fonts(line string) string {
	var b strings.Builder
	font := byte('R')
	for i, part := range strings.Split(line, `\f`) {
		next := font
		if i > 0 && part != "" {
			next, part = part[0], part[1:]
		}
		font = next
		switch {
		case part == "":
		case font == 'B':
			b.WriteString("`" + plain(part) + "`")
		case font == 'I':
			b.WriteString("*" + escape(plain(part)) + "*")
		default:
			b.WriteString(escape(plain(part)))
		}
	}
	return b.String()
}

// plain takes roff's escapes and fonts out of text.
func plain(text string) string {
	for _, font := range []string{`\fB`, `\fI`, `\fR`} {
		text = strings.ReplaceAll(text, font, "")
	}
	return strings.NewReplacer(`\-`, "-", `\e`, `\`, `\&`, "", `\(aq`, "'", `\(dq`, `"`).Replace(text)
}

// sentence writes a heading of capitals as others are written.
func sentence(capitals string) string {
	if capitals == "" {
		return ""
	}
	return capitals[:1] + strings.ToLower(capitals[1:])
}
