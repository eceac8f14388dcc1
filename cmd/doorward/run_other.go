//go:build !unix

package main

import "os"

// passedOn are the signals that a command gets which run is told.
var passedOn = []os.Signal{os.Interrupt}

// fromTerminal says whether a signal comes from the terminal's keys: a console sends them
// to the command, too.
func fromTerminal(os.Signal) bool { return true }
