//go:build linux

// Package daemon runs the gateway as a service: its tasks under one owner,
// signals, readiness and the watchdog of systemd (sd_notify), logs. It decides
// nothing about doors.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/gateway"
	"github.com/doorward/doorward/internal/launcher"
	"github.com/doorward/doorward/internal/store"
)

// Group owns the control socket, where it exists: its members are operators.
const Group = "doorward"

// progressTime is how long the gateway may take for one turn before the
// watchdog holds it for stuck.
const progressTime = 10 * time.Second

// Daemon is what Serve runs. All fields are needed.
type Daemon struct {
	ConfigPath string
	Version    string
	Log        *slog.Logger
	Level      *slog.LevelVar // of Log; SIGUSR1 turns debug on and off
}

// Serve guards the doors until ctx ends or a signal says so, and then returns
// nil with the fence still standing. The caller hands over a process that has
// none of the signals below caught; the second SIGINT or SIGTERM kills.
func (d *Daemon) Serve(ctx context.Context) error {
	gateway, err := d.place()
	if err != nil {
		return err
	}
	// Nothing above this line changes the machine. The store comes first: its
	// lock keeps a second daemon from touching the fence of the first.
	kept, err := store.Open(gateway.State, store.AuditLimit{}, d.Log)
	if err != nil {
		return err
	}
	defer d.close("store", kept.Close)
	table, err := fence.Open(d.Log)
	if err != nil {
		return fmt.Errorf("the fence: %w", err)
	}
	defer d.close("fence", table.Close)
	if err := os.MkdirAll(filepath.Dir(gateway.Control), 0o755); err != nil {
		return fmt.Errorf("make the control socket's directory: %w", err)
	}
	socket, err := control.Listen(gateway.Control, Group)
	if err != nil {
		return err
	}
	return d.run(ctx, gateway, kept, table, socket)
}

// place says where the daemon's state and socket are. A configuration that
// cannot be used is no reason to leave the doors unguarded if there was one
// before: then the store, where systemd or the default says it is, has it.
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
	return config.Gateway{State: state, Control: config.DefaultControl}, nil
}

func (d *Daemon) close(what string, f func() error) {
	if err := f(); err != nil {
		d.Log.Warn("cannot close the "+what, "err", err)
	}
}

// run runs all tasks until ctx or one of them ends.
func (d *Daemon) run(ctx context.Context, where config.Gateway, kept *store.Store, table *fence.Fence, socket net.Listener) error {
	locks := &confinement{configPath: d.ConfigPath, state: where.State, log: d.Log, launched: make(chan *launcher.Launcher, 1)}
	gw := gateway.New(gateway.Options{Path: d.ConfigPath, Version: d.Version, Log: d.Log, Confine: locks.confine})
	world := gateway.Linux(table, kept, locks.service, d.ear(gw.Hear), d.Log)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return locks.watch(ctx) })
	group.Go(func() error { return d.signals(ctx, gw) })
	ready := make(chan struct{})
	group.Go(func() error { return gw.Run(ctx, world, func() { close(ready) }) })
	group.Go(func() error {
		return control.NewServer(gw, d.Log).Serve(ctx, socket)
	})
	if where.Metrics != "" {
		group.Go(func() error { return d.metrics(ctx, where.Metrics, gw) })
	}
	group.Go(func() error { return d.notify(ctx, ready, gw) })
	err := group.Wait()
	if locks.launcher != nil {
		d.close("launcher", locks.launcher.Close)
	}
	if errors.Is(err, errStop) {
		err = nil
	}
	return err
}

// errStop ends the group of tasks: somebody asked for it.
var errStop = errors.New("asked to stop")

// signals is the task that answers signals: SIGINT and SIGTERM end the daemon,
// SIGHUP has it read its configuration anew, SIGUSR1 turns debugging on or off.
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
			d.Log.Info("the daemon ends; the fence stands", "signal", s.String())
			return errStop
		}
	}
}

// reload takes the configuration into use and tells systemd of it
// (sd_notify(3), RELOADING=1).
func (d *Daemon) reload(ctx context.Context, gw *gateway.Gateway) {
	d.tell(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonicMicroseconds()))
	defer d.tell(sd.SdNotifyReady)
	reply, err := gw.Reload(ctx)
	if err != nil {
		d.Log.Error("cannot use the new configuration; the old one stays in use", "err", err)
		return
	}
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

// notify tells systemd when the doors are guarded, feeds its watchdog while the
// gateway makes turns, and says when the end begins.
func (d *Daemon) notify(ctx context.Context, ready <-chan struct{}, gw *gateway.Gateway) error {
	d.tell("STATUS=raising the fence")
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	d.tell(sd.SdNotifyReady + "\nSTATUS=the doors are guarded")
	d.Log.Info("ready: the doors are guarded")
	defer d.tell(sd.SdNotifyStopping)
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
		if gw.Alive(ctx, min(interval/4, progressTime)) {
			d.tell(sd.SdNotifyWatchdog)
		}
	}
}

// tell sends one message to systemd, if it is there.
func (d *Daemon) tell(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		d.Log.Warn("cannot tell systemd", "err", err)
	}
}

// metrics serves Prometheus' metrics and /healthz until ctx ends.
func (d *Daemon) metrics(ctx context.Context, address string, gw *gateway.Gateway) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("gateway.metrics: %q: %w", address, err)
	}
	s := &http.Server{Handler: control.Metrics(gw), ReadTimeout: progressTime, WriteTimeout: progressTime}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
