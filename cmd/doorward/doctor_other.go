//go:build !linux

package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

// examine has nothing to look at: there is no daemon for this system.
func examine(*cobra.Command, *env, string, bool) error {
	return withHint(fmt.Errorf("doctor looks at gateways, and those run Linux, not %s", runtime.GOOS),
		"run it on the gateway itself")
}
