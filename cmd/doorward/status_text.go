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
	width  int  // in which lines are to fit; 0: as long as they are
	detail bool // one door and all about it; otherwise long lists are cut
}

// shortList is how many grants, penalties or refusals an overview shows.
const shortList = 20

// lines returns the snapshot as lines: whether the doors are guarded, what needs acting
// on, and how things stand.
func (v view) lines(s control.Status) []string { return append(v.guarded(s), v.body(s)...) }

// body is what stands below whether the doors are guarded.
func (v view) body(s control.Status) []string {
	all := append(v.alarms(s), v.configuration(s)...)
	all = append(all, "")
	sections := [][]string{v.doors(s.Doors), v.sessions(s.Doors), v.grants(s.Doors), v.penalties(s.Doors), v.guesses(s.Doors), v.refusals(s.Doors)}
	if v.detail {
		sections = slices.Insert(sections, 1, v.about(s.Doors[0]))
	}
	for _, lines := range sections {
		if len(lines) > 0 {
			all = append(all, lines...)
			all = append(all, "")
		}
	}
	return append(all, v.styled(v.dress.faint.Render, wrap(v.footer(s), v.width))...)
}

// guarded says whether the doors are guarded.
func (v view) guarded(s control.Status) []string {
	if why, no := unguarded(s); no {
		return v.styled(v.dress.bad.Render, hang("NOT GUARDED: ", printable(why), v.width))
	}
	text := "yes, the fence holds " + counted(len(s.Doors), "door")
	if v.detail {
		text = "yes, the fence holds"
	}
	if s.Fence.Owned {
		text += ", and the kernel lets nobody else change it"
	} else {
		text += "; others could change it, and it would be put right at once"
	}
	if s.Fence.Repairs > 0 {
		text += fmt.Sprintf(" (put right %s since the start)", counted(int(s.Fence.Repairs), "time"))
	}
	return v.styled(v.dress.good.Render, hang("guarded: ", text, v.width))
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

// alarms is what an operator should act on, but for what is said already.
func (v view) alarms(s control.Status) []string {
	why, _ := unguarded(s)
	said := []string{why}
	var lines []string
	add := func(style func(...string) string, begin, text string) {
		if slices.ContainsFunc(said, func(s string) bool { return s == text || s != "" && strings.HasSuffix(text, s) }) {
			return
		}
		said = append(said, text)
		lines = append(lines, v.styled(style, hang(begin, printable(text), v.width))...)
	}
	for _, p := range s.Problems {
		add(v.dress.bad.Render, "problem: ", p.Message)
	}
	for _, w := range s.Warnings {
		add(v.dress.warn.Render, "warning: ", w)
	}
	return lines
}

// configuration is which one is in use, and for how long.
func (v view) configuration(s control.Status) []string {
	var lines []string
	if s.Pending != nil {
		lines = v.pendingLines(s.Pending)
	}
	if c := s.Settled; c != nil && c.WentBack() && v.now.Sub(c.Time) < 24*time.Hour {
		lines = append(lines, v.styled(v.dress.warn.Render, hang("rolled back: ", printable(numbered(c.ID)+", at "+
			clockTime(c.Time, v.now)+": "+c.Words()), v.width))...)
	}
	text := printable(s.Config)
	if s.ConfigHash != "" {
		text += ", in use is " + shortHash(s.ConfigHash)
	}
	lines = append(lines, hang("configuration: ", text, v.width)...)
	if s.ConfigDiffers {
		lines = append(lines, v.styled(v.dress.warn.Render, append(hang("configuration: ",
			"the file says something else than what is in use", v.width), "               > doorward diff"))...)
	}
	return lines
}

// pendingLines tell of a configuration that waits to be confirmed.
func (v view) pendingLines(p *control.Pending) []string {
	return v.styled(v.dress.warn.Render, append(hang("pending: ", fmt.Sprintf("%s, applied by %s, goes back at %s unless it is kept",
		numbered(p.ID), printable(p.By), v.until(p.Until)), v.width), "         > doorward apply --keep"))
}

// numbered is what a configuration that waits or waited is called.
func numbered(id uint64) string {
	if id == 0 {
		return "a configuration"
	}
	return fmt.Sprintf("configuration %d", id)
}

// shortHash is as much of a hash as people compare.
func shortHash(hash string) string { return printable(hash[:min(len(hash), 12)]) }

// until writes a moment to come, and how long that takes.
func (v view) until(t time.Time) string {
	return fmt.Sprintf("%s (%s)", clockTime(t, v.now), spell(t.Sub(v.now)))
}

// doors is how each door stands. Where there is no room for all that is told of one,
// services are called by their names alone.
func (v view) doors(doors []control.Door) []string {
	if len(doors) == 0 {
		return []string{"no doors"}
	}
	var rows, short [][]string
	for _, d := range doors {
		dark := "-"
		switch {
		case d.DarkAt != nil:
			dark = spell(d.DarkAt.Sub(v.now))
		case d.State == control.StateOpen:
			dark = "never"
		}
		since, service := v.since(d.Since), v.service(d)
		if !sameDay(d.Since, v.now) {
			since, _, _ = strings.Cut(since, " (") // a date leaves no room for more
		}
		row := []string{printable(d.Name), v.state(d.State), since, service, strconv.Itoa(d.Sessions), dark, printable(why(d))}
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
	var lines []string
	for _, row := range [][]string{
		{"ports", printable(strings.Join(d.Ports, ", "))},
		{"since", v.since(d.Since)},
		{"last seen", seen},
		{"refused", counted(int(d.PacketsRefused), "packet")},
	} {
		lines = append(lines, hang(s.line(row[0], "|")[:s.widths[0]+2], row[1], v.width)...)
	}
	return lines
}

// grants lists who may come in: those who never need to knock first.
func (v view) grants(doors []control.Door) []string {
	var rows [][]string
	total := 0
	for _, d := range doors {
		for _, a := range d.Always {
			rows = append(rows, []string{printable(d.Name), printable(a), "no end", "-", "always, by the configuration"})
		}
		total += len(d.Always)
	}
	for _, d := range doors {
		total += max(d.GrantsTotal, len(d.Grants))
		for _, g := range d.Grants {
			given := "-"
			if g.Given != nil {
				given = clockTime(*g.Given, v.now)
			}
			rows = append(rows, []string{printable(d.Name), printable(g.Source), spell(g.Expires.Sub(v.now)), given, printable(strings.Join(g.For, ", "))})
		}
	}
	return v.list([]string{"GRANTS", "SOURCE", "LEFT", "GIVEN", "BY"}, rows, total)
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

// guesses tells how many knocks were refused lately, and from where most of them came.
func (v view) guesses(doors []control.Door) []string {
	var rows [][]string
	for _, d := range doors {
		g := d.Guesses
		text := v.guessed(g.Day, 24*time.Hour, "day")
		if !g.Hour.Since.Equal(g.Day.Since) { // else both are since the daemon counts
			text = v.guessed(g.Hour, time.Hour, "hour") + "; " + text
		}
		if g.Day.Refused > 0 {
			rows = append(rows, []string{printable(d.Name), text})
		}
	}
	return v.list([]string{"GUESSES", "REFUSED KNOCKS"}, rows, len(rows))
}

// guessed tells of one span: the last hour, say, or since the daemon counts.
func (v view) guessed(g control.GuessesOf, span time.Duration, name string) string {
	when := "in the last " + name
	if v.now.Sub(g.Since) < span {
		when = "since " + clockTime(g.Since, v.now)
	}
	text := fmt.Sprintf("%s %s", thousands(g.Refused), when)
	few := 3
	if v.detail {
		few = len(g.Top)
	}
	var from []string
	for _, f := range g.Top[:min(few, len(g.Top))] {
		n := thousands(f.Refused)
		if f.Error > 0 {
			n = thousands(f.Refused-min(f.Error, f.Refused)) + " to " + n
		}
		from = append(from, printable(f.Prefix)+" "+n)
	}
	switch {
	case len(from) == 0:
		return text
	case len(g.Top) > few:
		from = append(from, "...")
	}
	return text + " (" + strings.Join(from, ", ") + ")"
}

// thousands writes a number as people read it: 1,530.
func thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
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
	lines := v.table(head, rows)
	if more := total - len(rows); more > 0 {
		lines = append(lines, v.styled(v.dress.faint.Render, wrap(fmt.Sprintf("and %d more%s", more, hint), v.width))...)
	}
	return lines
}

// footer says what the figures above come from.
func (v view) footer(s control.Status) string {
	return fmt.Sprintf("doorwardd %s up %s, at %s", printable(s.Version), spell(v.now.Sub(s.Started)), v.now.Format("2006-01-02 15:04:05 MST"))
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
	for _, p := range s.Problems {
		note("problem "+p.Code+" "+p.Door+" "+p.Message, "problem: "+printable(p.Message))
	}
	for _, w := range s.Warnings {
		note("warning "+w, "warning: "+printable(w))
	}
	if s.Pending != nil {
		note("pending", "pending: "+numbered(s.Pending.ID)+" goes back at "+clockTime(s.Pending.Until, now)+" unless kept")
	}
	if s.ConfigHash != "" {
		note("configuration", "configuration: in use is "+shortHash(s.ConfigHash))
	}
	if s.ConfigDiffers {
		note("file", "configuration: the file says something else than what is in use")
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
