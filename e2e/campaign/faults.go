//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/mutants"
)

// plant is a fault of internal/mutants that shows from outside within a short
// campaign, and the torments under which it does, if they are rare ones.
type plant struct {
	mutants.Mutant
	favour []string
}

// planted are the faults. The error says which the table of mutants has not.
func planted() ([]plant, error) {
	all, err := mutants.Load()
	if err != nil {
		return nil, err
	}
	var some []plant
	for _, p := range [][]string{
		{"any-port-is-right"}, {"repeat-counts"}, {"sources-share-a-knock"}, {"second-knock-does-not-renew"},
		{"grant-lasts-a-second-longer"}, {"penalised-are-heard"}, {"penalty-is-twice-as-long"},
		{"penalty-is-not-saved", killed}, {"penalty-begins-anew", killed},
		{"death-of-a-service-is-not-heard", serviceKilled},
		{"lost-grants-are-believed", operatorOpens, flushedWhileDead},
		{"new-door-is-not-guarded", applied}, {"nothing-is-rolled-back", applied}, {"pending-is-not-saved", applied},
		{"syn-on-an-entry-is-believed"}, {"syn-spends-the-grant"}, {"flows-outlive-close"}, {"any-signature-will-do"},
		{"handshakes-are-not-remembered"},
	} {
		i := slices.IndexFunc(all, func(m mutants.Mutant) bool { return m.Name == p[0] })
		if i < 0 {
			return nil, fmt.Errorf("there is no mutant %q", p[0])
		}
		some = append(some, plant{all[i], p[1:]})
	}
	return some, nil
}

// atMost is how long a fault may stay unnoticed.
const atMost = 4 * time.Minute

// runFaults plants one fault after the other into doorwardd and runs a campaign
// against it, until it is found. The error names those that were not.
func runFaults(ctx context.Context, o options, out io.Writer) error {
	all, err := planted()
	if err != nil {
		return err
	}
	var unnoticed error
	fmt.Fprintf(out, "%-34s %-8s %-12s %s\n", "fault", "breaks", "found after", "as")
	for _, m := range all {
		if o.faults != "all" && !slices.Contains(strings.Split(o.faults, ","), m.Name) {
			continue
		}
		found, as, err := hunt(ctx, o, m)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			unnoticed = errors.Join(unnoticed, fmt.Errorf("the fault %q could not be planted: %w", m.Name, err))
			fmt.Fprintf(out, "%-34s %-8s could not be planted\n", m.Name, m.Breaks)
		case as == "":
			unnoticed = errors.Join(unnoticed, fmt.Errorf("the fault %q was not found within %s", m.Name, atMost))
			fmt.Fprintf(out, "%-34s %-8s not within %s\n", m.Name, m.Breaks, atMost)
		default:
			fmt.Fprintf(out, "%-34s %-8s %9.1f s  %s\n", m.Name, m.Breaks, found.Seconds(), as)
		}
	}
	return unnoticed
}

// hunt builds doorwardd with a fault and returns when it was found, and as what;
// "" if it was not.
func hunt(ctx context.Context, o options, m plant) (found time.Duration, as string, err error) {
	dir, err := os.MkdirTemp("", "doorward-fault-")
	if err != nil {
		return 0, "", err
	}
	defer os.RemoveAll(dir)
	overlay, err := m.Overlay(dir)
	if err != nil {
		return 0, "", err
	}
	build := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-o", dir, "./cmd/doorwardd", "./cmd/doorward")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	// In a storm of kills little is certain of a knock.
	o.bin, o.length, o.most, o.favour, o.calm = dir, atMost, 1, m.favour, true
	findings, err := run(ctx, o, io.Discard)
	if len(findings) > 0 {
		return findings[0].at, findings[0].first(), nil
	}
	return 0, "", err
}
