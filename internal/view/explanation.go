package view

import (
	"fmt"
	"strings"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
)

// Explanation returns what a connection from an address would meet, as lines. notLooked
// is why other firewalls were not looked at and, on a second line, what to type; "" if
// they were.
func (v View) Explanation(x control.Explanation, notLooked string) []string {
	var all []string
	if p := x.Pending; p != nil {
		all = append(all, v.pendingLines(p)...)
		all = append(all, "")
	}
	for _, d := range x.Doors {
		all = append(all, v.explained(x.Source, d)...)
		all = append(all, "")
	}
	if len(x.Doors) == 0 {
		all = append(all, "no doors", "")
	}
	if x.Unread != "" {
		all = append(all, output.Wrap("refusals are not shown: "+output.Text(x.Unread), v.Width)...)
	}
	if why, hint, _ := strings.Cut(notLooked, "\n"); why != "" {
		all = append(all, output.Wrap("rules of other firewalls were not looked at: "+output.Text(why), v.Width)...)
		if hint != "" {
			all = append(all, "  > "+output.Text(hint))
		}
	}
	return append(all, v.Styles.Faint.Render("at "+v.Now.Format("2006-01-02 15:04:05 MST")))
}

// cover returns what lets the source in, in words.
func (v View) cover(c control.Cover) string {
	source := output.Text(c.Source)
	if source == "any" {
		source = "everybody"
	}
	switch c.By {
	case control.CoverAlways:
		return source + " never needs to knock"
	case control.CoverOwn:
		return source + " is an address of this machine"
	}
	text := source + " has a grant by " + output.Party(c.By, v.Width)
	if c.Until != nil {
		text += " until " + v.until(*c.Until)
	}
	return text
}

func (v View) explained(source string, d control.ExplainedFor) []string {
	says, style := "it is not known whether %s gets in", v.Styles.Warn
	switch {
	case d.GetsIn != nil && *d.GetsIn:
		says, style = "%s gets in", v.Styles.Good
	case d.GetsIn != nil && len(d.By) > 0:
		says, style = "%s does not get in, although the door lets it in", v.Styles.Bad
	case d.GetsIn != nil:
		says, style = "%s does not get in", v.Styles.Bad
	}
	text := fmt.Sprintf("door %s: "+says, output.Text(d.Door), output.Text(source))
	if d.Until != nil && d.GetsIn != nil && *d.GetsIn {
		text += " until " + v.until(*d.Until)
	}
	lines := v.styled(style.Render, output.Wrap(text, v.Width))
	for _, c := range d.By {
		lines = append(lines, output.Hang("  + ", v.cover(c), v.Width)...)
	}
	for _, o := range d.Obstacles {
		text := output.Text(o.Message)
		if o.Until != nil {
			text += "; until " + v.until(*o.Until)
		}
		lines = append(lines, output.Hang("  - ", text, v.Width)...)
		if o.Hint != "" {
			lines = append(lines, "    > "+output.Text(o.Hint))
		}
	}
	knock := "a right knock from there would not open it now"
	if d.WouldKnock {
		knock = "a right knock from there would open it now"
	}
	lines = append(lines, output.Hang("  ", knock, v.Width)...)
	var rows [][]string
	for _, r := range d.Refusals {
		rows = append(rows, []string{output.Clock(r.Time, v.Now), output.Text(r.Source), output.Text(r.Reason)})
	}
	if len(rows) == 0 {
		return lines
	}
	for _, l := range v.narrower(2).table([]string{"REFUSED", "SOURCE", "WHY"}, rows) {
		lines = append(lines, "  "+l)
	}
	return lines
}
