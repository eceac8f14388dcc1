//go:build linux

package main

import (
	"context"
	"io"
)

func runFaults(ctx context.Context, o options, out io.Writer) error { return nil }
