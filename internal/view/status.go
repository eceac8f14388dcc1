// Package view writes what the daemon knows for people: its status, once or live on a
// terminal, the changes of the status, who gets in where, and the audit trail. It asks
// nobody, and has no clock but the one it is given.
package view

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
)

// View writes for people. Spans of time are counted from Now, not from the snapshot's
// time, since the snapshot is as old as the last change.
type View struct {
	Styles output.Styles
	Now    time.Time // in the zone in which times are shown
	Width  int       // how wide lines may be; 0 for no limit
	Detail bool      // all about a single door; otherwise long lists are cut
}

// shortList is how many grants, penalties or refusals an overview shows.
const shortList = 20

// Status returns the snapshot as lines: whether the doors are guarded, what an operator
// should act on, and the state of everything.
func (v View) Status(s control.Status) []string { return append(v.guarded(s), v.body(s)...) }

// body returns all but the first lines of Status, which say whether the doors are guarded.
func (v View) body(s control.Status) []string {
	all := append(v.alarms(s), v.configuration(s)...)
	all = append(all, "")
	sections := [][]string{v.doors(s.Doors), v.sessions(s.Doors), v.grants(s.Doors), v.penalties(s.Doors), v.guesses(s.Doors), v.refusals(s.Doors)}
	if v.Detail {
		sections = slices.Insert(sections, 1, v.about(s.Doors[0]))
	}
	for _, lines := range sections {
		if len(lines) > 0 {
			all = append(all, lines...)
			all = append(all, "")
		}
	}
	return append(all, v.styled(v.Styles.Faint.Render, output.Wrap(v.footer(s), v.Width))...)
}

// guarded says whether the doors are guarded.
func (v View) guarded(s control.Status) []string {
	if why, no := unguarded(s); no {
		return v.styled(v.Styles.Bad.Render, output.Hang("NOT GUARDED: ", output.Text(why), v.Width))
	}
	text := "yes, the fence holds " + output.Counted(len(s.Doors), "door")
	if v.Detail {
		text = "yes, the fence holds"
	}
	if s.Fence.Owned {
		text += ", and the kernel lets nobody else change it"
	} else {
		text += "; others could change it, and it would be put right at once"
	}
	if s.Fence.Repairs > 0 {
		text += fmt.Sprintf(" (put right %s since the start)", output.Counted(int(s.Fence.Repairs), "time"))
	}
	return v.styled(v.Styles.Good.Render, output.Hang("guarded: ", text, v.Width))
}

// unguarded says why the doors are not guarded, or may not be.
func unguarded(s control.Status) (why string, no bool) {
	for _, p := range s.Problems {
		if p.Code == control.ProblemFence {
			return p.Message, true
		}
	}
	switch {
	case !s.Fence.Up && s.Fence.Mismatch != "":
		return "the fence is down: " + s.Fence.Mismatch, true
	case !s.Fence.Up:
		return "the fence is down", true
	case s.Fence.Mismatch != "":
		return "the fence differs from what it should be: " + s.Fence.Mismatch, true
	}
	return "", false
}

// alarms returns what an operator should act on, except what the lines of guarded say
// already.
func (v View) alarms(s control.Status) []string {
	why, _ := unguarded(s)
	said := []string{why}
	var lines []string
	add := func(style func(...string) string, begin, text string) {
		if slices.ContainsFunc(said, func(s string) bool { return s == text || s != "" && strings.HasSuffix(text, s) }) {
			return
		}
		said = append(said, text)
		lines = append(lines, v.styled(style, output.Hang(begin, output.Text(text), v.Width))...)
	}
	for _, p := range s.Problems {
		add(v.Styles.Bad.Render, "problem: ", p.Message)
	}
	for _, w := range s.Warnings {
		add(v.Styles.Warn.Render, "warning: ", w)
	}
	return lines
}

// configuration returns which configuration is in use, and whether another waits, was
// rolled back, or is in the file.
func (v View) configuration(s control.Status) []string {
	var lines []string
	if s.Pending != nil {
		lines = v.pendingLines(s.Pending)
	}
	if c := s.Settled; c != nil && c.WentBack() && v.Now.Sub(c.Time) < 24*time.Hour {
		lines = append(lines, v.styled(v.Styles.Warn.Render, output.Hang("rolled back: ", output.Text(numbered(c.ID)+", at "+
			output.Clock(c.Time, v.Now)+": "+c.Words()), v.Width))...)
	}
	text := output.Text(s.Config)
	if s.ConfigHash != "" {
		text += ", " + shortHash(s.ConfigHash) + " is in use"
	}
	lines = append(lines, output.Hang("configuration: ", text, v.Width)...)
	if s.ConfigDiffers {
		lines = append(lines, v.styled(v.Styles.Warn.Render, append(output.Hang("configuration: ",
			"the file is not the same as what is in use", v.Width), "               > doorward diff"))...)
	}
	return lines
}

// pendingLines returns lines about a configuration that waits to be confirmed.
func (v View) pendingLines(p *control.Pending) []string {
	return v.styled(v.Styles.Warn.Render, append(output.Hang("pending: ", fmt.Sprintf("%s, applied by %s, goes back at %s unless it is kept",
		numbered(p.ID), output.Text(p.By), v.until(p.Until)), v.Width), "         > doorward apply --keep"))
}

// numbered names a configuration that waits to be confirmed, or did.
func numbered(id uint64) string {
	if id == 0 {
		return "a configuration"
	}
	return fmt.Sprintf("configuration %d", id)
}

// shortHash returns as much of a hash as people compare.
func shortHash(hash string) string { return output.Text(hash[:min(len(hash), 12)]) }

// until returns a time to come, and how far away it is.
func (v View) until(t time.Time) string {
	return fmt.Sprintf("%s (%s)", output.Clock(t, v.Now), output.Spell(t.Sub(v.Now)))
}

// doors returns a table of the doors. If it is too wide, services are named without
// ".service".
func (v View) doors(doors []control.Door) []string {
	if len(doors) == 0 {
		return []string{"no doors"}
	}
	var rows, short [][]string
	for _, d := range doors {
		dark := "-"
		switch {
		case d.DarkAt != nil:
			dark = output.Spell(d.DarkAt.Sub(v.Now))
		case d.State == control.StateOpen:
			dark = "never"
		}
		since, service := v.since(d.Since), v.service(d)
		if !output.SameDay(d.Since, v.Now) {
			since, _, _ = strings.Cut(since, " (") // a date leaves no room for more
		}
		row := []string{output.Text(d.Name), v.state(d.State), since, service, strconv.Itoa(d.Sessions), dark, output.Text(why(d))}
		rows = append(rows, row)
		row = slices.Clone(row)
		row[3] = strings.ReplaceAll(service, ".service", "")
		short = append(short, row)
	}
	head := []string{"DOOR", "STATE", "SINCE", "SERVICE", "SESSIONS", "DARK IN", "WHY"}
	if v.fits(head, rows) {
		return v.table(head, rows)
	}
	head[4] = "SESS"
	return v.table(head, short)
}

// why returns why a door is in its state. It is short for a failsafe, about which there
// is a warning with all the details.
func why(d control.Door) string {
	if d.State != control.StateFailsafe {
		return d.Reason
	}
	short, _, _ := strings.Cut(d.Reason, ": ")
	return short
}

func (v View) state(state string) string {
	switch state {
	case control.StateOpen:
		return v.Styles.Good.Render(state)
	case control.StateOpening, control.StateClosing:
		return v.Styles.Warn.Render(state)
	case control.StateFailsafe:
		return v.Styles.Bad.Render(state)
	}
	return output.Text(state)
}

// since returns when something began, and how long ago that was.
func (v View) since(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%s (%s)", output.Clock(t, v.Now), output.Spell(v.Now.Sub(t)))
}

func (v View) service(d control.Door) string {
	switch {
	case d.Service == "":
		return "always runs"
	case d.Running:
		return output.Text(d.Service) + " runs"
	case d.State == control.StateOpen:
		return v.Styles.Bad.Render(output.Text(d.Service) + " is down")
	}
	return output.Text(d.Service) + " is down"
}

// about returns what the overview has no room for.
func (v View) about(d control.Door) []string {
	seen := "nobody yet"
	if d.LastSeen != nil {
		seen = v.since(*d.LastSeen)
	}
	var c output.Columns
	c.Fit("last seen", "")
	var lines []string
	for _, row := range [][]string{
		{"ports", output.Text(strings.Join(d.Ports, ", "))},
		{"since", v.since(d.Since)},
		{"last seen", seen},
		{"refused", output.Counted(int(d.PacketsRefused), "packet")},
	} {
		lines = append(lines, output.Hang(c.Before(row[0]), row[1], v.Width)...)
	}
	return lines
}

// grants lists who may come in, beginning with those who never need to knock.
func (v View) grants(doors []control.Door) []string {
	var rows [][]string
	total := 0
	for _, d := range doors {
		for _, a := range d.Always {
			rows = append(rows, []string{output.Text(d.Name), output.Text(a), "no end", "-", "always, by the configuration"})
		}
		total += len(d.Always)
	}
	for _, d := range doors {
		total += max(d.GrantsTotal, len(d.Grants))
		for _, g := range d.Grants {
			given := "-"
			if g.Given != nil {
				given = output.Clock(*g.Given, v.Now)
			}
			rows = append(rows, []string{output.Text(d.Name), output.Text(g.Source), output.Spell(g.Expires.Sub(v.Now)), given, output.Party(strings.Join(g.For, ", "), v.Width)})
		}
	}
	return v.list([]string{"GRANTS", "SOURCE", "LEFT", "GIVEN", "BY"}, rows, total)
}

func (v View) penalties(doors []control.Door) []string {
	var rows [][]string
	total := 0
	for _, d := range doors {
		total += max(d.PenaltiesTotal, len(d.Penalties))
		for _, p := range d.Penalties {
			rows = append(rows, []string{output.Text(d.Name), output.Text(p.Source), output.Spell(p.Until.Sub(v.Now)), output.Text(p.Reason)})
		}
	}
	return v.list([]string{"PENALTIES", "SOURCE", "LEFT", "WHY"}, rows, total)
}

// guesses lists how many knocks were refused lately, and from where most of them came.
func (v View) guesses(doors []control.Door) []string {
	var rows [][]string
	for _, d := range doors {
		g := d.Guesses
		text := v.guessed(g.Day, 24*time.Hour, "day")
		if !g.Hour.Since.Equal(g.Day.Since) { // otherwise both begin with the daemon's first count
			text = v.guessed(g.Hour, time.Hour, "hour") + "; " + text
		}
		if g.Day.Refused > 0 {
			rows = append(rows, []string{output.Text(d.Name), text})
		}
	}
	return v.list([]string{"GUESSES", "REFUSED KNOCKS"}, rows, len(rows))
}

// guessed returns the refused knocks of one span in words. If the daemon has counted for
// less than the span, it says since when.
func (v View) guessed(g control.GuessesOf, span time.Duration, name string) string {
	when := "in the last " + name
	if v.Now.Sub(g.Since) < span {
		when = "since " + output.Clock(g.Since, v.Now)
	}
	text := fmt.Sprintf("%s %s", thousands(g.Refused), when)
	few := 3
	if v.Detail {
		few = len(g.Top)
	}
	var from []string
	for _, f := range g.Top[:min(few, len(g.Top))] {
		n := thousands(f.Refused)
		if f.Error > 0 {
			n = thousands(f.Refused-min(f.Error, f.Refused)) + " to " + n
		}
		from = append(from, output.Text(f.Prefix)+" "+n)
	}
	switch {
	case len(from) == 0:
		return text
	case len(g.Top) > few:
		from = append(from, "...")
	}
	return text + " (" + strings.Join(from, ", ") + ")"
}

// thousands returns a number with commas: 1,530.
func thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// refusals lists the latest refusals of all doors, newest first.
func (v View) refusals(doors []control.Door) []string {
	var last []audit.Record
	for _, d := range doors {
		last = append(last, d.Refusals...)
	}
	slices.SortStableFunc(last, func(a, b audit.Record) int { return b.Time.Compare(a.Time) })
	var rows [][]string
	for _, r := range last {
		rows = append(rows, []string{output.Text(r.Door), output.Text(r.Source), output.Clock(r.Time, v.Now), output.Text(r.Reason)})
	}
	return v.list([]string{"REFUSALS", "SOURCE", "TIME", "WHY"}, rows, len(rows))
}

// list returns a table of rows, cut short in an overview; nothing for no rows. total is
// how many there are, of which the daemon may have listed only the latest.
func (v View) list(head []string, rows [][]string, total int) []string {
	if len(rows) == 0 {
		return nil
	}
	hint := ""
	if len(rows) > shortList && !v.Detail {
		hint = ": doorward status DOOR lists all"
		if total > len(rows) {
			hint = ": doorward status DOOR lists the latest"
		}
		rows = rows[:shortList]
	}
	lines := v.table(head, rows)
	if more := total - len(rows); more > 0 {
		lines = append(lines, v.styled(v.Styles.Faint.Render, output.Wrap(fmt.Sprintf("and %d more%s", more, hint), v.Width))...)
	}
	return lines
}

// footer says which daemon the figures come from, and when.
func (v View) footer(s control.Status) string {
	return fmt.Sprintf("doorwardd %s up %s, at %s", output.Text(s.Version), output.Spell(v.Now.Sub(s.Started)), v.Now.Format("2006-01-02 15:04:05 MST"))
}
