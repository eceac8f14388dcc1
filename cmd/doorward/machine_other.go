//go:build !linux

package main

import "os"

// thisMachine is the machine that the command runs on, which is no gateway: there
// is no daemon for this system.
func thisMachine() machine { return machine{root: os.DirFS("/")} }
