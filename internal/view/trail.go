package view

import (
	"fmt"
	"io"
	"strings"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/output"
)

// Trail prints records of the audit trail in columns. It is not safe for concurrent use.
type Trail struct {
	w       io.Writer
	styles  output.Styles
	zone    *time.Location
	width   int  // of the terminal, 0 for none
	hold    bool // records are kept until the end, so that the columns fit them all
	columns output.Columns
	held    [][]string
}

// NewTrail returns a Trail that prints to w, with times in a zone and lines that fit
// a terminal's width, 0 for no limit. With hold nothing is printed until Flush;
// otherwise columns grow as they must.
func NewTrail(w io.Writer, styles output.Styles, zone *time.Location, width int, hold bool) *Trail {
	t := &Trail{w: w, styles: styles, zone: zone, width: width, hold: hold}
	if !hold { // what will come is not known: make room for what is usual
		t.columns.Fit("", "", strings.Repeat(" ", 8), "255.255.255.255", "")
	}
	return t
}

// Record prints one record, or holds it. Its error is one of printing.
func (t *Trail) Record(r audit.Record) error {
	cells := t.cells(r)
	t.columns.Fit(cells...)
	if t.hold {
		t.held = append(t.held, cells)
		return nil
	}
	return t.print(cells)
}

// Flush prints the records that were held.
func (t *Trail) Flush() error {
	for _, cells := range t.held {
		if err := t.print(cells); err != nil {
			return err
		}
	}
	t.held = nil
	return nil
}

// Words are written beside the other columns if those leave at least leastWidth of a
// terminal's line, otherwise below them, with an indent.
const (
	leastWidth = 40
	below      = "    "
)

// print prints a record, on one line unless a terminal is too narrow for it.
func (t *Trail) print(cells []string) error {
	text := t.columns.Line(cells...)
	if words := cells[len(cells)-1]; t.width > 0 && lipgloss.Width(text) > t.width && words != "" {
		head := t.columns.Before(cells[:len(cells)-1]...)
		indent := strings.Repeat(" ", lipgloss.Width(head))
		if t.width-len(indent) < leastWidth {
			head, indent = strings.TrimRight(head, " ")+"\n"+below, below
		}
		lines := strings.Split(lipgloss.Wrap(words, max(1, t.width-len(indent)), " "), "\n")
		for i := range lines {
			lines[i] = strings.TrimRight(lines[i], " ")
		}
		text = head + strings.Join(lines, "\n"+indent)
	}
	_, err := fmt.Fprintln(t.w, text)
	return err
}

// cells returns a record's columns: when, what, where, who, and the rest in words.
func (t *Trail) cells(r audit.Record) []string {
	at := r.Time.In(t.zone)
	why := output.Party(r.Reason, t.width)
	if r.Reason == "by "+r.By {
		why = "" // said below
	}
	if r.Until != nil {
		until := "until " + until(r.Until.In(t.zone), at)
		if why == "" {
			why = until
		} else {
			why += " (" + until + ")"
		}
	}
	if r.By != "" {
		by := "by " + output.Party(r.By, t.width)
		if why == "" {
			why = by
		} else {
			why = by + ": " + why
		}
	}
	return []string{
		t.styles.Faint.Render(at.Format(moment)),
		t.event(r.Event), output.OrDash(r.Door), output.OrDash(r.Source), why,
	}
}

// moment is the form of a time that stands alone.
const moment = "2006-01-02 15:04:05 -0700"

// until returns the time u, which is shown beside at, without repeating what they have in
// common.
func until(u, at time.Time) string {
	switch {
	case u.Format("-0700") != at.Format("-0700"):
		return u.Format(moment)
	case u.Format(time.DateOnly) != at.Format(time.DateOnly):
		return u.Format(time.DateTime)
	}
	return u.Format(time.TimeOnly)
}

// event returns an event, in the colour of its kind, padded so that columns do not shift
// while a trail is followed.
func (t *Trail) event(event string) string {
	padded := fmt.Sprintf("%-8s", output.Text(event))
	switch event {
	case audit.EventOpened, audit.EventGranted, audit.EventLogin:
		return t.styles.Good.Render(padded)
	case audit.EventRefused, audit.EventRepaired:
		return t.styles.Warn.Render(padded)
	case audit.EventFailsafe, audit.EventError:
		return t.styles.Bad.Render(padded)
	}
	return padded
}
