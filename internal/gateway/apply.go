package gateway

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/store"
	"github.com/doorward/doorward/internal/tables"
)

// apply reads the configuration file anew and takes it into use. With a confirm
// time what ran before comes back after it, unless the operator keeps the new
// one: that promise is on disk before anything changes.
func (g *Gateway) apply(now time.Time, by string, confirm time.Duration) (control.Reply, error) {
	c, text, err := g.world.Config(g.opts.Path)
	if err != nil {
		return control.Reply{}, &control.Error{Message: "nothing was changed: " + err.Error(),
			Hint: "doorward check " + g.opts.Path}
	}
	if g.applied.Pending != nil && confirm > 0 {
		return control.Reply{}, &control.Error{
			Message: "a configuration waits to be confirmed already, until " + g.applied.Deadline.Format(time.TimeOnly),
			Hint:    "doorward apply --keep, or doorward apply --undo"}
	}
	if confirm > 0 && g.unkept != "" {
		return control.Reply{}, &control.Error{
			Message: "nothing was changed: a restart would not roll it back, since nothing is kept: " + g.unkept,
			Hint:    "mend that and systemctl restart doorward, or doorward apply without --confirm"}
	}
	if c.Gateway != g.config.Gateway {
		return control.Reply{}, &control.Error{
			Message: "nothing was changed: the keys of [gateway] are read at the start only",
			Hint:    "systemctl restart doorward"}
	}
	if err := g.confine(c); err != nil {
		return control.Reply{}, fmt.Errorf("nothing was changed: %w", err)
	}
	if blind := g.blind(c, text); len(blind) > 0 {
		return control.Reply{}, &control.Error{Message: "nothing was changed: " + inOneLine(blind), Hint: blind[0].Hint}
	}
	if err := g.tryPorts(c); err != nil {
		return control.Reply{}, fmt.Errorf("nothing was changed: %w", err)
	}
	next := store.Applied{Confirmed: text}
	if confirm > 0 {
		next = store.Applied{Confirmed: g.applied.Confirmed, Pending: text, Deadline: now.Add(confirm), For: confirm, By: by}
	}
	if err := g.saveApplied(next); err != nil {
		return control.Reply{}, fmt.Errorf("nothing was changed: %w", err)
	}
	left, err := g.use(now, c, text)
	if err != nil {
		if undo := g.saveApplied(g.applied); undo != nil {
			g.changes.applied = &g.applied // with the next commit, then
			err = errors.Join(err, undo)
		}
		return control.Reply{}, fmt.Errorf("nothing was changed: %w", err)
	}
	g.applied = next
	reply := control.Reply{Message: fmt.Sprintf("%s is in use: %s", g.opts.Path, countDoors(c))}
	if confirm > 0 {
		reply.Message += ", until " + next.Deadline.Format(time.TimeOnly) + " unless it is kept"
		reply.Until = &next.Deadline
	}
	reply.Message = strings.Join(append([]string{reply.Message}, left...), "; ")
	g.record(now, audit.EventApplied, by, reply.Message)
	return reply, nil
}

// saveApplied puts which configuration is in use on disk.
func (g *Gateway) saveApplied(a store.Applied) error {
	_, err := g.store.Commit(store.Change{Applied: &a})
	if err == nil {
		g.changes.applied = nil
	}
	return err
}

// keep confirms the configuration that waits.
func (g *Gateway) keep(now time.Time, by string) (control.Reply, error) {
	if g.applied.Pending == nil {
		return control.Reply{}, &control.Error{Message: "no configuration waits to be confirmed"}
	}
	next := store.Applied{Confirmed: g.applied.Pending}
	if err := g.saveApplied(next); err != nil {
		return control.Reply{}, err
	}
	g.applied = next
	g.settled = &control.Settled{Time: now, By: by, Kept: true}
	g.record(now, audit.EventApplied, by, "the new configuration is kept")
	return control.Reply{Message: "the new configuration is kept"}, nil
}

// undo goes back to the configuration before the one that waits. A port of a
// knock that was taken meanwhile is no reason to stay: the ear tries it again.
func (g *Gateway) undo(now time.Time, by, why string) (control.Reply, error) {
	if g.applied.Pending == nil {
		return control.Reply{}, &control.Error{Message: "no configuration waits to be confirmed; there is nothing to undo"}
	}
	c, err := config.Parse(g.opts.Path, g.applied.Confirmed)
	if err != nil {
		return control.Reply{}, fmt.Errorf("the configuration before cannot be read: %w", err)
	}
	if _, err := g.use(now, c, g.applied.Confirmed); err != nil {
		return control.Reply{}, fmt.Errorf("roll back: %w", err)
	}
	g.forgetPending()
	g.changes.applied = &g.applied
	g.settled = &control.Settled{Time: now, By: by}
	message := "the configuration from before is in use again: " + why
	g.warnings = append(g.warnings, fmt.Sprintf("%s was rolled back (%s) and is not in use", g.opts.Path, why))
	g.record(now, audit.EventApplied, by, message)
	return control.Reply{Message: message}, nil
}

// checkApplied rolls back a configuration that nobody kept.
func (g *Gateway) checkApplied(now time.Time) {
	if g.applied.Pending == nil || now.Before(g.applied.Deadline) {
		return
	}
	if _, err := g.undo(now, "", "nobody confirmed the new one in time"); err != nil {
		g.log.Error("cannot roll the configuration back", "err", err)
		g.applied.Deadline = now.Add(fenceRetry)
	}
}

// use takes a checked configuration into use: the fence changes in one
// transaction; doors that stay keep all they know. It answers with what an
// operator should know of doors and services that went. After an error the old one is in
// use.
func (g *Gateway) use(now time.Time, c *config.Config, text []byte) (left []string, err error) {
	if err := g.raise(c); err != nil {
		return nil, errors.Join(fmt.Errorf("raise the fence: %w", err), g.raise(g.config))
	}
	old := make(map[string]*guarded)
	for _, d := range g.doors {
		old[d.name()] = d
	}
	g.config, g.text, g.doors = c, text, nil
	g.warnings = g.warningsOf(c, text)
	for _, conf := range c.Doors {
		d := old[conf.Name]
		if d == nil {
			d = g.newGuarded(conf, door.Saved{}, now)
			d.start(g.ctx)
		} else if told := d.reconfigure(now, conf); told != "" {
			left = append(left, told)
		}
		delete(old, conf.Name)
		g.doors = append(g.doors, d)
	}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		left = append(left, old[name].leave())
		g.endDoor(now, name, left[len(left)-1])
	}
	return left, nil
}

// blind is what keeps c from knowing who is in on this machine: doors whose
// presence hangs on flows, where those cannot be seen.
func (g *Gateway) blind(c *config.Config, text []byte) []*tables.Mistake {
	if !slices.ContainsFunc(c.Doors, func(d config.Door) bool { return d.ByFlows() }) {
		return nil
	}
	if err := g.world.FlowsVisible(); err != nil {
		return c.Blind(g.opts.Path, text, err.Error())
	}
	return nil
}

// inOneLine writes mistakes one after the other.
func inOneLine(all []*tables.Mistake) string {
	var words []string
	for _, m := range all {
		words = append(words, m.Error())
	}
	return strings.Join(words, "; ")
}

// warningsOf is what an operator should know of a configuration that is in use.
// Doors are guarded whatever else is wrong with it, so that a mistake that only
// this machine makes one is a warning too.
func (g *Gateway) warningsOf(c *config.Config, text []byte) []string {
	w := c.Warnings()
	for _, m := range g.blind(c, text) {
		w = append(w, m.Error()+"; "+m.Hint)
	}
	return w
}

// countDoors says how many doors a configuration has.
func countDoors(c *config.Config) string {
	if len(c.Doors) == 1 {
		return "1 door"
	}
	return fmt.Sprintf("%d doors", len(c.Doors))
}
