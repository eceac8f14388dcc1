//go:build linux

// Package daemon runs the gateway as a service: it starts and ends its tasks, handles
// signals, reports to systemd (readiness and the watchdog, sd_notify(3)), and writes
// logs. It decides nothing about doors.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/datagrams"
	"github.com/doorward/doorward/internal/descriptors"
	"github.com/doorward/doorward/internal/export"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/gateway"
	"github.com/doorward/doorward/internal/launcher"
	"github.com/doorward/doorward/internal/store"
)

// Group owns the control socket, where it exists: its members are operators.
const Group = "doorward"

// progressTimeout is how long one turn of the gateway may take before it counts as
// stuck and the watchdog is no longer notified.
const progressTimeout = 10 * time.Second

// minThreads is the least GOMAXPROCS, however few processors there are. A thread in a
// long system call, such as a transaction of nf_tables, or one that the kernel has
// preempted for another program, keeps its place meanwhile, and visitors would wait for
// it. With eight, there is a place while the fence, the comparison of grants, several
// operators' answers and the garbage collector, which takes a quarter, have theirs.
const minThreads = 8

// slack is how many bytes the garbage collector takes to be in use beside those that are.
// Nothing touches them, so that they take no memory. The collector lets the heap grow by
// as much as is in use before it runs, which would be a few megabytes: a thousand knocks a
// second would have it run ten times in each, for a seventh of the processor.
const slack = 16 << 20

// Daemon is what Serve runs. All fields are needed.
type Daemon struct {
	ConfigPath string
	Version    string
	Log        *slog.Logger
	Level      *slog.LevelVar // of Log; SIGUSR1 turns debug on and off
}

// Serve guards the doors until ctx ends or SIGINT or SIGTERM is received, and then
// returns nil. The fence still stands then. The caller must not catch the signals that
// Serve handles; a second SIGINT or SIGTERM kills the process.
func (d *Daemon) Serve(ctx context.Context) error {
	runtime.GOMAXPROCS(max(minThreads, runtime.GOMAXPROCS(0)))
	defer runtime.KeepAlive(make([]byte, slack))
	// The process's first thread does not end with a goroutine, as those with a raised
	// priority must. This goroutine, which waits for all others, keeps it from them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	gateway, err := d.place()
	if err != nil {
		return err
	}
	// Nothing above this line changes the machine. What follows needs no disk: the
	// gateway raises the fence before it opens the store.
	held, err := lockDaemon(gateway, d.Log)
	if err != nil {
		return err
	}
	defer held.release()
	table, err := fence.Open(d.Log)
	if err != nil {
		return fmt.Errorf("the fence: %w", err)
	}
	defer d.close("fence", table.Close)
	socket, err := control.Listen(gateway.Control, Group)
	if errors.Is(err, control.ErrInUse) {
		return err
	}
	return d.run(ctx, gateway, table, socket, err)
}

// place returns where the daemon's state and socket are. If the configuration cannot be
// used, the doors need not stay unguarded: the store has the previous one, if there was
// one, and is where systemd or the default says.
func (d *Daemon) place() (config.Gateway, error) {
	c, _, err := config.Load(d.ConfigPath)
	if err == nil {
		return c.Gateway, nil
	}
	state := os.Getenv("STATE_DIRECTORY") // systemd.exec(5), StateDirectory=
	if state == "" {
		state = config.DefaultState
	}
	if _, statErr := os.Stat(state); statErr != nil {
		return config.Gateway{}, err
	}
	return config.Gateway{State: state, Control: config.DefaultControl, Records: config.Records{Log: true}}, nil
}

func (d *Daemon) close(what string, f func() error) {
	if err := f(); err != nil {
		d.Log.Warn("cannot close the "+what, "err", err)
	}
}

// A disk that hangs keeps nobody out, and does not keep the daemon from ending. The boot
// of the machine waits for openTimeout (TimeoutStartSec=60s in the unit).
const (
	openTimeout   = 20 * time.Second
	closeTimeout  = 2 * time.Second // after the time that the gateway allows for the last commit
	exportTimeout = 2 * time.Second // after that, for sending the last records
)

// withTimeout calls f, which waits for a disk, and waits for it until the limit. After
// that f continues in the background, and its result is discarded.
func withTimeout[T any](limit time.Duration, f func() (T, error)) (T, error) {
	type result struct {
		of  T
		err error
	}
	done := make(chan result, 1)
	go func() {
		of, err := f()
		done <- result{of, err}
	}()
	select {
	case r := <-done:
		return r.of, r.err
	case <-time.After(limit):
		var none T
		return none, fmt.Errorf("the disk has not answered for %s", limit)
	}
}

// run runs all tasks until ctx or one of them ends. If there is no control socket, and
// noSocket is the reason, it guards the doors all the same.
func (d *Daemon) run(ctx context.Context, where config.Gateway, table *fence.Fence, socket net.Listener, noSocket error) error {
	locks := &confinement{configPath: d.ConfigPath, state: where.State, spare: filepath.Dir(where.Control),
		log: d.Log, launched: make(chan *launcher.Launcher, 1), fixed: make(chan *fileWatch, 1)}
	options := gateway.Options{Path: d.ConfigPath, Version: d.Version, Log: d.Log, Confine: locks.confine}
	if noSocket != nil {
		d.Log.Error("operators get no answer: fix this and restart the daemon", "err", noSocket)
		options.Warnings = []string{"operators get no answer: " + noSocket.Error()}
	}
	if n := descriptors.Limit(); n < descriptors.Few {
		few := fmt.Sprintf("only %d files may be open, so connections are closed early or have to wait: "+
			"raise the limit to %d or more (LimitNOFILE= in the unit)", n, descriptors.Few)
		d.Log.Warn(few)
		options.Warnings = append(options.Warnings, few)
	}
	socketWatch := d.watchSocket(where.Control)
	exporter := export.Open(targets(where.Records), d.Log)
	defer exporter.Close(exportTimeout)
	options.Tell, options.Troubles = d.recordSink(where.Records, exporter), exporter.Troubles
	gw := gateway.New(options)
	operators := control.NewServer(gw, d.Log)
	touches, carried := d.listener(gw.Hear), datagrams.New(d.Log, gw.Hear)
	touches.HandOver(carried.Accept)
	var kept *store.Store
	world := gateway.Linux(table, func() (gateway.Store, error) {
		s, err := withTimeout(openTimeout, func() (*store.Store, error) { return store.Open(where.State, store.AuditLimit{}, d.Log) })
		if err != nil {
			return nil, err
		}
		kept = s
		return s, nil
	}, locks.service, touches, carried, d.Log)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return locks.watch(ctx) })
	group.Go(func() error { return d.signals(ctx, gw) })
	ready := make(chan struct{})
	group.Go(func() error { return gw.Run(ctx, world, func() { close(ready) }) })
	if socket != nil {
		group.Go(func() error { return operators.Serve(ctx, socket) })
		group.Go(func() error { return d.keepSocket(ctx, socketWatch, where.Control) })
	}
	if where.Metrics != "" {
		group.Go(func() error { return d.metrics(ctx, where.Metrics, gw) })
	}
	group.Go(func() error { return d.notify(ctx, ready, gw) })
	err := group.Wait()
	if kept != nil {
		d.close("store", func() error {
			_, err := withTimeout(closeTimeout, func() (struct{}, error) { return struct{}{}, kept.Close() })
			return err
		})
	}
	if locks.launcher != nil {
		d.close("launcher", locks.launcher.Close)
	}
	if errors.Is(err, errStop) {
		err = nil
	}
	return err
}

// socketTime is how long the control socket must be gone before that counts.
const socketTime = time.Second

// watchSocket returns a watch on the control socket, or nil if that is not possible. It
// must be called before the daemon enters its sandbox.
func (d *Daemon) watchSocket(path string) *fileWatch {
	w, err := newFileWatch([]string{path})
	if err != nil {
		d.Log.Warn("cannot watch the control socket: if operators get no answer, restart the daemon", "err", err)
		return nil
	}
	w.quiet = socketTime
	return w
}

// keepSocket returns an error when the control socket's file is gone, which keeps
// operators out: from inside its sandbox, the daemon cannot make another. The error
// ends the daemon, so that systemd starts it again; the fence stands meanwhile, and
// grants and sessions stay. Without systemd, it only logs what to do.
func (d *Daemon) keepSocket(ctx context.Context, w *fileWatch, path string) error {
	if w.wait(ctx) == "" {
		return nil
	}
	if os.Getenv("NOTIFY_SOCKET") != "" {
		return fmt.Errorf("the control socket %q was deleted: the daemon restarts to create it again", path)
	}
	d.Log.Error("the control socket was deleted, and operators get no answer: restart the daemon", "socket", path)
	<-ctx.Done()
	return nil
}

// errStop ends the group of tasks: somebody asked for it.
var errStop = errors.New("asked to stop")

// readyStatus is what systemctl status says when all is well.
const readyStatus = "the doors are guarded"

// signals is the task that handles signals: SIGINT and SIGTERM end the daemon, SIGHUP
// makes it read its configuration again, SIGUSR1 turns debugging on or off.
func (d *Daemon) signals(ctx context.Context, gw *gateway.Gateway) error {
	c := make(chan os.Signal, 4)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(c)
	for {
		var s os.Signal
		select {
		case <-ctx.Done():
			return nil
		case s = <-c:
		}
		switch s {
		case syscall.SIGHUP:
			d.reload(ctx, gw)
		case syscall.SIGUSR1:
			d.toggleDebug()
		default:
			d.Log.Info("shutting down; the fence stays up", "signal", s.String())
			return errStop
		}
	}
}

// reload puts the configuration file into use, and notifies systemd (sd_notify(3),
// RELOADING=1).
func (d *Daemon) reload(ctx context.Context, gw *gateway.Gateway) {
	d.sdNotify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonicMicroseconds()))
	defer d.sdNotify(sd.SdNotifyReady)
	reply, err := gw.Reload(ctx)
	if err != nil {
		hint := "doorward apply"
		if told, ok := errors.AsType[*control.Error](err); ok && told.Hint != "" {
			hint = told.Hint
		}
		d.Log.Error("cannot use the new configuration; the old one stays in use", "err", err, "hint", hint)
		d.sdNotify("STATUS=" + readyStatus + "; the latest SIGHUP changed nothing: the log says why")
		return
	}
	d.sdNotify("STATUS=" + readyStatus)
	d.Log.Info(reply.Message)
}

func (d *Daemon) toggleDebug() {
	level := slog.LevelDebug
	if d.Level.Level() == slog.LevelDebug {
		level = slog.LevelInfo
	}
	d.Level.Set(level)
	d.Log.Info("log level", "level", level.String())
}

// notify tells systemd when the doors are guarded, notifies its watchdog while the
// gateway makes turns, and says when the daemon begins to end.
func (d *Daemon) notify(ctx context.Context, ready <-chan struct{}, gw *gateway.Gateway) error {
	d.sdNotify("STATUS=raising the fence")
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	d.sdNotify(sd.SdNotifyReady + "\nSTATUS=" + readyStatus)
	d.Log.Info("ready: the doors are guarded")
	defer d.sdNotify(sd.SdNotifyStopping)
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		d.Log.Warn("cannot read the watchdog's interval", "err", err)
	}
	if interval <= 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if gw.Alive(ctx, min(interval/4, progressTimeout)) {
			d.sdNotify(sd.SdNotifyWatchdog)
		}
	}
}

// sdNotify sends a message to systemd, if that started the daemon.
func (d *Daemon) sdNotify(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		d.Log.Warn("cannot notify systemd", "err", err)
	}
}

// metrics serves Prometheus' metrics and /healthz until ctx ends. If it cannot listen on
// the address, since another program does or the address is not there yet, it logs that
// once and tries again.
func (d *Daemon) metrics(ctx context.Context, address string, gw *gateway.Gateway) error {
	const again = 10 * time.Second
	for said := false; ; said = true {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			return control.ServeMetrics(ctx, l, gw, d.Log)
		}
		if !said {
			d.Log.Error("cannot serve the metrics; trying again", "gateway.metrics", address, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(again):
		}
	}
}
