//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Unit is a systemd unit: a .service, or a .socket together with the service
// that it starts. It is safe for concurrent use; a Stop overtakes a Start.
//
// It talks to the system bus at DBUS_SYSTEM_BUS_ADDRESS, by default
// /run/dbus/system_bus_socket, dialled anew for each order. It never asks for a
// password: what polkit does not allow outright is ErrNotAllowed (see PolkitRule).
type Unit struct {
	name    string
	address string
	dial    func(ctx context.Context, address string) (*bus, error)
	log     *slog.Logger
	names   *atomic.Pointer[Names] // as last learnt from systemd, nil before that
}

// ErrNotAllowed means that systemd does not let this process give an order for this unit,
// whatever state it is in.
var ErrNotAllowed = errors.New("not allowed")

// NewUnit returns the unit of that name, suffix included ("ssh.service"). It does not
// check whether the unit exists. The name may be an alias.
func NewUnit(name string, log *slog.Logger) *Unit {
	return &Unit{name: name, address: busAddress(), dial: dialBus, log: log.With("unit", name), names: new(atomic.Pointer[Names])}
}

// NewUnitForRoot is NewUnit for a program that root runs once: where the system bus is
// down or was never there, it talks to systemd itself, as systemctl does. Its Watch
// needs the bus.
func NewUnitForRoot(name string, log *slog.Logger) *Unit {
	u := NewUnit(name, log)
	u.dial = dialSystemd
	return u
}

// String returns the name that the unit was given, and its canonical name if systemd has
// reported a different one: "sshd.service (ssh.service)".
func (u *Unit) String() string {
	if id := u.Names().ID; id != u.name {
		return u.name + " (" + id + ")"
	}
	return u.name
}

// byItsOwnName returns the name of the unit in systemctl and the journal, as far as it is
// known.
func (u *Unit) byItsOwnName() *Unit {
	own := *u
	own.name = u.Names().ID
	return &own
}

// Names returns the unit's names as this Unit last learnt them from systemd; before that,
// the one that it was given.
func (u *Unit) Names() Names {
	if n := u.names.Load(); n != nil {
		return *n
	}
	return Names{ID: u.name}
}

// Stop stops the unit and returns when systemd calls it inactive, at once when it is
// already. For a socket that hands its connections to one service (Accept=no) that
// service is stopped too, since it goes on listening; the instances of a socket with
// Accept=yes are sessions and are left alone.
func (u *Unit) Stop(ctx context.Context) error {
	begun := time.Now()
	b, err := u.dial(ctx, u.address)
	if err != nil {
		return fmt.Errorf("stop unit %q: %w", u.name, err)
	}
	defer b.close()
	v, err := u.look(ctx, b)
	if err != nil {
		return u.fail(ctx, "stop", begun, view{}, err)
	}
	for _, m := range v.members {
		if m.state() == Stopped || m.state() == Failed {
			continue
		}
		result, err := b.job(ctx, "StopUnit", m.name)
		if err != nil {
			return u.fail(ctx, "stop", begun, view{members: []member{m}}, err)
		}
		if result != "done" {
			return fmt.Errorf("stop of unit %q ended as %q; see %s", m.name, result, journal(m.name))
		}
	}
	if by := v.restarters(); len(by) > 0 {
		u.log.Warn("unit is stopped, but another would start it again", "triggered_by", strings.Join(by, " "))
	}
	return nil
}

// Status asks systemd for the state of the unit.
func (u *Unit) Status(ctx context.Context) (Status, error) {
	begun := time.Now()
	b, err := u.dial(ctx, u.address)
	if err != nil {
		return Status{}, fmt.Errorf("status of unit %q: %w", u.name, err)
	}
	defer b.close()
	v, err := u.look(ctx, b)
	if err != nil {
		return Status{}, u.fail(ctx, "status", begun, v, err)
	}
	return v.status(), nil
}

// Enable has systemd start the unit at boot, as "systemctl enable" does. The daemon may
// not do this and never tries: it is for root, when doorward is removed.
func (u *Unit) Enable(ctx context.Context) error {
	b, err := u.dial(ctx, u.address)
	if err != nil {
		return fmt.Errorf("enable unit %q: %w", u.name, err)
	}
	defer b.close()
	const atRuntime, force = false, false
	err = b.manager.CallWithContext(ctx, managerIface+".EnableUnitFiles", 0, []string{u.name}, atRuntime, force).Err
	if err == nil {
		err = b.manager.CallWithContext(ctx, managerIface+".Reload", 0).Err
	}
	if err != nil {
		return fmt.Errorf("enable unit %q: %w", u.name, err)
	}
	return nil
}

// CutsSessions says whether stopping the unit would end the sessions of its processes,
// and if so why and what to do, in one sentence.
func (u *Unit) CutsSessions(ctx context.Context) (bool, string, error) {
	begun := time.Now()
	b, err := u.dial(ctx, u.address)
	if err != nil {
		return false, "", fmt.Errorf("look at unit %q: %w", u.name, err)
	}
	defer b.close()
	v, err := u.look(ctx, b)
	if err != nil {
		return false, "", u.fail(ctx, "look at", begun, v, err)
	}
	for _, m := range v.members {
		mode := m.own.str("KillMode")
		if m.isSocket() || !slices.Contains([]string{"control-group", "mixed"}, mode) {
			continue // a socket has KillMode too, of its ExecStartPre and the like
		}
		return true, fmt.Sprintf("stopping %q ends every process of the unit, sessions too, because its KillMode is %q; "+
			"\"systemctl edit %s\" and add the lines [Service] and KillMode=process", m.name, mode, m.name), nil
	}
	return false, "", nil
}

// loadable says why systemd could not start the unit at all.
func (u *Unit) loadable(v view) error {
	m := v.members[0]
	switch s := m.unit.str("LoadState"); s {
	case "loaded":
		return nil
	case "not-found":
		kind := u.name[strings.LastIndexByte(u.name, '.')+1:]
		return fmt.Errorf("unit %q does not exist; \"systemctl list-unit-files --type=%s\" lists those that do", u.name, kind)
	case "masked":
		return fmt.Errorf("unit %q is masked, so that nothing may start it; \"systemctl unmask %s\" lifts that", u.name, u.name)
	default:
		return fmt.Errorf("unit %q cannot be loaded (%s); see \"systemctl status %s\"", u.name, s, u.name)
	}
}

// fail words the error of a call or wait: timeout, permission, or D-Bus itself.
func (u *Unit) fail(ctx context.Context, verb string, begun time.Time, v view, err error) error {
	name := u.name
	state := "no answer"
	if len(v.members) > 0 {
		m := v.members[0]
		name = m.name
		state = "was " + m.unit.str("ActiveState")
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s of unit %q did not end within %v (%s); see %s: %w", verb, name,
			allowed(ctx, begun), state, journal(name), ctx.Err())
	case ctx.Err() != nil:
		return fmt.Errorf("%s of unit %q: %w", verb, name, ctx.Err())
	}
	switch e := errorName(err); {
	case e == errNeedsPassword, e == errAccessDenied:
		return fmt.Errorf("%w to %s unit %q: %w; \"sudo doorward polkit --install\" allows it", ErrNotAllowed, verb, name, err)
	case strings.HasPrefix(e, systemdName+"."), e == errInvalidArgs: // systemd's own words
		return fmt.Errorf("%s unit %q: %w", verb, name, err)
	}
	return fmt.Errorf("%s unit %q: %w", verb, name, unreachable(u.address, err))
}

func journal(unit string) string { return fmt.Sprintf("\"journalctl -u %s -n 20\"", unit) }
