//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Allowed asks systemd whether this process may start the unit, and stop it and what
// belongs to it. It changes nothing, whatever state the unit is in. The error is
// ErrNotAllowed if not, and any other error if that cannot be determined.
//
// polkit itself answers such a question only to root. So systemd is given orders that
// contradict themselves: it asks polkit first, and then refuses them
// (bus_unit_method_start_generic in core/dbus-unit.c, manager_add_job in core/manager.c).
// A start is refused in this way since systemd 246; before that, only the permission to
// stop is known.
func (u *Unit) Allowed(ctx context.Context) error {
	begun := time.Now()
	b, err := dialBus(ctx, u.address)
	if err != nil {
		return fmt.Errorf("look whether unit %q may be started and stopped: %w", u.name, err)
	}
	defer b.close()
	v, err := u.look(ctx, b)
	if err != nil {
		return u.fail(ctx, "look at", begun, view{}, err)
	}
	for i, m := range v.members {
		asked := view{members: []member{m}}
		if err := b.try(ctx, "StopUnit", m.name, "isolate"); err != nil {
			return u.fail(ctx, "stop", begun, asked, err)
		}
		if i > 0 {
			continue // the socket starts what it feeds
		}
		if err := b.try(ctx, "StartUnit", m.name, "triggering"); err != nil {
			return u.fail(ctx, "start", begun, asked, err)
		}
	}
	return nil
}

// try gives an order that its mode contradicts. If systemd says so, or has another reason
// to refuse, the order would have been allowed.
func (b *bus) try(ctx context.Context, method, unit, mode string) error {
	err := b.manager.CallWithContext(ctx, managerIface+"."+method, 0, unit, mode).Err
	switch errorName(err) {
	case errInvalidArgs, "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.OnlyByDependency":
		return nil
	}
	return err
}

// ErrNoPolkit means that the system has no polkit, so that systemd obeys only root.
var ErrNoPolkit = errors.New("polkit is not installed")

// manageUnits is the action that systemd asks polkit about.
const manageUnits = systemdName + ".manage-units"

// subject and verdict are polkit's, PolkitSubject and PolkitAuthorizationResult of
// org.freedesktop.PolicyKit1.Authority.
type (
	subject struct {
		Kind    string
		Details map[string]dbus.Variant
	}
	verdict struct {
		Authorized, Challenge bool
		Details               map[string]string
	}
)

// Denied asks polkit which of the orders it would deny to a user who gave them to
// systemd. Only root may ask. The error is ErrNoPolkit if there is no polkit.
//
// The question is asked as systemd asks it: about a connection to the bus. So one is made
// as that user.
func Denied(ctx context.Context, uid int, orders []Order) ([]Order, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends both connections
	address := busAddress()
	who, err := connectAs(ctx, address, uid)
	if err != nil {
		return nil, fmt.Errorf("connect to D-Bus at %q as user %d: %w", address, uid, err)
	}
	asker, err := connect(ctx, address, unix.Geteuid())
	if err != nil {
		return nil, fmt.Errorf("connect to D-Bus at %q: %w", address, err)
	}
	polkit := asker.Object("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority")
	about := subject{"system-bus-name", map[string]dbus.Variant{"name": dbus.MakeVariant(who.Names()[0])}}
	var denied []Order
	for _, o := range orders {
		details := map[string]string{"verb": o.Verb, "unit": o.Unit}
		var v verdict
		err := polkit.CallWithContext(ctx, "org.freedesktop.PolicyKit1.Authority.CheckAuthorization", 0,
			about, manageUnits, details, uint32(0), "").Store(&v)
		switch {
		case errorName(err) == errServiceUnknown:
			return nil, ErrNoPolkit
		case err != nil:
			return nil, fmt.Errorf("ask polkit about %q: %w", o, err)
		case !v.Authorized:
			denied = append(denied, o)
		}
	}
	return denied, nil
}

// connectAs connects to the bus as another user. The bus asks the kernel who connected,
// which is the effective user of the connecting thread (SO_PEERCRED in unix(7)). A thread
// that was another user's is never reused: it ends with its goroutine, which does not
// unlock it.
func connectAs(ctx context.Context, address string, uid int) (*dbus.Conn, error) {
	type result struct {
		conn *dbus.Conn
		err  error
	}
	done := make(chan result)
	go func() { // ends when the bus has answered, or with ctx
		runtime.LockOSThread()
		keep := -1
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(keep), uintptr(uid), uintptr(keep))
		if errno != 0 {
			done <- result{err: fmt.Errorf("become user %d: %w", uid, errno)}
			return
		}
		conn, err := connect(ctx, address, uid)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}
