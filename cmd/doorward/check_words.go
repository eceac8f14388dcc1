package main

import (
	"fmt"
	"slices"

	"github.com/doorward/doorward/internal/config"
)

// doorWords tells a door in words.
func doorWords(d dress, door *config.Door) []string {
	var ports []string
	for _, r := range door.Ports {
		ports = append(ports, r.String())
	}
	lines := []string{d.title.Render("door "+door.Name) + " guards " + config.Listed(ports)}
	var s sheet
	s.fit("strangers", "")
	add := func(what, words string) { lines = append(lines, "  "+s.line(what, words)) }
	for i := range door.Knocks {
		k := &door.Knocks[i]
		add("knock", knockWords(k))
		add("right", rightWords(door, k))
		add("wrong", wrongWords(k))
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
		add("always", config.Listed(always)+" may come in without knocking")
	}
	add("service", serviceWords(door))
	add("presence", door.Told())
	return lines
}

// knockWords says what a visitor does.
func knockWords(k *config.Knock) string {
	order := "in any order"
	if k.Order == config.GivenOrder {
		order = "in this order"
	}
	if len(k.Touch) == 1 {
		order = "once"
	}
	var alone []uint16
	for _, p := range k.Listen {
		if !slices.Contains(k.Touch, p) {
			alone = append(alone, p)
		}
	}
	words := fmt.Sprintf("touch %s %s within %s", listedPorts(k.Touch), order, config.Short(k.Within))
	if len(alone) > 0 {
		words += ", leave " + listedPorts(alone) + " alone"
	}
	if k.Judge > 0 {
		return words + "; looked at every " + config.Short(k.Judge)
	}
	return words
}

// rightWords says what a right knock gives.
func rightWords(door *config.Door, k *config.Knock) string {
	if k.Scope == config.ScopeDoor {
		return "opens to everybody until the door goes dark"
	}
	words := fmt.Sprintf("opens to the visitor's address for %s", config.Short(door.OpenFor))
	if door.SingleUse {
		return words + ", for one connection"
	}
	return words
}

// wrongWords says what a wrong knock costs.
func wrongWords(k *config.Knock) string {
	who := "its source"
	if k.Scope == config.ScopeDoor {
		who = "everybody"
	}
	if k.Penalty == 0 {
		return "costs nothing"
	}
	words := fmt.Sprintf("makes the door deaf to %s for %s", who, config.Short(k.Penalty))
	if k.Scope != config.ScopeDoor {
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
		name, config.Short(door.Presence.Idle))
}

// listedPorts lists port numbers.
func listedPorts(ports []uint16) string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = fmt.Sprint(p)
	}
	return config.Listed(words)
}
