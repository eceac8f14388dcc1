package view

import (
	"strings"

	"charm.land/lipgloss/v2"

	"github.com/doorward/doorward/internal/output"
)

// Where a table's last cell, which is text, is written.
const (
	leastText  = 28 // the least width in which it is wrapped beside the others
	textIndent = 4  // its indent below the others
)

// table returns rows as lines under a title line, no wider than the view unless a word
// is. If whole rows are wider, the last cell is wrapped in its column; if that has too
// little room, it is below its row; and if the other cells alone are too wide, each row
// is a list.
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

// fits reports whether all cells of the rows but the last fit beside each other.
func (v View) fits(head []string, rows [][]string) bool {
	_, others, _ := measured(head, rows)
	return v.Width == 0 || others-2 <= v.Width
}

// measured returns the columns for rows, how wide all cells but the last are with the
// space after each, and how wide the longest last cell is.
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

// rows returns the lines of a table whose last cell is wrapped after an indent: beside the
// others, or below them if it has no title in head.
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

// lists returns each row as a list of its cells and their titles.
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

// narrower returns the view with a smaller width.
func (v View) narrower(by int) View {
	if v.Width > 0 {
		v.Width = max(1, v.Width-by)
	}
	return v
}

// styled renders each of the lines in a style.
func (v View) styled(style func(...string) string, lines []string) []string {
	for i := range lines {
		lines[i] = style(lines[i])
	}
	return lines
}
