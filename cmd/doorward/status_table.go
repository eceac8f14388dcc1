package main

import (
	"strings"

	"charm.land/lipgloss/v2"
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
func (v view) table(head []string, rows [][]string) []string {
	s, others, longest := measured(head, rows)
	switch {
	case v.width == 0 || others+longest <= v.width:
		return table(v.dress, head, rows)
	case v.width-others >= leastText:
		return v.rows(s, head, rows, others)
	case others-2 <= v.width:
		return v.rows(s, head[:len(head)-1], rows, textIndent)
	}
	return v.lists(head, rows)
}

// fits says whether all cells of the rows but the last stand beside each other.
func (v view) fits(head []string, rows [][]string) bool {
	_, others, _ := measured(head, rows)
	return v.width == 0 || others-2 <= v.width
}

// measured is the sheet that rows are set in, how wide all cells but the last are with
// the space after each, and how wide the last is at the most.
func measured(head []string, rows [][]string) (s *sheet, others, longest int) {
	s = &sheet{}
	s.fit(head...)
	longest = lipgloss.Width(head[len(head)-1])
	for _, row := range rows {
		s.fit(row...)
		longest = max(longest, lipgloss.Width(row[len(row)-1]))
	}
	for _, w := range s.widths {
		others += w + 2
	}
	return s, others, longest
}

// rows are those of a table whose last cell is wrapped behind an indent: beside the
// others, or, if the head does not have it, below them.
func (v view) rows(s *sheet, head []string, rows [][]string, indent int) []string {
	lines := []string{v.dress.title.Render(s.line(head...))}
	for _, row := range rows {
		last := len(row) - 1
		text := wrap(row[last], max(1, v.width-indent))
		if len(head) == len(row) {
			lines = append(lines, s.line(append(row[:last:last], text[0])...))
			text = text[1:]
		} else {
			lines = append(lines, s.line(append(row[:last:last], "")...))
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
func (v view) lists(head []string, rows [][]string) []string {
	lines := []string{v.dress.title.Render(head[0])}
	var s sheet
	names := make([]string, len(head))
	for i, h := range head {
		names[i] = "  " + strings.ToLower(h)
		s.fit(names[i], "")
	}
	for _, row := range rows {
		lines = append(lines, row[0])
		for i, cell := range row[1:] {
			if cell == "" || cell == "-" {
				continue
			}
			begin := s.line(names[i+1], "x")
			lines = append(lines, hang(begin[:len(begin)-1], cell, v.width)...)
		}
	}
	return lines
}

// narrower is the view with some columns less.
func (v view) narrower(by int) view {
	if v.width > 0 {
		v.width = max(1, v.width-by)
	}
	return v
}

// styled has each of the lines in a style.
func (v view) styled(style func(...string) string, lines []string) []string {
	for i := range lines {
		lines[i] = style(lines[i])
	}
	return lines
}
