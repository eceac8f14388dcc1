//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/control"
)

// doorward opens for two TCP connections to its listeners.
type doorward struct {
	gate   *lab.Doorward
	config string   // a format as doorwardConfig, "" for that one
	under  []string // a program that runs the daemon, nil for none
}

const doorwardConfig = `[gateway]
state = %q
control = %q
metrics = "` + metrics + `"

[door.bench]
ports = ["%d/tcp"]
open_for = "1h"

[door.bench.presence]
idle = "never"
logins = "off"
connections = false

[[door.bench.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
`

func (d *doorward) socket(b *bench) string { return b.Path("control.sock") }

func (d *doorward) start(ctx context.Context, b *bench) (int, error) {
	format := d.config
	if format == "" {
		format = doorwardConfig
	}
	config, err := b.Write("doorward.toml", fmt.Sprintf(format, b.Path("state"), d.socket(b), port))
	if err != nil {
		return 0, err
	}
	if d.gate, err = b.server.Doorward(ctx, b.bin, config, d.socket(b), d.under...); err != nil {
		return 0, err
	}
	return d.gate.PID, nil
}

func (d *doorward) knock(source string) (func() error, error) {
	if err := touch(source, 59000); err != nil {
		return nil, err
	}
	time.Sleep(time.Millisecond) // as for the others
	return func() error { return touch(source, 59002) }, nil
}

// touch completes a TCP handshake and closes the connection.
func touch(source string, port int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(source).As4()}); err != nil {
		return err
	}
	to := &unix.SockaddrInet4{Addr: netip.MustParseAddr(serverAddr).As4(), Port: port}
	if err := unix.Connect(fd, to); err != nil {
		return fmt.Errorf("touch %d: %w", port, err)
	}
	return nil
}

// grow measures openings while 1, 1,000, 100,000 and 1,000,000 other grants are active.
// They are grants of the daemon's own, given over its control socket as an
// operator would, each to an IPv6 source of its own.
func (d *doorward) grow(ctx context.Context, b *bench) ([]growth, error) {
	if err := d.restart(ctx, b); err != nil {
		return nil, err
	}
	var all []growth
	given := 0
	for _, want := range []int{1, 1_000, 100_000, 1_000_000} {
		if err := d.give(ctx, b, given, want); err != nil {
			return nil, err
		}
		given = want
		times, err := b.times(ctx, d, min(b.runs, 80), nil)
		if err != nil {
			return nil, fmt.Errorf("with %d grants: %w", want, err)
		}
		rss, err := resident(d.gate.PID)
		if err != nil {
			return nil, err
		}
		all = append(all, growth{want, times, rss})
	}
	return all, nil
}

// restart starts the daemon with nothing left of the openings before.
func (d *doorward) restart(ctx context.Context, b *bench) error {
	if err := d.gate.Stop(); err != nil {
		return err
	}
	if _, err := b.server.Run(ctx, d.gate.Program("doorwardd"), "--cleanup"); err != nil {
		return err
	}
	if _, err := b.server.Run(ctx, "rm", "-r", b.Path("state")); err != nil {
		return err
	}
	_, err := d.start(ctx, b)
	return err
}

// give gives grants number from to upTo, several at a time.
func (d *doorward) give(ctx context.Context, b *bench, from, upTo int) error {
	return d.giveAt(ctx, b, func(int) string { return "bench" }, from, upTo)
}

// giveAt is give at a door for each.
func (d *doorward) giveAt(ctx context.Context, b *bench, door func(n int) string, from, upTo int) error {
	client := control.NewClient(d.socket(b))
	var next atomic.Int64
	next.Store(int64(from))
	group, ctx := errgroup.WithContext(ctx)
	for range 64 {
		group.Go(func() error {
			for {
				n := next.Add(1) - 1
				if n >= int64(upTo) {
					return nil
				}
				source := net.ParseIP("2001:db8:f::")
				source[13], source[14], source[15] = byte(n>>16), byte(n>>8), byte(n)
				_, err := client.Open(ctx, control.OpenRequest{Door: door(int(n)), Source: source.String(), For: "1h"})
				if err != nil {
					return fmt.Errorf("grant %d: %w", n, err)
				}
			}
		})
	}
	return group.Wait()
}
