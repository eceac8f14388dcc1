// Package output formats what the commands print: columns, and lines no wider than the
// terminal, colours where they are wanted, times and amounts as people write them, and
// JSON for scripts. Strangers' text is printed through Text or JSON.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/legible"
)

// IsTerminal reports whether f, a standard stream, is a terminal.
func IsTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// Styles are how words are highlighted. The zero value leaves all of them plain. Only the
// terminal's own 16 colours are used, so that they fit its background.
type Styles struct {
	Title, Faint, Good, Warn, Bad lipgloss.Style
}

// StylesFor returns the styles for w: plain unless it is a terminal that shows colours
// and whose user wants them, according to NO_COLOR and TERM in the environment, which
// getenv reads.
func StylesFor(w io.Writer, getenv func(string) string) Styles {
	if !IsTerminal(w) || getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" {
		return Styles{}
	}
	return Styles{
		Title: lipgloss.NewStyle().Bold(true),
		Faint: lipgloss.NewStyle().Faint(true),
		Good:  lipgloss.NewStyle().Foreground(lipgloss.Green),
		Warn:  lipgloss.NewStyle().Foreground(lipgloss.Yellow),
		Bad:   lipgloss.NewStyle().Foreground(lipgloss.Red).Bold(true),
	}
}

// Columns arranges cells in columns that are as wide as their widest cell so far, two
// spaces apart. The zero value is ready to use.
type Columns struct{ widths []int }

// Fit makes the columns wide enough for the cells. The last cell of a line needs no room.
func (c *Columns) Fit(cells ...string) {
	for i, cell := range cells[:len(cells)-1] {
		if i == len(c.widths) {
			c.widths = append(c.widths, 0)
		}
		c.widths[i] = max(c.widths[i], lipgloss.Width(cell))
	}
}

// Line returns the cells as one line, without trailing spaces and without a line feed.
func (c *Columns) Line(cells ...string) string {
	c.Fit(cells...)
	var b strings.Builder
	for i, cell := range cells {
		b.WriteString(cell)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", c.widths[i]-lipgloss.Width(cell)+2))
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// Before returns the cells as the beginning of a line, padded up to the column after
// them.
func (c *Columns) Before(cells ...string) string {
	return strings.TrimSuffix(c.Line(slices.Concat(cells, []string{"."})...), ".")
}

// Others returns how wide all columns but the last are, with the space after each.
func (c *Columns) Others() (width int) {
	for _, w := range c.widths {
		width += w + 2
	}
	return width
}

// Table returns rows as lines under a title line.
func Table(styles Styles, head []string, rows [][]string) []string {
	var c Columns
	c.Fit(head...)
	for _, row := range rows {
		c.Fit(row...)
	}
	lines := []string{styles.Title.Render(c.Line(head...))}
	for _, row := range rows {
		lines = append(lines, c.Line(row...))
	}
	return lines
}

// Width returns how many columns w has, 0 if it is not a terminal.
func Width(w io.Writer) int {
	file, ok := w.(interface{ Fd() uintptr })
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// PlainWidth is how wide paragraphs are if there is no terminal.
const PlainWidth = 80

// Wrap breaks text between words into lines of at most width columns, where the words
// allow it; 0 is no limit.
func Wrap(text string, width int) []string {
	lines := []string{""}
	for word := range strings.FieldsSeq(text) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case width == 0 || lipgloss.Width(*last)+1+lipgloss.Width(word) <= width:
			*last += " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}

// Hang is like Wrap, but the first line begins with begin, and the others with blanks of
// the same width.
func Hang(begin, text string, width int) []string {
	indent := lipgloss.Width(begin)
	lines := Wrap(text, max(0, width-indent))
	if width > 0 && width <= indent {
		lines = Wrap(text, 1)
	}
	for i := range lines {
		if i > 0 {
			begin = strings.Repeat(" ", indent)
		}
		lines[i] = strings.TrimRight(begin+lines[i], " ")
	}
	return lines
}

// Text makes text safe to print: what came from a log line or a visitor
// must not move the cursor, colour the terminal or reverse the text's direction.
// Whatever the daemon says is printed through Text or JSON.
func Text(s string) string { return legible.Text(s) }

// JSON prints the object v with the version of the API (control.Versioned), with
// indent for each level or, if that is "", on one line. What does not print is escaped,
// so that it can be shown in a terminal.
func JSON(w io.Writer, v any, indent string) error {
	text, err := control.Versioned(v)
	if err != nil {
		return err
	}
	if indent != "" {
		var b bytes.Buffer
		if err := json.Indent(&b, text, "", indent); err != nil {
			return err
		}
		text = b.Bytes()
	}
	_, err = w.Write(legible.JSON(text))
	return err
}

// Spell returns a duration as people say it, in its two largest units. It rounds up to
// whole seconds, so that a countdown says 0s only when it is over.
func Spell(d time.Duration) string {
	s := int64(max(0, (d+time.Second-1)/time.Second))
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 60*60:
		return fmt.Sprintf("%dm %02ds", s/60, s%60)
	case s < 24*60*60:
		return fmt.Sprintf("%dh %02dm", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd %02dh", s/86400, s/3600%24)
}

// Clock returns t in now's zone: the time alone if it is the same day, otherwise
// with the date and the zone.
func Clock(t, now time.Time) string {
	t = t.In(now.Location())
	if SameDay(t, now) {
		return t.Format(time.TimeOnly)
	}
	return t.Format("2006-01-02 15:04 MST")
}

// SameDay reports whether t and now are on the same day in now's zone.
func SameDay(t, now time.Time) bool {
	return t.In(now.Location()).Format(time.DateOnly) == now.Format(time.DateOnly)
}

// Counted returns n and the noun: "1 grant", "2 grants".
func Counted(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if strings.HasSuffix(one, "y") {
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(one, "y"))
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// identities are those of keys and of machines' secrets, with the part that is shown of
// them where there is little room: a fingerprint is random, and 72 bits of it tell any two
// apart. Of a certificate its serial number is shown.
var (
	identities   = regexp.MustCompile(`\b(SHA256:[A-Za-z0-9+/]{12})[A-Za-z0-9+/]{31}|\b(secret:[0-9a-f]{12})[0-9a-f]{20}`)
	certificates = regexp.MustCompile(`\b(cert:[0-9]+):[A-Za-z0-9_-]{43,}`)
)

// Party is like Text for somebody's name. On a terminal, which has a width, the identity in
// it is shortened, in a way that doorward keys understands.
func Party(s string, width int) string {
	if width == 0 {
		return Text(s)
	}
	return identities.ReplaceAllString(certificates.ReplaceAllString(Text(s), "$1"), "$1$2…")
}

// OrDash is like Text, but returns "-" for an empty text.
func OrDash(s string) string {
	if s == "" {
		return "-"
	}
	return Text(s)
}
