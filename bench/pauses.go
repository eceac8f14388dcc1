//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/control"
)

// The loads of this file are what operators and disks do. The longest that a visitor
// waits shows whether one of them holds the daemon up.

// slowDisk has each sync of the daemon's files take so long, while strangers'
// wrong knocks give it something to write.
func slowDisk(sync time.Duration) func(context.Context, *loaded) (string, error) {
	return func(ctx context.Context, b *loaded) (string, error) {
		if err := b.slowDown(sync); err != nil {
			return "", err
		}
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

// slowDown has each sync take so long from the daemon's next start on.
func (b *loaded) slowDown(sync time.Duration) (err error) {
	b.under, err = b.slowSyncs(sync)
	return err
}

// otherDoors is the configuration of so many doors beside the one that is measured,
// as a format like doorwardConfig.
func otherDoors(n int, openFor, how string) string {
	var all strings.Builder
	all.WriteString(doorwardConfig)
	for i := range n {
		fmt.Fprintf(&all, `
[door.other%d]
ports = ["%d/tcp"]
open_for = %q
%s

[door.other%d.presence]
logins = "off"

[[door.other%d.knock]]
kind = "touch"
listen = [%d, %d, %d]
touch = [%d, %d]
`, i, 10000+i, openFor, how, i, i, 20000+3*i, 20001+3*i, 20002+3*i, 20000+3*i, 20001+3*i)
	}
	return all.String()
}

// with restarts the daemon with another configuration.
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
	if err := b.with(ctx, otherDoors(99, "30s", `refuse = "drop"`)); err != nil {
		return "", err
	}
	return b.meanwhile(ctx, b.watch)
}

// watch has three operators ask for the status as soon as they have an answer.
func (b *loaded) watch(ctx context.Context) (string, error) {
	var seen atomic.Int64
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			client := control.NewClient(b.socket(b.bench))
			for ctx.Err() == nil {
				if _, err := client.Status(ctx); err == nil {
					seen.Add(1)
				}
			}
		})
	}
	group.Wait()
	return fmt.Sprintf("%d answers to three who never stop asking", seen.Load()), nil
}

// meanwhile measures the visitor while operators do all of that, until it is done. They
// say what they did.
func (b *loaded) meanwhile(ctx context.Context, operators ...func(context.Context) (string, error)) (string, error) {
	doing, enough := context.WithCancel(ctx)
	notes := make([]string, len(operators))
	var group errgroup.Group
	for i, operator := range operators {
		group.Go(func() (err error) {
			if notes[i], err = operator(doing); doing.Err() != nil {
				return nil
			}
			return err
		})
	}
	err := b.visit(ctx, b.runs)
	enough()
	err = errors.Join(err, group.Wait())
	return strings.Join(notes, "; "), err
}

// reloaded changes 1,000 doors again and again, and what the fence does for each.
func reloaded(ctx context.Context, b *loaded) (string, error) {
	if err := b.with(ctx, forms[0]); err != nil {
		return "", err
	}
	return b.meanwhile(ctx, b.reload)
}

// forms are configurations of 1,000 doors, each of which guards all of them in another way.
var forms = []string{
	otherDoors(999, "30s", `refuse = "drop"`),
	otherDoors(999, "40s", `refuse = "reject"`+"\n"+`always = ["198.18.0.0/15"]`),
	otherDoors(999, "50s", `single_use = true`),
}

// reload has one form after another come into use.
func (b *loaded) reload(ctx context.Context) (string, error) {
	client := control.NewClient(b.socket(b.bench))
	times := 0
	for ; ctx.Err() == nil; times++ {
		if err := b.write(forms[(times+1)%len(forms)]); err != nil {
			return "", err
		}
		if err := syscall.Kill(b.gate.PID, syscall.SIGHUP); err != nil {
			return "", err
		}
		if err := b.inUse(ctx, client, times+1); err != nil && ctx.Err() == nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d changes of all doors", times), nil
}

// everything has operators do all of that at 1,000 doors with very many grants, on a
// disk that is slow.
func everything(ctx context.Context, b *loaded) (string, error) {
	if err := b.with(ctx, forms[0]); err != nil {
		return "", err
	}
	if err := b.giveAt(ctx, b.bench, func(n int) string { return fmt.Sprintf("other%d", n*999/b.many) }, 0, b.many); err != nil {
		return "", err
	}
	if err := b.slowDown(20 * time.Millisecond); err != nil { // only now: a million grants would take it minutes
		return "", err
	}
	if err := b.gate.Stop(); err != nil {
		return "", err
	}
	if _, err := b.start(ctx, b.bench); err != nil {
		return "", err
	}
	return b.meanwhile(ctx, b.watch, b.reload, b.close)
}

// close closes one door after the other.
func (b *loaded) close(ctx context.Context) (string, error) {
	client := control.NewClient(b.socket(b.bench))
	n := 0
	for ; n < 999 && ctx.Err() == nil; n++ {
		if _, err := client.Close(ctx, control.CloseRequest{Door: fmt.Sprintf("other%d", n)}); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d doors closed", n), nil
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
	if err := b.with(ctx, otherDoors(1, "1h", `refuse = "drop"`)); err != nil {
		return "", err
	}
	if err := b.giveAt(ctx, b.bench, func(int) string { return "other0" }, 0, many); err != nil {
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
