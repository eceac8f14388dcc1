package main

import (
	"os"

	"github.com/doorward/doorward/internal/presence"
)

// thisMachine is the machine that the command runs on.
func thisMachine() machine {
	return machine{root: os.DirFS("/"), flows: presence.NewWatcher().FlowsVisible}
}
