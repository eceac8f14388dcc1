package view

import (
	"strings"

	"charm.land/lipgloss/v2"

	"github.com/doorward/doorward/internal/output"
)

// Where a table's last cell, which is text, stands.
const (
	leastText  = 28 // columns that it takes to be wrapped beside the others
	textIndent = 4  // where it stands below them
)

// table returns rows as lines under a title line, no wider than the view as far as
// words allow it. Where the whole rows are wider, the last cell is wrapped in its
// column; where there is no room for one, it stands below its row; and where the others
// alone are too wide, each row is a list.
func (v View) table(head []string, rows [][]string) []string {
	c, others, longest := measured(head, rows)
	switch {
	case v.Width == 0 || others+longest <= v.Width:
		return output.Table(v.Styles, head, rows)
	case v.Width-others >= leastText:
		return v.rows(c, head, rows, others)
	case others-2 <= v.Width:
		return v.rows(c, head[:len(head)-1], rows, textIndent)
	}
	return v.lists(head, rows)
}

// fits says whether all cells of the rows but the last stand beside each other.
func (v View) fits(head []string, rows [][]string) bool {
	_, others, _ := measured(head, rows)
	return v.Width == 0 || others-2 <= v.Width
}

// measured is the output.Columns that rows are set in, how wide all cells but the last are with
// the space after each, and how wide the last is at the most.
func measured(head []string, rows [][]string) (c *output.Columns, others, longest int) {
	c = &output.Columns{}
	c.Fit(head...)
	longest = lipgloss.Width(head[len(head)-1])
	for _, row := range rows {
		c.Fit(row...)
		longest = max(longest, lipgloss.Width(row[len(row)-1]))
	}
	return c, c.Others(), longest
}

// rows are those of a table whose last cell is wrapped behind an indent: beside the
// others, or, if the head does not have it, below them.
func (v View) rows(c *output.Columns, head []string, rows [][]string, indent int) []string {
	lines := []string{v.Styles.Title.Render(c.Line(head...))}
	for _, row := range rows {
		last := len(row) - 1
		text := output.Wrap(row[last], max(1, v.Width-indent))
		if len(head) == len(row) {
			lines = append(lines, c.Line(append(row[:last:last], text[0])...))
			text = text[1:]
		} else {
			lines = append(lines, c.Line(append(row[:last:last], "")...))
		}
		for _, t := range text {
			if t != "" {
				lines = append(lines, strings.Repeat(" ", indent)+t)
			}
		}
	}
	return lines
}

// lists are rows as a list each, of what their cells are called and say.
func (v View) lists(head []string, rows [][]string) []string {
	lines := []string{v.Styles.Title.Render(head[0])}
	var c output.Columns
	names := make([]string, len(head))
	for i, h := range head {
		names[i] = "  " + strings.ToLower(h)
		c.Fit(names[i], "")
	}
	for _, row := range rows {
		lines = append(lines, row[0])
		for i, cell := range row[1:] {
			if cell == "" || cell == "-" {
				continue
			}
			lines = append(lines, output.Hang(c.Before(names[i+1]), cell, v.Width)...)
		}
	}
	return lines
}

// narrower is the view with some columns less.
func (v View) narrower(by int) View {
	if v.Width > 0 {
		v.Width = max(1, v.Width-by)
	}
	return v
}

// styled has each of the lines in a style.
func (v View) styled(style func(...string) string, lines []string) []string {
	for i := range lines {
		lines[i] = style(lines[i])
	}
	return lines
}
