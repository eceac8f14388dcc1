package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/doorward/doorward/internal/service"
)

// unitTime is how long systemd may take to tell a unit's names.
const unitTime = 10 * time.Second

// unitNames is what systemd calls a unit, by its own word where it runs, and by
// the links between unit files where it does not.
func unitNames(ctx context.Context, unit string) service.Names {
	ctx, cancel := context.WithTimeout(ctx, unitTime)
	defer cancel()
	facts, err := service.NewUnit(unit, slog.New(slog.DiscardHandler)).Facts(ctx)
	if err != nil {
		return service.NamesByLinks("", unit)
	}
	return facts.Names
}
