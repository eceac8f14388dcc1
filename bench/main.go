//go:build linux

// Command bench measures doorward beside Debian's knockd and fwknopd, set up to
// open the same TCP port, in one run and with one method, on hosts that are
// network namespaces of this machine. README.md beside it says how each figure
// comes about. It judges nothing: the figures are for people.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/priority"
	"github.com/doorward/doorward/internal/seal"
)

// The network: the visitor comes from any address of sources, so that each run
// is the first of its source and nothing has to be closed in between.
const (
	serverAddr = "192.0.2.1"
	port       = 2222 // what all three open
)

var sources = []string{"198.51.100.0/24", "203.0.113.0/24"} // never changed

// options are the command line.
type options struct {
	bin   string
	runs  int
	limit time.Duration
	idle  time.Duration
	only  string
	load  string
	many  int
	delay time.Duration
}

func main() {
	if len(os.Args) > 3 && os.Args[1] == withSlowSyncs {
		err := execSlowSyncs(os.Args[2], os.Args[3], os.Args[4:])
		fmt.Fprintf(os.Stderr, "bench: error: %s: %v\n", os.Args[3], err)
		os.Exit(1)
	}
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "directory of the programs doorwardd and doorward")
	flag.IntVar(&o.runs, "runs", 120, "openings measured of each, at most 160")
	flag.DurationVar(&o.limit, "limit", 40*time.Second, "time for the openings of each; what is done by then counts")
	flag.DurationVar(&o.idle, "idle", 10*time.Second, "how long each is watched when idle")
	flag.StringVar(&o.only, "only", "", "one of knockd, fwknopd, doorward, sealed and load")
	flag.DurationVar(&o.delay, "delay", 0, "of each datagram of fwknopd's and sealed knocks, either way; only openings are measured then")
	flag.StringVar(&o.load, "load", "", "of the loads, and of what sealed knocks are measured under, those alone whose names have this in them")
	flag.IntVar(&o.many, "grants", 1_000_000, "grants that stand over a restart, at most 16,777,216")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

// gate is one of the daemons that are compared.
type gate interface {
	// start puts the daemon in front of the port on the bench's server and
	// returns when it listens to knocks. It returns the daemon's process.
	start(context.Context, *bench) (pid int, err error)
	// knock does all of a source's knock but for the last packet, and returns
	// the function that sends that. Both run on a thread in the visitor's
	// network.
	knock(source string) (last func() error, err error)
}

// result is what one daemon came to.
type result struct {
	name  string
	times []time.Duration
	idle  idle
	grown []growth // doorward alone
}

// growth is the time to open while other grants are active.
type growth struct {
	grants   int
	times    []time.Duration
	resident int64
}

func run(ctx context.Context, o options) error {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	fmt.Printf("Linux %s, %d cores, %s\n", strings.TrimSpace(string(kernel)), runtime.NumCPU(), runtime.Version())
	as := unix.Rlimit{Cur: 20 - priority.Nice, Max: 20 - priority.Nice} // LimitNICE= in the unit
	if err := unix.Setrlimit(unix.RLIMIT_NICE, &as); err != nil {
		fmt.Printf("doorward's threads do not have the priority that they have in its unit: %v\n", err)
	}
	var results []result
	for _, g := range []struct {
		name string
		gate gate
	}{
		{"knockd", &knockd{}}, {"fwknopd", &fwknopd{delay: o.delay}}, {"doorward", &doorward{}},
		{"sealed", &sealed{suite: seal.Hybrid, delay: o.delay}}, {"sealed, X25519", &sealed{suite: seal.X25519, delay: o.delay}},
		{"sealed, one packet", &sealed{suite: seal.Hybrid, single: true, delay: o.delay}},
	} {
		if name, _, _ := strings.Cut(g.name, ","); o.only != "" && o.only != name || o.only == "sealed" && o.load != "" {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s ...\n", g.name)
		r, err := measure(ctx, o, g.name, g.gate)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		results = append(results, r)
	}
	if len(results) > 0 {
		print(os.Stdout, results, o.delay)
	}
	if o.delay > 0 {
		return nil // what follows has none
	}
	if o.only == "" || o.only == "sealed" {
		if err := runSealed(ctx, o); err != nil {
			return err
		}
	}
	if o.only != "" && o.only != "load" {
		return nil
	}
	loads, err := runLoads(ctx, o)
	if err != nil {
		return err
	}
	printLoads(os.Stdout, loads)
	return nil
}

// bench is the network of one measurement.
type bench struct {
	*lab.Lab
	options
	server, visitor *lab.Host
	next            int // how many sources were used
}

// measure starts one daemon on a network of its own and measures it.
func measure(ctx context.Context, o options, name string, g gate) (r result, err error) {
	l, err := lab.New()
	if err != nil {
		return r, err
	}
	defer l.Close()
	b := &bench{Lab: l, options: o}
	if err := b.build(ctx); err != nil {
		return r, err
	}
	pid, err := g.start(ctx, b)
	if err != nil {
		return r, err
	}
	r.name = name
	if r.idle, err = watchIdle(ctx, pid, o.idle); err != nil {
		return r, err
	}
	if r.times, err = b.times(ctx, g, o.runs, nil); err != nil {
		return r, err
	}
	if d, ok := g.(*doorward); ok {
		r.grown, err = d.grow(ctx, b)
	}
	return r, err
}

// build makes the two hosts and the service behind the port.
func (b *bench) build(ctx context.Context) (err error) {
	if b.server, err = b.Host("server"); err != nil {
		return err
	}
	if b.visitor, err = b.Host("visitor"); err != nil {
		return err
	}
	err = b.Link(b.server, []string{serverAddr + "/24", "2001:db8::1/64"},
		b.visitor, []string{"192.0.2.2/24", "2001:db8::2/64"})
	if err != nil {
		return err
	}
	for _, prefix := range sources {
		// A local route makes every address of the prefix the visitor's own.
		if _, err := b.visitor.Run(ctx, "ip", "route", "add", "local", prefix, "dev", "lo"); err != nil {
			return err
		}
		if _, err := b.server.Run(ctx, "ip", "route", "add", prefix, "via", "192.0.2.2"); err != nil {
			return err
		}
	}
	if _, err := b.server.Isolate(); err != nil {
		return err
	}
	return b.serve()
}

// serve accepts connections to the port and closes them, until the bench ends.
func (b *bench) serve() error {
	return b.server.Do(func() error {
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		go func() { // ends with the process: a bench is short
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
		return nil
	})
}

// source is a source address that was not used before.
func (b *bench) source() (string, error) {
	const each = 250
	n := b.next
	if b.next++; n >= each*len(sources) {
		return "", fmt.Errorf("all %d sources are used up: fewer -runs", n)
	}
	return strings.TrimSuffix(sources[n/each], "0/24") + fmt.Sprint(n%each+1), nil
}
