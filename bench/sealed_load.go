//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/seal"
)

// onOneCore has the daemon on the first processor; what knocks is on all of them.
var onOneCore = []string{"taskset", "-c", "0"}

// strain is one thing that sealed knocks are measured under, and what it came to.
type strain struct {
	name     string
	gate     gate
	runs     int // of the visitor meanwhile
	run      func(context.Context, *bench, *strain) (stop func() (note string))
	note     string
	times    []time.Duration
	shutOut  int
	resident int64
}

// runSealed measures what only sealed knocks have: how many there can be in a second, what
// junk does to them, and what one more credential costs.
func runSealed(ctx context.Context, o options) error {
	oneCore := func(s seal.Suite, keys int) *sealed {
		return &sealed{doorward: doorward{under: onOneCore}, suite: s, keys: keys}
	}
	all := []*strain{
		{name: "knocks a second, hybrid suite, key", gate: oneCore(seal.Hybrid, 0), run: many(func(g *sealed) func(int) prover { return g.byKey })},
		{name: "knocks a second, X25519, secret", gate: oneCore(seal.X25519, 0), run: many(func(g *sealed) func(int) prover { return g.bySecret })},
		{name: "fwknopd, knocks a second", gate: &fwknopd{}, run: manyPackets},
		{name: "junk without a tag", gate: oneCore(seal.Hybrid, 0), runs: o.runs, run: junk(false, 0)},
		{name: "junk with a tag", gate: oneCore(seal.Hybrid, 0), runs: o.runs, run: junk(true, 0)},
		{name: "fwknopd, 20,000 a second", gate: &fwknopd{}, runs: 5, run: junk(false, 20_000)},
	}
	for _, keys := range []int{0, 936, 9_936, 99_936} { // 100,000 with those of the people
		all = append(all, &strain{name: fmt.Sprintf("%d keys", keys+64), gate: oneCore(seal.Hybrid, keys), runs: o.runs})
	}
	all = slices.DeleteFunc(all, func(s *strain) bool { return !strings.Contains(s.name, o.load) })
	for _, s := range all {
		fmt.Fprintf(os.Stderr, "measuring sealed knocks: %s ...\n", s.name)
		if err := s.measure(ctx, o); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	printStrains(os.Stdout, all)
	return nil
}

func (s *strain) measure(ctx context.Context, o options) error {
	l, err := lab.New()
	if err != nil {
		return err
	}
	defer l.Close()
	b := &bench{Lab: l, options: o}
	if err := b.build(ctx); err != nil {
		return err
	}
	// The crowd's addresses are the visitor's, too: who sends is not what is measured.
	if _, err := b.visitor.Run(ctx, "ip", "route", "add", "local", crowdPrefix, "dev", "lo"); err != nil {
		return err
	}
	if _, err := b.server.Run(ctx, "ip", "route", "add", crowdPrefix, "via", "192.0.2.2"); err != nil {
		return err
	}
	pid, err := s.gate.start(ctx, b)
	if err != nil {
		return err
	}
	stop := func() string { return s.note }
	if s.run != nil {
		stop = s.run(ctx, b, s)
	}
	if s.runs > 0 {
		s.times, err = b.times(ctx, s.gate, s.runs, &s.shutOut)
	}
	s.note = stop()
	if err != nil {
		return err
	}
	s.resident, err = resident(pid)
	return err
}

// each is how many knocks each of the people has, and manyLast how long all have for them.
const (
	each     = 256
	manyLast = 15 * time.Second
)

// many counts knocks that were answered while all people knock one after the other, from a
// new network each time. Their hellos are made before, and they leave the daemon its core,
// where there is another: what they do themselves is not what is measured.
func many(by func(*sealed) func(int) prover) func(context.Context, *bench, *strain) func() string {
	return func(ctx context.Context, b *bench, s *strain) func() string {
		g, _ := s.gate.(*sealed)
		note, err := g.crowd(ctx, b, by(g))
		if err != nil {
			note = err.Error()
		}
		return func() string { return note }
	}
}

func (g *sealed) crowd(ctx context.Context, b *bench, by func(int) prover) (string, error) {
	lines, err := g.lines(ctx, b)
	if err != nil {
		return "", err
	}
	var hellos [len(g.people)][each]*seal.Visitor
	var making errgroup.Group
	for who := range hellos {
		making.Go(func() (err error) {
			for n := range hellos[who] {
				if hellos[who][n], err = seal.NewVisitor(g.peer, g.suite); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := making.Wait(); err != nil {
		return "", err
	}
	back, err := leaveCore(0)
	if err != nil {
		return "", err
	}
	defer back()
	ctx, stop := context.WithTimeout(ctx, manyLast)
	defer stop()
	before, err := spent(g.gate.PID)
	if err != nil {
		return "", err
	}
	var opened, lost atomic.Int64
	var group sync.WaitGroup
	begun := time.Now()
	for who := range hellos {
		group.Go(func() {
			for n := 0; n < each && ctx.Err() == nil; n++ {
				if err := g.whole(lines[who].from(who, n), hellos[who][n], by(who)); err != nil {
					lost.Add(1)
					continue
				}
				opened.Add(1)
			}
		})
	}
	group.Wait()
	took, n := time.Since(begun), max(1, opened.Load())
	after, err := spent(g.gate.PID)
	return fmt.Sprintf("%.0f a second, %d lost; µs of CPU each: %d, a visitor's %d", float64(opened.Load())/took.Seconds(), lost.Load(),
		(after.daemon-before.daemon).Microseconds()/n, (after.visitors-before.visitors).Microseconds()/n), err
}

// cpu is what was spent so far by the daemon and by who knocks, which is this process.
type cpu struct{ daemon, visitors time.Duration }

func spent(pid int) (c cpu, err error) {
	if c.daemon, _, err = usage(pid); err == nil {
		c.visitors, _, err = usage(os.Getpid())
	}
	return c, err
}

// leaveCore keeps this process's threads off a processor, if there is another, until back
// is called.
func leaveCore(n int) (back func(), err error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil || all.Count() < 2 {
		return func() {}, err
	}
	others := all
	others.Clear(n)
	set := func(to *unix.CPUSet) error {
		tasks, err := os.ReadDir("/proc/self/task")
		for _, t := range tasks {
			var tid int
			if tid, err = strconv.Atoi(t.Name()); err == nil {
				_ = unix.SchedSetaffinity(tid, to) // it may have ended
			}
		}
		return err
	}
	return func() { _ = set(&all) }, set(&others)
}

// crowdNetworks are the networks that the crowd knocks from, a /48 each time: each network
// has a share of the daemon's work.
const crowdNetworks = "2001:db8:8000::/33"

// line is a socket of a visitor who has all addresses of the crowd's networks.
type line struct {
	*net.UDPConn
	source []byte // the control message
}

// lines are one for each of the people.
func (g *sealed) lines(ctx context.Context, b *bench) (all []line, err error) {
	for _, c := range []struct {
		host    *lab.Host
		program string
		args    string
	}{
		{b.visitor, "sysctl", "-qw net.ipv6.ip_nonlocal_bind=1"},
		{b.visitor, "ip", "route add local " + crowdNetworks + " dev lo"},
		{b.server, "ip", "route add " + crowdNetworks + " via 2001:db8::2"},
	} {
		if _, err := c.host.Run(ctx, c.program, strings.Fields(c.args)...); err != nil {
			return all, err
		}
	}
	err = b.visitor.Do(func() error {
		for range g.people {
			c, err := net.ListenUDP("udp6", nil)
			if err != nil {
				return err
			}
			all = append(all, line{UDPConn: c})
		}
		return nil
	})
	return all, err
}

// from is the line with the source of somebody's knock.
func (l line) from(who, n int) line {
	at := uint16(who*each + n)
	l.source = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: [16]byte{0x20, 0x01, 0x0d, 0xb8, 0x80 | byte(at>>8), byte(at), 15: 1}})
	return l
}

var serverAddr6 = netip.MustParseAddrPort(fmt.Sprintf("[2001:db8::1]:%d", sealedPort)) // never changed

// Write sends a datagram from the source.
func (l line) Write(d []byte) (int, error) {
	n, _, err := l.WriteMsgUDPAddrPort(d, l.source, serverAddr6)
	return n, err
}

// Read receives one.
func (l line) Read(b []byte) (int, error) {
	n, _, err := l.ReadFromUDPAddrPort(b)
	return n, err
}

// whole is a knock up to the answer.
func (g *sealed) whole(c net.Conn, v *seal.Visitor, by prover) error {
	request, err := g.shake(c, v, by)
	if err != nil {
		return err
	}
	a, err := g.answer(c, v, request)
	if err == nil && a.Status != seal.Opened {
		err = fmt.Errorf("refused: %d", a.Reason)
	}
	return err
}

// junk sends datagrams that are no knock from 64 addresses, so many a second or, for 0, as
// fast as one thread can, until it is stopped. With a tag they are altered behind it, so
// that the gateway does the work of opening them.
func junk(tagged bool, rate int) func(context.Context, *bench, *strain) func() string {
	return func(ctx context.Context, b *bench, s *strain) func() string {
		to, d := net.UDPAddr{IP: net.ParseIP(serverAddr), Port: 62201}, make([]byte, 225)
		if g, ok := s.gate.(*sealed); ok {
			to.Port = sealedPort
			if v, err := seal.NewVisitor(g.peer, g.suite); tagged && err == nil {
				d = v.Hello()
				d[len(d)/2] ^= 1
			}
		}
		ctx, stop := context.WithCancel(ctx)
		var sent atomic.Uint64
		begun := time.Now()
		var group errgroup.Group
		group.Go(func() error {
			return b.visitor.Do(func() error { return flood(ctx, &to, d, rate, &sent) })
		})
		return func() string {
			stop()
			err := group.Wait()
			note := fmt.Sprintf("%.0f a second", float64(sent.Load())/time.Since(begun).Seconds())
			if err != nil {
				note = err.Error()
			}
			return note
		}
	}
}

func flood(ctx context.Context, to *net.UDPAddr, d []byte, rate int, sent *atomic.Uint64) error {
	var from []*net.UDPConn
	for n := range 64 {
		a := member(uint32(n) << 8) // each of another network
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: a[:]}, to)
		if err != nil {
			return err
		}
		defer c.Close()
		from = append(from, c)
	}
	begun := time.Now()
	for ctx.Err() == nil {
		for _, c := range from {
			_, _ = c.Write(d) // what does not fit into a queue is lost, as on a network
			sent.Add(1)
		}
		if ahead := time.Duration(float64(sent.Load())/float64(max(rate, 1))*1e9) - time.Since(begun); rate > 0 && ahead > 0 {
			time.Sleep(ahead)
		}
	}
	return nil
}

func printStrains(out io.Writer, all []*strain) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nsealed knocks, the daemon on one core\t\tresident\tvisitor: median\t95% within\tshut out\t")
	for _, s := range all {
		median, most, out := "", "", ""
		if len(s.times) > 0 {
			median, most = millis(quantile(s.times, 0.5)), millis(quantile(s.times, 0.95))
			out = fmt.Sprintf("%d of %d", s.shutOut, len(s.times))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t\n", s.name, s.note, megabytes(s.resident), median, most, out)
	}
	w.Flush()
}
