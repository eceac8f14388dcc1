package main

import (
	"fmt"
	"io"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/doorward/doorward/internal/config"
)

// daemonGroup is the group by which the daemon reads its configuration.
const daemonGroup = "doorward"

// daemonGroupNumber is the number of that group, 0 where there is none.
func daemonGroupNumber() int {
	g, err := user.LookupGroup(daemonGroup)
	if err != nil {
		return 0
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0 // Windows has no group numbers
	}
	return gid
}

// next says what was written and what to do with it.
func (o *initOptions) next(e *env, w io.Writer, m machine, c *config.Config) error {
	door := &c.Doors[0]
	d := e.dressFor(w)
	var b strings.Builder
	if o.output != "-" {
		fmt.Fprintf(&b, "Written: %s\n", o.output)
	}
	if o.former.path != "" {
		fmt.Fprintf(&b, "The file before is kept: %s\n", o.former.path)
	}
	lost, kept := o.former.changed(c)
	for _, name := range kept {
		fmt.Fprintf(&b, "Door %s has the knock that it had.\n", name)
	}
	if b.Len() > 0 {
		b.WriteString("\n")
	}
	for _, line := range doorWords(d, door) {
		b.WriteString(line + "\n")
	}
	_, notAsked := m.blind(c, "", nil) // mistakes there are none: see propose
	for _, text := range slices.Concat(lost, c.Warnings(), notAsked) {
		fmt.Fprintf(&b, "\n%s: %s\n", d.warn.Render("warning"), printable(text))
	}
	local, _ := m.local()
	if what, do := c.Clashes(local, true); what != "" {
		fmt.Fprintf(&b, "\n%s: %s; to keep them free:\n    %s\n", d.warn.Render("warning"), printable(what), printable(do))
	}
	file, daemon := " "+o.output, "doorwardd -c "+o.output
	if o.output == config.DefaultPath {
		file, daemon = "", "systemctl enable --now doorward"
	} else if o.output == "-" {
		file, daemon = " FILE", "doorwardd -c FILE"
	}
	if o.former.path != "" {
		daemon = "doorward apply --confirm 60s; if no daemon runs yet: " + daemon
	}
	fmt.Fprintf(&b, "\n%s\n", d.title.Render("Next, as root"))
	steps := []string{
		"Keep the session that you are in. It lives on whatever the door does; close it when a new one has worked.",
		"doorward check" + file,
	}
	if door.Service != nil && door.Service.Unit != "" {
		steps = append(steps, "doorward polkit"+file+" --install")
	}
	steps = append(steps,
		"doorward doctor",
		daemon,
		"From another machine: "+visitorLine(door),
		"After a change of the file: doorward apply --confirm 60s",
	)
	for i, s := range steps {
		fmt.Fprintf(&b, "  %d. %s\n", i+1, s)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
