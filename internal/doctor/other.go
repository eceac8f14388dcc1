//go:build !linux

package doctor

import (
	"context"
	"time"
)

// Host is a machine that doctor cannot examine.
type Host struct{}

// This returns ErrNotLinux: there is no daemon for this system.
func This(string, string, func() time.Time) (*Host, error) { return nil, ErrNotLinux }

// Run is never called.
func (*Host) Run(context.Context) []Finding { return nil }
