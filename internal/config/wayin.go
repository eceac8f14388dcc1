package config

import (
	"slices"

	"github.com/doorward/doorward/internal/port"
)

// WayIn returns the ports that any other firewall must let through: those that doors
// guard, and those where knocks are heard, each once.
func (c *Config) WayIn() (all []port.Range) {
	add := func(r port.Range) {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	for _, d := range c.Doors {
		for _, r := range d.Ports {
			add(r)
		}
		for _, k := range d.Knocks {
			for _, p := range k.Hears() {
				add(p.Range())
			}
		}
	}
	return all
}
