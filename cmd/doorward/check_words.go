package main

import (
	"fmt"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
)

// doorWords tells a door in words.
func doorWords(d dress, door *config.Door) []string {
	var ports []string
	for _, r := range door.Ports {
		ports = append(ports, r.String())
	}
	lines := []string{d.title.Render("door "+door.Name) + " guards " + tables.Listed(ports)}
	var s sheet
	s.fit("strangers", "")
	add := func(what, words string) { lines = append(lines, "  "+s.line(what, words)) }
	for i := range door.Knocks {
		k := &door.Knocks[i]
		add("knock", k.Words())
		add("right", rightWords(door, k))
		add("wrong", wrongWords(door, k))
	}
	if door.Refuse == config.Reject {
		add("strangers", "are refused (TCP reset, ICMP port unreachable)")
	} else {
		add("strangers", "get no answer")
	}
	if len(door.Always) > 0 {
		var always []string
		for _, p := range door.Always {
			always = append(always, p.String())
		}
		add("always", tables.Listed(always)+" may come in without knocking")
	}
	add("service", serviceWords(door))
	add("presence", door.Told())
	return lines
}

// rightWords says what a right knock gives.
func rightWords(door *config.Door, k *config.Knock) string {
	if k.ForAll() {
		return "opens to everybody until the door goes dark"
	}
	words := fmt.Sprintf("opens to the visitor's address for %s", tables.Short(door.OpenFor))
	if door.SingleUse {
		return words + ", for one connection"
	}
	return words
}

// wrongWords says what a wrong knock costs.
func wrongWords(door *config.Door, k *config.Knock) string {
	rule, ok := k.Rule.(knock.Penalised)
	if !ok || rule.Costs() == 0 {
		return "costs nothing"
	}
	what, who := "the door", "its source"
	if len(door.Knocks) > 1 && !door.Shared {
		what = "this knock"
	}
	if k.ForAll() {
		who = "everybody"
	}
	words := fmt.Sprintf("makes %s deaf to %s for %s", what, who, tables.Short(rule.Costs()))
	if !k.ForAll() {
		words += ", doubled each time"
	}
	return words
}

// serviceWords says what is behind the door and when it runs.
func serviceWords(door *config.Door) string {
	if door.Service == nil {
		return "none of doorward's: it always runs"
	}
	name := door.Service.Unit
	if name == "" {
		name = door.Service.Start[0]
	}
	if door.Presence.Idle == 0 {
		return name + " starts when the door opens, and stops when doorward close makes it dark"
	}
	return fmt.Sprintf("%s starts when the door opens, and stops when nobody has been in for %s",
		name, tables.Short(door.Presence.Idle))
}
