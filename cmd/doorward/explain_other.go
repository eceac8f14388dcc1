//go:build !linux

package main

import "github.com/doorward/doorward/internal/control"

// firewallsOfOthers has nothing to look at: there is no daemon for this system.
func firewallsOfOthers(*control.Explanation, bool) string {
	return "that is done on the gateway itself"
}
