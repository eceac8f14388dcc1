package main

import (
	"fmt"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
)

// couldBeDoor says whether a door may have that name.
func couldBeDoor(name string) bool { return config.NameProblem(name) == "" }

// explaining writes an explanation for people.
type explaining struct {
	view
	notLooked string // why other firewalls were not looked at, and on a second line what to type
}

func (v explaining) lines(x control.Explanation) []string {
	var all []string
	if p := x.Pending; p != nil {
		all = append(all, v.pendingLines(p)...)
		all = append(all, "")
	}
	for _, d := range x.Doors {
		all = append(all, v.door(x.Source, d)...)
		all = append(all, "")
	}
	if len(x.Doors) == 0 {
		all = append(all, "no doors", "")
	}
	if x.Unread != "" {
		all = append(all, wrap("refusals are not told: "+printable(x.Unread), v.width)...)
	}
	if why, hint, _ := strings.Cut(v.notLooked, "\n"); why != "" {
		all = append(all, wrap("rules of other firewalls were not looked at: "+printable(why), v.width)...)
		if hint != "" {
			all = append(all, "  > "+printable(hint))
		}
	}
	return append(all, v.dress.faint.Render("at "+v.now.Format("2006-01-02 15:04:05 MST")))
}

// cover says what lets the source in.
func (v explaining) cover(c control.Cover) string {
	source := printable(c.Source)
	if source == "any" {
		source = "everybody"
	}
	switch c.By {
	case control.CoverAlways:
		return source + " never needs to knock"
	case control.CoverOwn:
		return source + " is an address of this machine"
	}
	text := source + " has a grant by " + printable(c.By)
	if c.Until != nil {
		text += " until " + v.until(*c.Until)
	}
	return text
}

func (v explaining) door(source string, d control.ExplainedFor) []string {
	says, style := "it cannot be told whether %s gets in", v.dress.warn
	switch {
	case d.GetsIn != nil && *d.GetsIn:
		says, style = "%s gets in", v.dress.good
	case d.GetsIn != nil && len(d.By) > 0:
		says, style = "%s does not get in, although the door lets it in", v.dress.bad
	case d.GetsIn != nil:
		says, style = "%s does not get in", v.dress.bad
	}
	text := fmt.Sprintf("door %s: "+says, printable(d.Door), printable(source))
	if d.Until != nil && d.GetsIn != nil && *d.GetsIn {
		text += " until " + v.until(*d.Until)
	}
	lines := v.styled(style.Render, wrap(text, v.width))
	for _, c := range d.By {
		lines = append(lines, hang("  + ", v.cover(c), v.width)...)
	}
	for _, o := range d.Obstacles {
		text := printable(o.Message)
		if o.Until != nil {
			text += "; until " + v.until(*o.Until)
		}
		lines = append(lines, hang("  - ", text, v.width)...)
		if o.Hint != "" {
			lines = append(lines, "    > "+printable(o.Hint))
		}
	}
	knock := "a right knock from there would not open it now"
	if d.WouldKnock {
		knock = "a right knock from there would open it now"
	}
	lines = append(lines, hang("  ", knock, v.width)...)
	var rows [][]string
	for _, r := range d.Refusals {
		rows = append(rows, []string{clockTime(r.Time, v.now), printable(r.Source), printable(r.Reason)})
	}
	if len(rows) == 0 {
		return lines
	}
	for _, l := range v.narrower(2).table([]string{"REFUSED", "SOURCE", "WHY"}, rows) {
		lines = append(lines, "  "+l)
	}
	return lines
}
