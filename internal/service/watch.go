//go:build linux

package service

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	reconcile  = 10 * time.Second // how often a watch checks although nothing was heard
	firstRetry = 250 * time.Millisecond
	lastRetry  = 2 * time.Second // the daemon starts before D-Bus, and should see its units soon after
	// warnAfter is how long a unit must be out of sight for a warning. During a boot
	// D-Bus comes late, and systemd leaves it for a moment when it is upgraded
	// (daemon-reexec in systemctl(1)).
	warnAfter = time.Minute
)

// Watch calls report with the unit's status, once at the beginning and then on every change,
// until ctx ends; then it returns nil. When D-Bus or systemd goes away it logs that, as a
// warning if it lasts, tries until it is back, and then reports what it finds. report is called
// from Watch's own goroutine and should not block.
func (u *Unit) Watch(ctx context.Context, report func(Status)) error {
	retry, told := firstRetry, slog.LevelDebug
	var since time.Time // when it went out of sight
	for ctx.Err() == nil {
		seen, err := u.watch(ctx, report)
		if ctx.Err() != nil {
			break
		}
		if seen || since.IsZero() {
			retry, told, since = firstRetry, slog.LevelDebug, time.Now()
		}
		level := slog.LevelInfo
		if time.Since(since) >= warnAfter {
			level = slog.LevelWarn
		}
		if level > told {
			told = level
			u.log.Log(ctx, level, "cannot see the unit, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, lastRetry)
	}
	return nil
}

// watch watches over one connection, until that or ctx ends. seen says whether it got as
// far as reporting.
func (u *Unit) watch(ctx context.Context, report func(Status)) (seen bool, err error) {
	b, err := dialBus(ctx, u.address)
	if err != nil {
		return false, err
	}
	defer b.close()
	if err := u.subscribe(ctx, b); err != nil {
		return false, unreachable(u.address, err)
	}
	tick := time.NewTicker(reconcile)
	defer tick.Stop()
	var last Status
	for {
		v, err := u.look(ctx, b)
		if err != nil {
			return seen, unreachable(u.address, err)
		}
		if s := v.status(); !seen || s != last {
			seen, last = true, s
			report(s)
		}
		select {
		case <-ctx.Done():
			return seen, ctx.Err()
		case <-tick.C:
		case s, ok := <-b.signals:
			if !ok || s.Name == "org.freedesktop.DBus.NameOwnerChanged" {
				return seen, unreachable(u.address, errors.New("the connection ended"))
			}
			b.drain()
		}
	}
}

// subscribe asks for the signals of the unit and of what belongs to it, and
// for news of systemd itself leaving the bus.
func (u *Unit) subscribe(ctx context.Context, b *bus) error {
	err := b.subscribe(ctx, dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"),
		dbus.WithMatchArg(0, systemdName))
	if err != nil {
		return err
	}
	v, err := u.look(ctx, b)
	if err != nil {
		return err
	}
	for _, m := range append(v.members, v.triggers...) {
		err := b.match(ctx, dbus.WithMatchSender(systemdName), dbus.WithMatchObjectPath(m.path),
			dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"))
		if err != nil {
			return err
		}
	}
	return nil
}

// drain discards waiting signals: the next check sees their combined effect.
func (b *bus) drain() {
	for {
		select {
		case _, ok := <-b.signals:
			if !ok {
				return
			}
		default:
			return
		}
	}
}
