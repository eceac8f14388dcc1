//go:build !linux

package main

import (
	"context"

	"github.com/doorward/doorward/internal/service"
)

// unitNames has no unit files to look at here.
func unitNames(_ context.Context, unit string) service.Names {
	return service.NamesByLinks("", unit)
}
