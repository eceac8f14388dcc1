//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/control"
)

// crowd is where the load comes from: every source is one of these, and so many.
const crowdPrefix, crowdAddr = "198.18.0.0/15", "192.0.2.130"

// load is one kind of load, and what it came to.
type load struct {
	name     string
	run      func(context.Context, *loaded) (note string, err error)
	note     string
	took     time.Duration
	resident int64
	times    []time.Duration // what a visitor meanwhile waits for
	shutOut  int             // how many of them were given up
	turns    turns           // of the daemon, since its start
	waits    turns           // of touches for one of those
}

// loaded is the network of one load, with a third host.
type loaded struct {
	*bench
	doorward
	crowd *lab.Host
	load  *load
}

// runLoads measures doorward under each load, on a network of its own.
func runLoads(ctx context.Context, o options) ([]*load, error) {
	loads := []*load{
		{name: "no load", run: func(context.Context, *loaded) (string, error) { return "", nil }},
		{name: "10,000 touches a second", run: touchesEverySecond},
		{name: "10,000 connections held open", run: connectionsHeld},
		{name: "1 GB of auth log at the start", run: bigLog},
		{name: fmt.Sprintf("%d grants over a restart", o.many), run: grantsOverRestart},
		{name: "a million audit records", run: auditRecords},
		{name: "a disk that takes 20 ms", run: slowDisk(20 * time.Millisecond)},
		{name: "a disk that takes 2 s", run: slowDisk(2 * time.Second)},
		{name: "status --watch of 100 doors", run: watched},
		{name: "1,000 doors changed by SIGHUP", run: reloaded},
		{name: "closing a door with 300,000 grants", run: closed},
		{name: fmt.Sprintf("all of these at once, at 1,000 doors with %d grants", o.many), run: everything},
	}
	loads = slices.DeleteFunc(loads, func(l *load) bool { return !strings.Contains(l.name, o.load) })
	if len(loads) == 0 {
		return nil, fmt.Errorf("-load %q: no load has that in its name; README.md has their names", o.load)
	}
	for _, l := range loads {
		fmt.Fprintf(os.Stderr, "measuring under load: %s ...\n", l.name)
		if err := l.measure(ctx, o); err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return loads, nil
}

func (l *load) measure(ctx context.Context, o options) error {
	net, err := lab.New()
	if err != nil {
		return err
	}
	defer net.Close()
	b := &loaded{bench: &bench{Lab: net, options: o}, load: l}
	if err := b.build(ctx); err != nil {
		return err
	}
	if b.crowd, err = b.Host("crowd"); err != nil {
		return err
	}
	if err := b.Link(b.crowd, []string{crowdAddr + "/25"}, b.server, []string{"192.0.2.129/25"}); err != nil {
		return err
	}
	if _, err := b.crowd.Run(ctx, "ip", "route", "add", "local", crowdPrefix, "dev", "lo"); err != nil {
		return err
	}
	if _, err := b.server.Run(ctx, "ip", "route", "add", crowdPrefix, "via", crowdAddr); err != nil {
		return err
	}
	if _, err := b.crowd.Run(ctx, "ip", "route", "add", "192.0.2.1", "via", "192.0.2.129"); err != nil {
		return err
	}
	if _, err := b.start(ctx, b.bench); err != nil {
		return err
	}
	begun := time.Now()
	if l.note, err = l.run(ctx, b); err != nil {
		return err
	}
	if l.took == 0 {
		l.took = time.Since(begun)
	}
	if l.times == nil {
		if err := b.visit(ctx, b.runs); err != nil {
			return err
		}
	}
	l.resident = max(l.resident, b.memory())
	l.turns, l.waits, err = b.readTurns(ctx)
	return err
}

// visit measures openings of the visitor, and counts those that were given up.
func (b *loaded) visit(ctx context.Context, runs int) (err error) {
	b.load.times, err = b.times(ctx, &b.doorward, runs, &b.load.shutOut)
	return err
}

// memory is the daemon's, 0 when it is gone.
func (b *loaded) memory() int64 {
	rss, err := resident(b.gate.PID)
	if err != nil {
		return 0
	}
	return rss
}

// member is one of the crowd's addresses.
func member(n uint32) [4]byte {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], 198<<24|18<<16|n)
	return a
}

// begin begins a TCP connection from one of the crowd, and does not wait for it.
func begin(n uint32, port int) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: member(n)}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	to := &unix.SockaddrInet4{Addr: netip.MustParseAddr(serverAddr).As4(), Port: port}
	if err := unix.Connect(fd, to); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// drop ends a connection with a reset.
func drop(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(fd)
}

// touchesEverySecond has the crowd knock rightly, 5,000 sources a second.
func touchesEverySecond(ctx context.Context, b *loaded) (string, error) {
	const knocks, length, threads = 5000, 8 * time.Second, 2
	var next atomic.Uint32
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var group errgroup.Group
	for range threads {
		group.Go(func() error {
			return b.crowd.Do(func() error { return touchOn(ctx, &next, knocks/threads, 59000, 59002) })
		})
	}
	begun := time.Now()
	if err := b.visit(context.WithoutCancel(ctx), 100); err != nil {
		return "", err
	}
	during := b.memory()
	if err := group.Wait(); err != nil {
		return "", err
	}
	b.load.took, b.load.resident = time.Since(begun), during
	sent := int(next.Load())
	opened, err := b.granted(context.WithoutCancel(ctx))
	return fmt.Sprintf("%d touches a second; of %d knocks %.2f %% opened", 2*sent/int(length.Seconds()), sent,
		100*float64(opened-len(b.load.times)+b.load.shutOut)/float64(sent)), err
}

// touchOn touches ports at a rate, each time from the next of the crowd, until
// ctx ends.
func touchOn(ctx context.Context, next *atomic.Uint32, rate int, ports ...int) error {
	const open = 512 // connections that are kept for a moment, to be made before they end
	var ring [open]int
	defer func() {
		for _, fd := range ring {
			if fd > 0 {
				drop(fd)
			}
		}
	}()
	begun := time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		n := next.Add(1) % (1 << 17)
		for j, port := range ports {
			fd, err := begin(n, port)
			if err != nil {
				return err
			}
			at := &ring[(len(ports)*i+j)%open]
			if *at > 0 {
				drop(*at)
			}
			*at = fd
		}
		if ahead := time.Duration(i)*time.Second/time.Duration(rate) - time.Since(begun); ahead > time.Millisecond {
			time.Sleep(ahead)
		}
	}
	return nil
}

// granted is how many grants the status reports, once no more are added.
func (b *loaded) granted(ctx context.Context) (int, error) {
	last := -1
	err := lab.Until(ctx, 20*time.Second, "all touches judged", func() error {
		s, err := control.NewClient(b.socket(b.bench)).Status(ctx)
		if err != nil {
			return err
		}
		if n := s.Doors[0].GrantsTotal; n != last {
			last = n
			return errors.New("grants are still added")
		}
		return nil
	})
	return last, err
}

// connectionsHeld has the crowd connect to a listener and hold on.
func connectionsHeld(ctx context.Context, b *loaded) (string, error) {
	const many = 10_000
	var held []int
	err := b.crowd.Do(func() error {
		for n := range uint32(many) {
			fd, err := begin(n+1, 59000)
			if err != nil {
				return err
			}
			held = append(held, fd)
		}
		return nil
	})
	defer func() {
		for _, fd := range held {
			drop(fd)
		}
	}()
	if err != nil {
		return "", err
	}
	if err := b.visit(ctx, b.runs); err != nil {
		return "", err
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.gate.PID))
	return fmt.Sprintf("%d descriptors of the daemon at the end", len(fds)), err
}

// bigLog starts with an auth log of 1 GB that has not one login, so that all of
// it must be read before the door may hear.
func bigLog(ctx context.Context, b *loaded) (string, error) {
	log := b.Path("auth.log")
	if err := writeLog(log); err != nil {
		return "", err
	}
	if err := b.gate.Stop(); err != nil {
		return "", err
	}
	b.config = strings.Replace(doorwardConfig, `logins = "off"`, fmt.Sprintf("logins = [%q]", log), 1)
	begun := time.Now()
	if _, err := b.start(ctx, b.bench); err != nil {
		return "", err
	}
	ready := time.Since(begun)
	if err := b.visitor.Do(func() error { return b.firstOpening(ctx) }); err != nil {
		return "", err
	}
	b.load.took = time.Since(begun)
	return fmt.Sprintf("ready after %s, the first knock heard after %s", seconds(ready), seconds(b.load.took)), nil
}

// firstOpening knocks until it opens.
func (b *loaded) firstOpening(ctx context.Context) error {
	return lab.Until(ctx, time.Minute, "a first opening", func() error {
		source, err := b.source()
		if err != nil {
			return err
		}
		b.next-- // the same again
		last, err := b.knock(source)
		if err == nil {
			err = last()
		}
		if err != nil {
			return err
		}
		ok, err := connects(netip.MustParseAddr(source).As4(), netip.MustParseAddr(serverAddr).As4())
		if err == nil && !ok {
			err = errors.New("not yet")
		}
		if err == nil {
			b.next++
		}
		return err
	})
}

// writeLog writes 1 GB of an sshd's lines.
func writeLog(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	stamp := time.Now().Format(time.Stamp)
	for n, size := 0, 0; size < 1<<30; n++ {
		k, err := fmt.Fprintf(w, "%s server sshd[%d]: Failed password for invalid user admin%d from 203.0.113.%d port %d ssh2\n",
			stamp, 1000+n%30000, n%977, n%250, 1024+n%60000)
		if err != nil {
			return err
		}
		size += k
	}
	return w.Flush()
}

// grantsOverRestart kills the daemon while very many grants stand.
func grantsOverRestart(ctx context.Context, b *loaded) (string, error) {
	begun := time.Now()
	if err := b.give(ctx, b.bench, 0, b.many); err != nil {
		return "", err
	}
	given, before := time.Since(begun), b.memory()
	if err := b.gate.Kill(); err != nil {
		return "", err
	}
	begun = time.Now()
	if _, err := b.start(ctx, b.bench); err != nil {
		return "", err
	}
	b.load.took = time.Since(begun)
	n, err := b.granted(ctx)
	return fmt.Sprintf("given in %s, then %s resident; ready after %s with %d grants", seconds(given), megabytes(before),
		seconds(b.load.took), n), err
}

// auditRecords has the crowd touch what is to be left alone, a million times: a
// record each.
func auditRecords(ctx context.Context, b *loaded) (string, error) {
	const many, rate, threads, limit = 1_000_000, 10_000, 2, 4 * time.Minute
	var next atomic.Uint32
	touching, enough := context.WithTimeout(ctx, limit)
	defer enough()
	var group errgroup.Group
	for range threads {
		group.Go(func() error {
			return b.crowd.Do(func() error { return touchOn(touching, &next, rate/threads, 59001) })
		})
	}
	begun := time.Now()
	if err := b.visit(ctx, 100); err != nil {
		enough()
		return "", errors.Join(err, group.Wait())
	}
	client, written := control.NewClient(b.socket(b.bench)), uint64(0)
	for written < many && sleep(touching, 200*time.Millisecond) == nil {
		s, err := client.Status(ctx)
		if err != nil {
			return "", err
		}
		written = s.Events["refused"] + s.Events["granted"] + s.Events["opened"]
	}
	b.load.took, b.load.resident = time.Since(begun), b.memory()
	enough()
	if err := group.Wait(); err != nil {
		return "", err
	}
	files, err := filepath.Glob(b.Path("state") + "/doorward.*")
	if err != nil {
		return "", err
	}
	size := int64(0)
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return "", err
		}
		size += info.Size()
	}
	begun = time.Now()
	if _, err := b.gate.Operator(ctx, "log"); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d records, %.0f a second; %s on disk; `doorward log` takes %s", written,
		float64(written)/b.load.took.Seconds(), megabytes(size), seconds(time.Since(begun))), nil
}
