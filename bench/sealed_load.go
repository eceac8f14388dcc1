//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

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
		{name: "junk without a tag", gate: oneCore(seal.Hybrid, 0), runs: o.runs, run: junk(false, 0)},
		{name: "junk with a tag", gate: oneCore(seal.Hybrid, 0), runs: o.runs, run: junk(true, 0)},
		{name: "fwknopd, 20,000 a second", gate: &fwknopd{}, runs: 5, run: junk(false, 20_000)},
	}
	for _, keys := range []int{0, 936, 9_936, 99_936} { // 100,000 with those of the people
		all = append(all, &strain{name: fmt.Sprintf("%d keys", keys+64), gate: oneCore(seal.Hybrid, keys), runs: o.runs})
	}
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

// manyLast is how long knocks are counted.
const manyLast = 5 * time.Second

// many counts knocks that were answered while all people knock one after the other, from
// a new address each time.
func many(by func(*sealed) func(int) prover) func(context.Context, *bench, *strain) func() string {
	return func(ctx context.Context, b *bench, s *strain) func() string {
		g, _ := s.gate.(*sealed)
		ctx, stop := context.WithTimeout(ctx, manyLast)
		defer stop()
		var opened, lost, next atomic.Uint64
		var group errgroup.Group
		for who := range g.people {
			group.Go(func() error {
				return b.visitor.Do(func() error {
					for ctx.Err() == nil {
						n := uint32(next.Add(1)) // from another network each time: each has a share
						a := member(n%512<<8 | n/512%256)
						if err := g.whole(netip.AddrFrom4(a).String(), by(g)(who)); err != nil {
							lost.Add(1)
							continue
						}
						opened.Add(1)
					}
					return nil
				})
			})
		}
		err := group.Wait()
		note := fmt.Sprintf("%.0f a second, %d lost", float64(opened.Load())/manyLast.Seconds(), lost.Load())
		if err != nil {
			note = err.Error()
		}
		return func() string { return note }
	}
}

// whole is a knock up to the answer.
func (g *sealed) whole(source string, by prover) error {
	v, err := seal.NewVisitor(g.peer, g.suite)
	if err != nil {
		return err
	}
	c, err := g.dial(source)
	if err != nil {
		return err
	}
	defer c.Close()
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
