package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"golang.org/x/term"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/legible"
)

// clock is the time now, in the zone in which people are told times.
func (e *env) clock() time.Time {
	if e.now != nil {
		return e.now()
	}
	return time.Now()
}

// isTerminal says whether f, one of the env's streams, is a terminal.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// dress is how words are set off. The zero dress leaves all of them plain.
// Only the terminal's own 16 colours are used, so they fit its background.
type dress struct {
	title, faint, good, warn, bad lipgloss.Style
}

// dressFor returns the dress for w: plain unless it is a terminal that shows
// colours and whose user wants them (NO_COLOR).
func (e *env) dressFor(w io.Writer) dress {
	if !isTerminal(w) || e.getenv("NO_COLOR") != "" || e.getenv("TERM") == "dumb" {
		return dress{}
	}
	return dress{
		title: lipgloss.NewStyle().Bold(true),
		faint: lipgloss.NewStyle().Faint(true),
		good:  lipgloss.NewStyle().Foreground(lipgloss.Green),
		warn:  lipgloss.NewStyle().Foreground(lipgloss.Yellow),
		bad:   lipgloss.NewStyle().Foreground(lipgloss.Red).Bold(true),
	}
}

// sheet sets cells in columns that are as wide as their widest cell so far.
// The zero sheet is ready to use.
type sheet struct{ widths []int }

// fit makes room for the cells. The last cell of a line needs none.
func (s *sheet) fit(cells ...string) {
	for i, cell := range cells[:len(cells)-1] {
		if i == len(s.widths) {
			s.widths = append(s.widths, 0)
		}
		s.widths[i] = max(s.widths[i], lipgloss.Width(cell))
	}
}

// line returns the cells as one line, two spaces apart, without trailing
// spaces and without a line feed.
func (s *sheet) line(cells ...string) string {
	s.fit(cells...)
	var b strings.Builder
	for i, cell := range cells {
		b.WriteString(cell)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", s.widths[i]-lipgloss.Width(cell)+2))
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// table returns rows as lines under a title line.
func table(d dress, head []string, rows [][]string) []string {
	var s sheet
	s.fit(head...)
	for _, row := range rows {
		s.fit(row...)
	}
	lines := []string{d.title.Render(s.line(head...))}
	for _, row := range rows {
		lines = append(lines, s.line(row...))
	}
	return lines
}

// widthOf is how many columns a terminal has, 0 where w is none.
func widthOf(w io.Writer) int {
	file, ok := w.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// plainWidth is how wide text is that is written in paragraphs where there is no
// terminal.
const plainWidth = 80

// wrap breaks text between words into lines of at most width columns, where the words
// allow it; 0 is no limit.
func wrap(text string, width int) []string {
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

// hang is wrap behind a beginning, in whose place the lines after the first have
// blanks.
func hang(begin, text string, width int) []string {
	indent := lipgloss.Width(begin)
	lines := wrap(text, max(0, width-indent))
	if width > 0 && width <= indent {
		lines = wrap(text, 1)
	}
	for i := range lines {
		if i > 0 {
			begin = strings.Repeat(" ", indent)
		}
		lines[i] = strings.TrimRight(begin+lines[i], " ")
	}
	return lines
}

// printable makes text safe to print: what came from a log line or a visitor
// must not move the cursor, colour the terminal or turn the writing round.
// Whatever the daemon says is printed through here or encodeJSON.
func printable(s string) string { return legible.Text(s) }

// encodeJSON prints the object v with the version of the API (control.Versioned), with
// indent for each level or, if that is "", on one line. What does not print is escaped,
// so that it can be shown in a terminal.
func encodeJSON(w io.Writer, v any, indent string) error {
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

// spell writes a duration as people say it, in its two largest units. Started
// seconds count whole, so that a countdown says 0s only when it is over.
func spell(d time.Duration) string {
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

// clockTime writes t in now's zone: the time alone when it is the same day, else
// whole.
func clockTime(t, now time.Time) string {
	t = t.In(now.Location())
	if sameDay(t, now) {
		return t.Format(time.TimeOnly)
	}
	return t.Format("2006-01-02 15:04 MST")
}

// sameDay says whether it is the same day in now's zone.
func sameDay(t, now time.Time) bool {
	return t.In(now.Location()).Format(time.DateOnly) == now.Format(time.DateOnly)
}

// counted writes "1 grant", "2 grants".
func counted(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if strings.HasSuffix(one, "y") {
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(one, "y"))
	}
	return fmt.Sprintf("%d %ss", n, one)
}
