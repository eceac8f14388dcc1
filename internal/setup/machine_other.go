//go:build !linux

package setup

import (
	"context"
	"os"

	"github.com/doorward/doorward/internal/service"
)

// This returns the machine that the command runs on, which is no gateway: there is no
// daemon for this system.
func This() Machine { return Machine{Root: os.DirFS("/")} }

// UnitNames finds no unit files here.
func UnitNames(_ context.Context, unit string) service.Names {
	return service.NamesByLinks("", unit)
}
