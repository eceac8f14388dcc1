//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/control"
)

// The loads of this file are what operators and disks do. What a visitor waits at
// most tells whether one of them holds the daemon up.

// slowDisk has each sync of the daemon's files take so long, while strangers'
// wrong knocks give it something to write.
func slowDisk(sync time.Duration) func(context.Context, *loaded) (string, error) {
	return func(ctx context.Context, b *loaded) (string, error) {
		b.under = []string{"strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null",
			"-e", "trace=fsync,fdatasync",
			"-e", fmt.Sprintf("inject=fsync,fdatasync:delay_enter=%d", sync.Microseconds())}
		if err := b.restart(ctx, b.bench); err != nil {
			return "", err
		}
		var next atomic.Uint32
		touching, enough := context.WithCancel(ctx)
		var group errgroup.Group
		group.Go(func() error {
			return b.crowd.Do(func() error { return touchOn(touching, &next, 100, 59001) })
		})
		err := b.visit(ctx, 60)
		enough()
		return fmt.Sprintf("%d wrong knocks meanwhile", next.Load()), errors.Join(err, group.Wait())
	}
}

// otherDoors is the configuration of so many doors beside the one that is measured,
// as a format like doorwardConfig.
func otherDoors(n int, openFor, refuse string) string {
	var all strings.Builder
	all.WriteString(doorwardConfig)
	for i := range n {
		fmt.Fprintf(&all, `
[door.other%d]
ports = ["%d/tcp"]
open_for = %q
refuse = %q

[door.other%d.presence]
logins = "off"

[[door.other%d.knock]]
kind = "touch"
listen = [%d, %d, %d]
touch = [%d, %d]
`, i, 10000+i, openFor, refuse, i, i, 20000+3*i, 20001+3*i, 20002+3*i, 20000+3*i, 20001+3*i)
	}
	return all.String()
}

// with starts the daemon anew with another configuration.
func (b *loaded) with(ctx context.Context, config string) error {
	b.config = config
	return b.restart(ctx, b.bench)
}

// write writes a configuration where the daemon reads it.
func (b *loaded) write(config string) error {
	_, err := b.Write("doorward.toml", fmt.Sprintf(config, b.Path("state"), b.socket(b.bench), port))
	return err
}

// watched has three operators follow the status of 100 doors.
func watched(ctx context.Context, b *loaded) (string, error) {
	if err := b.with(ctx, otherDoors(99, "30s", "drop")); err != nil {
		return "", err
	}
	watching, enough := context.WithCancel(ctx)
	var seen atomic.Int64
	var group errgroup.Group
	for range 3 {
		group.Go(func() error {
			client := control.NewClient(b.socket(b.bench))
			for watching.Err() == nil {
				if _, err := client.Status(watching); err == nil {
					seen.Add(1)
				}
			}
			return nil
		})
	}
	err := b.visit(ctx, b.runs)
	enough()
	return fmt.Sprintf("%d answers to three who never stop asking", seen.Load()), errors.Join(err, group.Wait())
}

// reloaded changes 1,000 doors again and again, and what the fence does for each.
func reloaded(ctx context.Context, b *loaded) (string, error) {
	forms := [2]string{otherDoors(999, "30s", "drop"), otherDoors(999, "40s", "reject")}
	if err := b.with(ctx, forms[0]); err != nil {
		return "", err
	}
	changing, enough := context.WithCancel(ctx)
	times := 0
	var group errgroup.Group
	group.Go(func() error {
		client := control.NewClient(b.socket(b.bench))
		for ; changing.Err() == nil; times++ {
			if err := b.write(forms[(times+1)%2]); err != nil {
				return err
			}
			if err := syscall.Kill(b.gate.PID, syscall.SIGHUP); err != nil {
				return err
			}
			if err := b.inUse(changing, client, times+1); err != nil && changing.Err() == nil {
				return err
			}
		}
		return nil
	})
	err := b.visit(ctx, b.runs)
	enough()
	return fmt.Sprintf("%d changes of all doors meanwhile", times), errors.Join(err, group.Wait())
}

// inUse waits until so many configurations have come into use.
func (b *loaded) inUse(ctx context.Context, client *control.Client, n int) error {
	return lab.Until(ctx, time.Minute, "a configuration in use", func() error {
		s, err := client.Status(ctx)
		if err == nil && s.Events["applied"] < uint64(n) {
			err = errors.New("not yet")
		}
		return err
	})
}

// closed closes a door of 300,000 grants.
func closed(ctx context.Context, b *loaded) (string, error) {
	const many = 300_000
	if err := b.with(ctx, otherDoors(1, "1h", "drop")); err != nil {
		return "", err
	}
	if err := b.giveAt(ctx, b.bench, "other0", 0, many); err != nil {
		return "", err
	}
	var took time.Duration
	var group errgroup.Group
	group.Go(func() error {
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
		begun := time.Now()
		_, err := control.NewClient(b.socket(b.bench)).Close(ctx, control.CloseRequest{Door: "other0"})
		took = time.Since(begun)
		return err
	})
	err := b.visit(ctx, b.runs)
	return fmt.Sprintf("closed after %s", seconds(took)), errors.Join(err, group.Wait())
}
