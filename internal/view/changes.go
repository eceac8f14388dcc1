package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
)

// Changes writes what differs from one snapshot to the next. The zero value has seen no
// snapshot, so that the first is written completely.
type Changes struct{ before map[string]string }

// Lines returns what differs from the snapshot before, on a line each; "" for nothing.
// now is the time, in the zone in which it is shown.
func (c *Changes) Lines(s control.Status, now time.Time) string {
	after := map[string]string{}
	var order []string
	note := func(key, text string) {
		after[key] = text
		order = append(order, key)
	}
	note("fence", "fence "+fenceWord(s.Fence))
	for _, p := range s.Problems {
		note("problem "+p.Code+" "+p.Door+" "+p.Message, "problem: "+output.Text(p.Message))
	}
	for _, w := range s.Warnings {
		note("warning "+w, "warning: "+output.Text(w))
	}
	if s.Pending != nil {
		note("pending", "pending: "+numbered(s.Pending.ID)+" goes back at "+output.Clock(s.Pending.Until, now)+" unless kept")
	}
	if s.ConfigHash != "" {
		note("configuration", "configuration: "+shortHash(s.ConfigHash)+" is in use")
	}
	if s.ConfigDiffers {
		note("file", "configuration: the file is not the same as what is in use")
	}
	for _, d := range s.Doors {
		note("door "+d.Name, doorLine(d))
	}
	var b strings.Builder
	for _, key := range order {
		if c.before[key] != after[key] {
			fmt.Fprintf(&b, "%s  %s\n", output.Clock(now, now), after[key])
		}
	}
	var gone []string
	for key, text := range c.before {
		if _, still := after[key]; !still {
			gone = append(gone, text)
		}
	}
	slices.Sort(gone)
	for _, text := range gone {
		fmt.Fprintf(&b, "%s  no more: %s\n", output.Clock(now, now), text)
	}
	c.before = after
	return b.String()
}

// doorLine returns a door's state in a line, without anything that changes with time alone.
func doorLine(d control.Door) string {
	line := fmt.Sprintf("%s %s, %s, %s, %s", output.Text(d.Name), output.Text(d.State), output.Counted(max(d.GrantsTotal, len(d.Grants)), "grant"),
		output.Counted(max(d.PenaltiesTotal, len(d.Penalties)), "penalty"), output.Counted(d.Sessions, "session"))
	if d.Reason != "" {
		line += ": " + output.Text(d.Reason)
	}
	return line
}

func fenceWord(f control.Fence) string {
	switch {
	case !f.Up:
		return "down"
	case f.Mismatch != "":
		return "up, but it differs: " + output.Text(f.Mismatch)
	}
	return "up"
}
