//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/doorward/doorward/e2e/campaign/judge"
)

// daemon starts doorwardd and ends it, and knows when it was ready. Only the
// tormentor calls start and end; running may be asked by anybody.
type daemon struct {
	c      *campaign
	bin    string
	notify *net.UnixConn // systemd's end of sd_notify(3)
	ready  chan struct{} // READY=1 was said
	log    *os.File

	cmd    *exec.Cmd
	ended  chan struct{}      // closed when cmd has ended
	up     func(judge.Moment) // ends the window in which no daemon is ready
	nobody func(judge.Moment) // ends the window in which the table was removed

	mu    sync.Mutex   // guards what follows
	pid   int          // 0: not ready
	since judge.Moment // when it became ready
}

func newDaemon(c *campaign, bin string) (*daemon, error) {
	path := c.net.Path("notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	log, err := os.Create(c.net.Path("doorwardd.log"))
	if err != nil {
		return nil, err
	}
	d := &daemon{c: c, bin: bin, notify: notify, ready: make(chan struct{}, 1), log: log}
	d.up = c.events.Begin(judge.Down, 0)
	d.nobody = c.events.Begin(judge.Unguarded, 0)
	go d.listen() // ends when notify is closed
	return d, nil
}

func (d *daemon) listen() {
	b := make([]byte, 4096)
	for {
		n, err := d.notify.Read(b)
		if err != nil {
			return
		}
		if strings.Contains("\n"+string(b[:n]), "\nREADY=1") {
			select {
			case d.ready <- struct{}{}:
			default:
			}
		}
	}
}

// launch starts a daemon and does not wait for it to be ready.
func (d *daemon) launch() error {
	select {
	case <-d.ready: // of the one before
	default:
	}
	d.cmd = d.c.net.server.Command(context.Background(), "env", "NOTIFY_SOCKET="+d.c.net.Path("notify"), "STATE_DIRECTORY="+d.c.net.state,
		d.bin+"/doorwardd", "-c", d.c.net.configPath)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		return err
	}
	cmd, ended := d.cmd, make(chan struct{})
	d.ended = ended
	go func() { // ends with the process
		cmd.Wait()
		close(ended)
	}()
	return nil
}

// start starts a daemon and waits until it is ready. What the one before has
// left to a program that it was starting when it was killed, its lock and its
// table, is waited for, but not for long: on a machine that stalls the start may
// have to be tried again, as systemd does.
func (d *daemon) start() error {
	begun := d.c.now()
	for {
		if err := d.launch(); err != nil {
			return err
		}
		err := d.awaitReady()
		if err == nil || len(d.c.events.During(judge.Span{Begin: begun - time.Second, End: d.c.now()}, judge.Stall)) == 0 {
			return err
		}
		d.c.count("starts tried again, since the machine stalled")
		begun = d.c.now() + time.Second
		time.Sleep(time.Second)
	}
}

// tooLong is when a start has failed.
const tooLong = 15 * time.Second

func (d *daemon) awaitReady() error {
	select {
	case <-d.ready:
	case <-d.ended:
		return errors.New("doorwardd ended at its start")
	case <-time.After(tooLong):
		d.cmd.Process.Kill()
		<-d.ended
		return fmt.Errorf("doorwardd was not ready within %s", tooLong)
	}
	now := d.c.now()
	d.up(now)
	d.nobody(now)
	d.nobody = func(judge.Moment) {}
	d.mu.Lock()
	d.pid, d.since = d.cmd.Process.Pid, now
	d.mu.Unlock()
	return nil
}

// end ends the daemon with a signal, in whatever it is doing.
func (d *daemon) end(sig syscall.Signal) error {
	d.mu.Lock()
	wasReady := d.pid != 0
	d.pid = 0
	d.mu.Unlock()
	if wasReady {
		d.up = d.c.events.Begin(judge.Down, d.c.now())
	}
	select {
	case <-d.ended:
		return d.died()
	default:
	}
	if sig == syscall.SIGKILL {
		d.c.count("kills")
	}
	if err := d.cmd.Process.Signal(sig); err != nil {
		return err
	}
	select {
	case <-d.ended:
		return nil
	case <-time.After(tooLong):
		d.cmd.Process.Kill()
		<-d.ended
		return fmt.Errorf("doorwardd did not end within %s of %v", tooLong, sig)
	}
}

// died is the error of a daemon that has ended by itself.
func (d *daemon) died() error {
	return fmt.Errorf("doorwardd ended by itself: %v", d.cmd.ProcessState)
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

func (d *daemon) close() {
	if d.ended != nil {
		d.cmd.Process.Kill()
		<-d.ended
	}
	d.notify.Close()
	d.log.Close()
}

// said is the end of what the daemons have said.
func (d *daemon) said(lines int) string {
	out, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// saidOf is what the daemons have said of a source.
func (d *daemon) saidOf(source string) string {
	out := ""
	for line := range strings.Lines(d.said(1 << 30)) {
		if strings.Contains(line, `"`+source+`"`) {
			out += line
		}
	}
	return out
}
