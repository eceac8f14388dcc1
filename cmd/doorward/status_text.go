package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// view writes a snapshot for people. Times are counted from now and not from
// the snapshot, which is as old as the last change.
type view struct {
	dress  dress
	now    time.Time
	detail bool // one door and all about it; otherwise long lists are cut
}

// shortList is how many grants, penalties or refusals an overview shows.
const shortList = 20

// lines returns the snapshot as lines, what needs acting on first.
func (v view) lines(s control.Status) []string {
	sections := [][]string{v.alarms(s), v.doors(s.Doors), v.sessions(s.Doors), v.grants(s.Doors), v.penalties(s.Doors), v.refusals(s.Doors)}
	if v.detail {
		sections = slices.Insert(sections, 2, v.about(s.Doors[0]))
	}
	var all []string
	for _, lines := range sections {
		if len(lines) > 0 {
			all = append(all, lines...)
			all = append(all, "")
		}
	}
	return append(all, v.dress.faint.Render(v.footer(s)))
}

// alarms is what an operator should act on.
func (v view) alarms(s control.Status) []string {
	var lines []string
	told := func(w string) bool { return strings.HasPrefix(w, "the fence is down") }
	if !s.Fence.Up && !slices.ContainsFunc(s.Warnings, told) {
		lines = append(lines, v.dress.bad.Render("warning: the fence is down: the doors are not guarded"))
	}
	for _, w := range s.Warnings {
		lines = append(lines, v.dress.warn.Render("warning: "+printable(w)))
	}
	if p := s.Pending; p != nil {
		lines = append(lines, v.dress.warn.Render(fmt.Sprintf(
			"pending: the configuration applied by %s goes back in %s, unless kept: doorward apply --keep",
			printable(p.By), spell(p.Until.Sub(v.now)))))
	}
	return lines
}

func (v view) doors(doors []control.Door) []string {
	if len(doors) == 0 {
		return []string{"no doors"}
	}
	var rows [][]string
	for _, d := range doors {
		dark := "-"
		switch {
		case d.DarkAt != nil:
			dark = spell(d.DarkAt.Sub(v.now))
		case d.State == control.StateOpen:
			dark = "never"
		}
		rows = append(rows, []string{printable(d.Name), v.state(d.State), v.since(d.Since), v.service(d),
			strconv.Itoa(d.Sessions), dark, printable(why(d))})
	}
	return table(v.dress, []string{"DOOR", "STATE", "SINCE", "SERVICE", "SESSIONS", "DARK IN", "WHY"}, rows)
}

// why says why a door is as it is. Of a failsafe there is a warning, with each place
// of logins and what to do.
func why(d control.Door) string {
	if d.State != control.StateFailsafe {
		return d.Reason
	}
	short, _, _ := strings.Cut(d.Reason, ": ")
	return short
}

func (v view) state(state string) string {
	switch state {
	case control.StateOpen:
		return v.dress.good.Render(state)
	case control.StateOpening, control.StateClosing:
		return v.dress.warn.Render(state)
	case control.StateFailsafe:
		return v.dress.bad.Render(state)
	}
	return printable(state)
}

// since writes when something began, and how long ago.
func (v view) since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%s (%s)", clockTime(t, v.now), spell(v.now.Sub(t)))
}

func (v view) service(d control.Door) string {
	switch {
	case d.Service == "":
		return "always runs"
	case d.Running:
		return printable(d.Service) + " runs"
	case d.State == control.StateOpen:
		return v.dress.bad.Render(printable(d.Service) + " is down")
	}
	return printable(d.Service) + " is down"
}

// about is what the overview has no room for.
func (v view) about(d control.Door) []string {
	seen := "nobody yet"
	if d.LastSeen != nil {
		seen = v.since(*d.LastSeen)
	}
	var s sheet
	s.fit("last seen", "")
	return []string{
		s.line("ports", printable(strings.Join(d.Ports, ", "))),
		s.line("last seen", seen),
		s.line("refused", counted(int(d.Refused), "packet")),
	}
}

func (v view) grants(doors []control.Door) []string {
	var rows [][]string
	total := 0
	for _, d := range doors {
		total += max(d.GrantsTotal, len(d.Grants))
		for _, g := range d.Grants {
			rows = append(rows, []string{printable(d.Name), printable(g.Source), spell(g.Expires.Sub(v.now)), printable(strings.Join(g.For, ", "))})
		}
	}
	return v.list([]string{"GRANTS", "SOURCE", "LEFT", "FOR"}, rows, total)
}

func (v view) penalties(doors []control.Door) []string {
	var rows [][]string
	total := 0
	for _, d := range doors {
		total += max(d.PenaltiesTotal, len(d.Penalties))
		for _, p := range d.Penalties {
			rows = append(rows, []string{printable(d.Name), printable(p.Source), spell(p.Until.Sub(v.now)), printable(p.Reason)})
		}
	}
	return v.list([]string{"PENALTIES", "SOURCE", "LEFT", "WHY"}, rows, total)
}

// refusals lists those of all doors, newest first.
func (v view) refusals(doors []control.Door) []string {
	var last []audit.Record
	for _, d := range doors {
		last = append(last, d.Refusals...)
	}
	slices.SortStableFunc(last, func(a, b audit.Record) int { return b.Time.Compare(a.Time) })
	var rows [][]string
	for _, r := range last {
		rows = append(rows, []string{printable(r.Door), printable(r.Source), clockTime(r.Time, v.now), printable(r.Reason)})
	}
	return v.list([]string{"REFUSALS", "SOURCE", "TIME", "WHY"}, rows, len(rows))
}

// list returns a table of rows, cut short in an overview, nothing for none. There are
// so many in total, of which the daemon may have listed the latest only.
func (v view) list(head []string, rows [][]string, total int) []string {
	if len(rows) == 0 {
		return nil
	}
	hint := ""
	if len(rows) > shortList && !v.detail {
		hint = ": doorward status DOOR lists all"
		if total > len(rows) {
			hint = ": doorward status DOOR lists the latest"
		}
		rows = rows[:shortList]
	}
	lines := table(v.dress, head, rows)
	if more := total - len(rows); more > 0 {
		lines = append(lines, v.dress.faint.Render(fmt.Sprintf("and %d more%s", more, hint)))
	}
	return lines
}

// footer says what the figures above come from.
func (v view) footer(s control.Status) string {
	fence := "fence down"
	if s.Fence.Up {
		fence = "fence up"
	}
	if s.Fence.Owned {
		fence += " and owned"
	}
	if s.Fence.Repairs > 0 {
		fence += fmt.Sprintf(" (repaired %s)", counted(int(s.Fence.Repairs), "time"))
	}
	return fmt.Sprintf("%s, doorwardd %s up %s, %s", fence, printable(s.Version), spell(v.now.Sub(s.Started)), printable(s.Config))
}

// changePrinter writes a line for each thing that a snapshot changed. The zero
// value has seen nothing, so that the first snapshot is written whole.
type changePrinter struct{ before map[string]string }

// changes returns the lines of what differs from the snapshot before.
func (p *changePrinter) changes(s control.Status, now time.Time) string {
	after := map[string]string{}
	var order []string
	note := func(key, text string) {
		after[key] = text
		order = append(order, key)
	}
	note("fence", "fence "+fenceWord(s.Fence))
	for _, w := range s.Warnings {
		note("warning "+w, "warning: "+printable(w))
	}
	if s.Pending != nil {
		note("pending", "pending: a configuration goes back at "+clockTime(s.Pending.Until, now)+" unless kept")
	}
	for _, d := range s.Doors {
		note("door "+d.Name, doorLine(d))
	}
	var b strings.Builder
	for _, key := range order {
		if p.before[key] != after[key] {
			fmt.Fprintf(&b, "%s  %s\n", clockTime(now, now), after[key])
		}
	}
	var gone []string
	for key, text := range p.before {
		if _, still := after[key]; !still {
			gone = append(gone, text)
		}
	}
	slices.Sort(gone)
	for _, text := range gone {
		fmt.Fprintf(&b, "%s  no more: %s\n", clockTime(now, now), text)
	}
	p.before = after
	return b.String()
}

// doorLine says how a door is, without anything that changes by time alone.
func doorLine(d control.Door) string {
	line := fmt.Sprintf("%s %s, %s, %s, %s", printable(d.Name), printable(d.State), counted(max(d.GrantsTotal, len(d.Grants)), "grant"),
		counted(max(d.PenaltiesTotal, len(d.Penalties)), "penalty"), counted(d.Sessions, "session"))
	if d.Reason != "" {
		line += ": " + printable(d.Reason)
	}
	return line
}

func fenceWord(f control.Fence) string {
	switch {
	case !f.Up:
		return "down"
	case f.Mismatch != "":
		return "up, but it differs: " + printable(f.Mismatch)
	}
	return "up"
}
