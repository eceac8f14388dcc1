//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/doorward/doorward/e2e/campaign/judge"
	"github.com/doorward/doorward/e2e/lab"
)

// daemon starts doorward's unit and ends it, and knows when it was ready. Only
// the tormentor calls start and end; running may be asked by anybody.
type daemon struct {
	c      *campaign
	log    string             // what all daemons said
	up     func(judge.Moment) // ends the window in which no daemon is ready
	nobody func(judge.Moment) // ends the window in which the table was removed

	mu    sync.Mutex   // guards what follows
	pid   int          // 0: not ready
	since judge.Moment // when it became ready
}

func newDaemon(c *campaign) *daemon {
	d := &daemon{c: c, log: c.net.machine.Path(daemonLog)}
	d.up = c.events.Begin(judge.Down, 0)
	d.nobody = c.events.Begin(judge.Unguarded, 0)
	return d
}

// tooLong is when an order to the unit has failed.
const tooLong = 15 * time.Second

// order has systemd do something with the unit.
func (d *daemon) order(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), tooLong)
	defer cancel()
	out, err := d.c.net.machine.systemctl(ctx, append(args, daemonUnit)...)
	if ctx.Err() != nil {
		err = fmt.Errorf("doorwardd: systemctl %s did not end within %s", args[0], tooLong)
	}
	return out, err
}

// launch starts a daemon and does not wait for it to be ready.
func (d *daemon) launch() error {
	_, err := d.order("start", "--no-block")
	return err
}

// start starts a daemon and waits until systemd knows that it is ready. On a
// machine that stalls the start may have to be tried again, as systemd does.
func (d *daemon) start() error {
	begun := d.c.now()
	for {
		err := d.startOnce()
		if err == nil || len(d.c.events.During(judge.Span{Begin: begun - time.Second, End: d.c.now()}, judge.Stall)) == 0 {
			return err
		}
		d.c.count("starts tried again, since the machine stalled")
		begun = d.c.now() + time.Second
		time.Sleep(time.Second)
	}
}

func (d *daemon) startOnce() error {
	begun := d.c.now()
	if _, err := d.order("start"); err != nil {
		return err
	}
	now := d.c.now()
	d.c.atMost("longest start of the unit, ms", (now - begun).Milliseconds())
	d.up(now)
	d.nobody(now)
	d.nobody = func(judge.Moment) {}
	pid, err := d.mainPID()
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.pid, d.since = pid, now
	d.mu.Unlock()
	return nil
}

// mainPID is the daemon's pid as this machine counts.
func (d *daemon) mainPID() (int, error) {
	out, err := d.order("show", "--property=MainPID", "--value")
	if err != nil {
		return 0, err
	}
	inside, _ := strconv.Atoi(out)
	pid := d.c.net.machine.ServicePID(inside)
	if pid == 0 {
		return 0, d.died()
	}
	return pid, nil
}

// end ends the daemon with SIGKILL or SIGTERM, in whatever it is doing.
func (d *daemon) end(sig syscall.Signal) error {
	d.mu.Lock()
	pid := d.pid
	d.pid = 0
	d.mu.Unlock()
	if pid != 0 {
		d.up = d.c.events.Begin(judge.Down, d.c.now())
		if syscall.Kill(pid, 0) != nil {
			return d.died()
		}
	}
	if sig == syscall.SIGKILL {
		if err := d.kill(pid); err != nil {
			return err
		}
	}
	_, err := d.order("stop") // of what was killed: waits until systemd knows
	if err != nil {
		_, _ = d.order("kill", "--signal=KILL")
	}
	return err
}

// kill is kill -9 of the daemon, of the given pid if it was ready.
func (d *daemon) kill(pid int) error {
	d.c.count("kills")
	if pid != 0 {
		return syscall.Kill(pid, syscall.SIGKILL)
	}
	if state, err := d.order("show", "--property=ActiveState", "--value"); err != nil || state == "failed" {
		return errors.Join(err, d.died())
	}
	_, _ = d.order("kill", "--kill-whom=main", "--signal=KILL") // it may not be born yet
	return nil
}

// reload sends SIGHUP, and waits until the daemon says what came of it.
func (d *daemon) reload() error {
	before := d.size()
	if _, err := d.order("kill", "--kill-whom=main", "--signal=HUP"); err != nil {
		return errors.Join(err, d.died())
	}
	return lab.Until(context.Background(), tooLong, "an answer to the reload", func() error {
		said := d.saidFrom(before)
		if strings.Contains(said, " in use") || strings.Contains(said, `"msg":"cannot use the new configuration`) {
			return nil
		}
		return errors.New("none yet")
	})
}

// died is the error of a daemon that has ended by itself.
func (d *daemon) died() error {
	out, _ := d.order("show", "--property=Result", "--property=ExecMainStatus", "--value")
	return fmt.Errorf("doorwardd ended by itself: %s", strings.Fields(out))
}

// running returns the process and how long it has been ready, 0 for none.
func (d *daemon) running() (pid int, since judge.Moment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pid, d.since
}

// unguard notes that the table is removed while no daemon lives.
func (d *daemon) unguard() {
	before := d.nobody
	d.nobody = d.c.events.Begin(judge.Unguarded, d.c.now())
	before(d.c.now())
}

// size is how much the daemons have said.
func (d *daemon) size() int64 {
	info, err := os.Stat(d.log)
	if err != nil {
		return 0 // before the first start
	}
	return info.Size()
}

// saidFrom is what the daemons have said since there was so much of it.
func (d *daemon) saidFrom(offset int64) string {
	f, err := os.Open(d.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	out, err := io.ReadAll(io.NewSectionReader(f, offset, math.MaxInt64-offset))
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// said is the end of what the daemons have said.
func (d *daemon) said(lines int) string {
	all := strings.Split(strings.TrimSpace(d.saidFrom(0)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// saidOf is what the daemons have said of a source.
func (d *daemon) saidOf(source string) string {
	out := ""
	for line := range strings.Lines(d.saidFrom(0)) {
		if strings.Contains(line, `"`+source+`"`) {
			out += line
		}
	}
	return out
}
