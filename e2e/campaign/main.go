//go:build linux

// Command campaign attacks doorward's promise for a given time, and exits with 1 if it
// was broken. The server is a booted Debian in a container: the daemon runs in its unit
// there, locked in, and starts and stops units and a command. Visitors, on a host
// beside it, knock rightly, wrongly, half and not at all; a prober tries new
// connections all the time, from sources of every kind; a tormentor kills the daemon,
// fills its disk, damages its store, takes the table, the link and D-Bus away; an
// inspector compares what the status says with the kernel and the services. What they
// saw goes to the judge (e2e/campaign/judge), which knows the promise and nothing of
// the daemon. The campaign shares no code with what it judges, but for the types of the
// status.
//
// The wall clock is left alone: containers have no realtime clock of their own, and time
// namespaces move the monotonic one alone (time_namespaces(7)).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/doorward/doorward/e2e/campaign/judge"
	"github.com/doorward/doorward/e2e/lab"
)

// options are the command line.
type options struct {
	bin    string        // directory of doorwardd and doorward
	length time.Duration // of the campaign
	seed   uint64
	most   int // findings after which it ends early
	// quick is how long a right knock may take to open where no service must
	// start: more on a machine that is busy with other things.
	quick  time.Duration
	faults string   // to be planted: "all", or names separated by commas
	favour []string // torments that come more often than others
	calm   bool     // there are no storms of kills
}

func main() {
	var o options
	flag.StringVar(&o.faults, "faults", "", "plant these faults into doorwardd, one after the other (\"all\", or names "+
		"separated by commas), and see how long each stays unnoticed")
	flag.StringVar(&o.bin, "bin", "bin", "directory of the programs doorwardd and doorward")
	flag.DurationVar(&o.length, "for", time.Minute, "how long")
	flag.Uint64Var(&o.seed, "seed", 1, "what is done and in which order; the same number means the same choices")
	flag.IntVar(&o.most, "most", 3, "findings after which it ends early")
	flag.DurationVar(&o.quick, "quick", time.Second, "how long a right knock may take to open where no service must start")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.faults != "" {
		err = runFaults(ctx, o, os.Stdout)
	} else {
		_, err = run(ctx, o, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "campaign: error:", err)
		os.Exit(1)
	}
}

// campaign is what all that take part in it share. Its methods may be called by
// several goroutines.
type campaign struct {
	options
	net    *network
	doors  []*door
	daemon *daemon
	events judge.Events
	begun  time.Time
	stop   context.CancelFunc
	live   registry
	ended  chan *episode    // to be judged
	heard  lab.Eavesdropper // of sealed knocks

	mu       sync.Mutex // guards what follows
	counts   map[string]int
	excused  map[judge.What]int
	findings []finding
	greatest map[string]int64
}

// finding is a broken promise.
type finding struct {
	at   judge.Moment
	what string
}

// first is the finding's first line.
func (f finding) first() string {
	line, _, _ := strings.Cut(f.what, "\n")
	return line
}

func (c *campaign) now() judge.Moment { return time.Since(c.begun) }

func (c *campaign) door(name string) *door {
	for _, d := range c.doors {
		if d.Name == name {
			return d
		}
	}
	panic("campaign: internal error: no door " + name)
}

// dice are one actor's choices.
func (c *campaign) dice(actor uint64) *rand.Rand { return rand.New(rand.NewPCG(c.seed, actor)) }

func (c *campaign) count(what string) { c.add(what, 1) }

func (c *campaign) add(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[what] += n
}

// atMost keeps the greatest value that was seen of something.
func (c *campaign) atMost(what string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.greatest[what] = max(c.greatest[what], n)
}

// broken notes a broken promise.
func (c *campaign) broken(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := finding{c.now(), fmt.Sprintf(format, args...)}
	if len(c.findings) < c.most && c.faults == "" {
		fmt.Fprintf(os.Stderr, "broken at %.3f: %s\n", f.at.Seconds(), f.first())
	}
	c.findings = append(c.findings, f)
	if len(c.findings) >= c.most {
		c.stop()
	}
}

// run runs one campaign. Its error says that it could not be carried out, or
// that promises were broken; then it has printed how.
func run(ctx context.Context, o options, out io.Writer) (found []finding, err error) {
	if o.bin, err = filepath.Abs(o.bin); err != nil {
		return nil, err
	}
	net, err := newNetwork(ctx, o.bin)
	if err != nil {
		return nil, err
	}
	c := &campaign{options: o, net: net, doors: doors(o.quick), begun: time.Now(), ended: make(chan *episode, 1024),
		counts: map[string]int{}, excused: map[judge.What]int{}, greatest: map[string]int64{}}
	defer func() {
		if e := net.close(); err == nil {
			err = e
		}
	}()
	c.daemon = newDaemon(c)
	if err := c.daemon.start(); err != nil {
		return nil, fmt.Errorf("%w:\n%s", err, c.daemon.said(20))
	}
	ctx, c.stop = context.WithTimeout(ctx, o.length)
	defer c.stop()
	if err := c.play(ctx); err != nil {
		return c.findings, err
	}
	c.sane()
	c.report(out)
	if len(c.findings) > 0 {
		err = fmt.Errorf("promises were broken: %d findings", len(c.findings))
	}
	return c.findings, err
}

// How many of each take part.
const (
	visitors  = 32
	probers   = 48
	holders   = 4
	returners = 4
)

// play has everybody play their part until ctx ends. Then those who watch go
// on until the visits that were under way have ended.
func (c *campaign) play(ctx context.Context) error {
	judges := make(chan struct{})
	go func() { // ends when c.ended is closed
		defer close(judges)
		for e := range c.ended {
			c.judge(e)
		}
	}()
	visits, _ := errgroup.WithContext(ctx)
	watch, stopWatch := context.WithCancel(context.WithoutCancel(ctx))
	watchers, _ := errgroup.WithContext(watch)
	outside := func(g *errgroup.Group, f func() error) { g.Go(func() error { return c.net.outside.Do(f) }) }
	for i := range visitors {
		outside(visits, func() error { return c.visitor(ctx, c.dice(100+uint64(i))) })
	}
	for i := range probers {
		outside(watchers, func() error { return c.prober(watch, c.dice(200+uint64(i))) })
	}
	for i := range holders {
		outside(visits, func() error { return c.holder(ctx, i%2 == 0) })
	}
	visits.Go(func() error { return c.login(ctx) })
	outside(visits, func() error { return c.panelVisitor(ctx, c.dice(3)) })
	visits.Go(func() error { return c.tormentor(ctx, c.dice(1)) })
	outside(visits, func() error { return c.flooder(ctx, c.dice(2)) })
	outside(visits, func() error { return c.guesser(ctx, c.dice(4)) })
	outside(visits, func() error { return c.forger(ctx, c.dice(5)) })
	for i := range returners {
		outside(visits, func() error { return c.returner(ctx, c.dice(300+uint64(i))) })
	}
	outside(visits, func() error { return c.flow(ctx, c.dice(6)) })
	visits.Go(func() error { return c.net.server.Do(func() error { return c.localUser(ctx, c.dice(7)) }) })
	visits.Go(func() error { return c.asker(ctx, c.dice(8)) })
	watchers.Go(func() error { return c.inspector(watch) })
	watchers.Go(func() error { return c.heart(watch) })
	watchers.Go(func() error { return c.progress(watch) })
	err := visits.Wait()
	stopWatch()
	if e := watchers.Wait(); err == nil {
		err = e
	}
	close(c.ended)
	<-judges
	return err
}

// judge judges an episode and counts the verdict.
func (c *campaign) judge(e *episode) {
	for _, p := range e.parts() {
		v := judge.Judge(p, &c.events)
		if v.Wrong != "" {
			c.broken("%s\n%s\nthe daemon of it:\n%s", v.Wrong, v.History, c.daemon.saidOf(p.Source.String()))
		}
		c.mu.Lock()
		c.counts["histories judged"]++
		c.counts["tries judged"] += v.Judged
		c.counts["right knocks that had to open"] += v.Sure
		c.counts["right knocks that might be lost"] += v.Maybe
		c.counts["right knocks that a penalty kept out"] += v.Deaf
		if v.Open {
			c.counts["histories left open"]++
		}
		for what, n := range v.Excused {
			c.excused[what] += n
		}
		c.mu.Unlock()
	}
}

// heart notes when this program did not get to run in time.
func (c *campaign) heart(ctx context.Context) error {
	const beat, late = 10 * time.Millisecond, 150 * time.Millisecond
	for last := c.now(); sleep(ctx, beat); {
		now := c.now()
		if now-last > late {
			c.events.Begin(judge.Stall, last)(now)
			c.atMost("longest stall of the machine, ms", (now - last).Milliseconds())
		}
		last = now
	}
	return nil
}

// progress shows how far the campaign has come: on a terminal all the time, in a log now
// and then.
func (c *campaign) progress(ctx context.Context) error {
	if c.faults != "" {
		return nil
	}
	every, ends := time.Minute, "\n"
	if term.IsTerminal(int(os.Stderr.Fd())) {
		every, ends = time.Second, "\r"
		defer fmt.Fprintln(os.Stderr)
	}
	for sleep(ctx, every) {
		c.mu.Lock()
		fmt.Fprintf(os.Stderr, "campaign: %s of %s, %d kills, %d tries judged, %d violations%s",
			c.now().Round(time.Second), c.length, c.counts["kills"], c.counts["tries judged"], len(c.findings), ends)
		c.mu.Unlock()
	}
	return nil
}

// sane looks for what no daemon must ever say, and whether each was locked in
// when it was ready.
func (c *campaign) sane() {
	said := c.daemon.saidFrom(0)
	for _, bad := range []string{"DATA RACE", "panic:", "fatal error:", "internal error"} {
		if i := strings.Index(said, bad); i >= 0 {
			c.broken("the daemon said %q: %s", bad, said[i:min(len(said), i+2000)])
		}
	}
	starts := strings.Split(said, `"msg":"ready: the doors are guarded"`)
	for _, start := range starts[:len(starts)-1] {
		start = start[max(0, strings.LastIndex(start, `"msg":"nftables table opened"`)):]
		if !strings.Contains(start, `"msg":"the daemon is sandboxed"`) {
			c.broken("P10: the daemon was ready and not locked in: %s", start)
		}
		c.count("starts that were locked in")
	}
}

// report prints what was done and found.
func (c *campaign) report(out io.Writer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(out, "campaign: seed %d, %s\n", c.seed, c.now().Round(time.Second))
	for _, name := range sorted(c.counts) {
		fmt.Fprintf(out, "%9d  %s\n", c.counts[name], name)
	}
	for _, name := range sorted(c.greatest) {
		fmt.Fprintf(out, "%9d  %s\n", c.greatest[name], name)
	}
	for what, n := range c.events.Count() {
		fmt.Fprintf(out, "%9d  times: %s; tries not judged for it: %d\n", n, what, c.excused[what])
	}
	for _, f := range c.findings {
		fmt.Fprintf(out, "\nBROKEN at %.3f: %s\n", f.at.Seconds(), f.what)
	}
	if len(c.findings) > 0 {
		fmt.Fprintf(out, "\nThe daemon said last:\n%s\n", c.daemon.said(30))
	}
	fmt.Fprintf(out, "%d violations\n", len(c.findings))
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// logf prints what is done before a campaign.
func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// sleep says whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// between is a random time.
func between(dice *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(dice.Int64N(int64(most-least)))
}
