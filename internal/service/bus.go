//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"
)

// Names of systemd's D-Bus interface, org.freedesktop.systemd1(5).
const (
	systemdName    = "org.freedesktop.systemd1"
	systemdPath    = "/org/freedesktop/systemd1"
	managerIface   = systemdName + ".Manager"
	unitIface      = systemdName + ".Unit"
	serviceIface   = systemdName + ".Service"
	socketIface    = systemdName + ".Socket"
	propertyGet    = "org.freedesktop.DBus.Properties.Get"
	propertyGetAll = "org.freedesktop.DBus.Properties.GetAll"

	errNeedsPassword  = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
	errAccessDenied   = "org.freedesktop.DBus.Error.AccessDenied"
	errInvalidArgs    = "org.freedesktop.DBus.Error.InvalidArgs"
	errServiceUnknown = "org.freedesktop.DBus.Error.ServiceUnknown"

	defaultBus = "unix:path=/run/dbus/system_bus_socket"
	// private is where systemd itself listens, for root alone, as for systemctl.
	private = "unix:path=/run/systemd/private"
	// pingAgain is how long systemd may take to answer there before it is asked again.
	pingAgain = 50 * time.Millisecond
)

// bus is one connection to systemd. It lives for one order or one watch, so that nothing
// has to be repaired when D-Bus goes away: the next one dials again.
type bus struct {
	conn    *dbus.Conn
	manager dbus.BusObject
	signals chan *dbus.Signal // closed when the connection ends
	heard   bool              // systemd was asked to send signals here
	direct  bool              // it is to systemd itself: there is no bus, which knows names and matches
}

// busAddress returns where the system bus listens: DBUS_SYSTEM_BUS_ADDRESS, as for every
// D-Bus client, or the usual socket.
func busAddress() string {
	if a := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"); a != "" {
		return a
	}
	return defaultBus
}

// dialBus connects and authenticates by uid. The connection closes when ctx
// ends, which ends every call and wait on it.
func dialBus(ctx context.Context, address string) (*bus, error) {
	conn, err := connect(ctx, address, os.Geteuid())
	if err != nil {
		return nil, unreachable(address, err)
	}
	return newBus(conn), nil
}

// dialSystemd is dialBus for root, who reaches systemd where there is no bus.
func dialSystemd(ctx context.Context, address string) (*bus, error) {
	b, err := dialBus(ctx, address)
	if err == nil || os.Geteuid() != 0 {
		return b, err
	}
	conn, perr := authenticate(ctx, private, 0)
	if perr != nil {
		return nil, err
	}
	b = newBus(conn)
	b.direct = true
	// systemd does not look at a message that it reads together with the end of the
	// authentication until it reads more (bus_socket_auth_verify_server in its
	// src/libsystemd/sd-bus/bus-socket.c). So the first is sent again until there is an
	// answer.
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, pingAgain)
		perr = b.manager.CallWithContext(asking, "org.freedesktop.DBus.Peer.Ping", 0).Err
		cancel()
		if !errors.Is(perr, context.DeadlineExceeded) {
			break
		}
	}
	if perr != nil {
		b.close()
		return nil, errors.Join(err, fmt.Errorf("nor by its own socket at %q: %w", private, perr))
	}
	return b, nil
}

func newBus(conn *dbus.Conn) *bus {
	b := &bus{conn: conn, manager: conn.Object(systemdName, systemdPath), signals: make(chan *dbus.Signal, 128)}
	conn.Signal(b.signals)
	return b
}

// connect connects as a user, which must be this process's or this thread's.
func connect(ctx context.Context, address string, uid int) (*dbus.Conn, error) {
	conn, err := authenticate(ctx, address, uid)
	if err != nil {
		return nil, err
	}
	if err := conn.Hello(); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// authenticate is connect without the greeting, which only a bus understands.
func authenticate(ctx context.Context, address string, uid int) (*dbus.Conn, error) {
	conn, err := dbus.Dial(address, dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(uid))}); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// unreachable says what to do if there is no bus. A container has none unless it is given
// the machine's.
func unreachable(address string, err error) error {
	hint := `see "systemctl status dbus.service"`
	if errors.Is(err, fs.ErrNotExist) {
		hint += "; a container needs the machine's socket mounted there"
	}
	return fmt.Errorf("cannot reach systemd over D-Bus at %q: %w; %s", address, err, hint)
}

func (b *bus) close() { b.conn.Close() }

// subscribe asks systemd to send its signals (it sends none while nobody has
// asked, and refuses to be asked twice) and the bus to deliver those that match.
func (b *bus) subscribe(ctx context.Context, match ...dbus.MatchOption) error {
	if !b.heard {
		if err := b.manager.CallWithContext(ctx, managerIface+".Subscribe", 0).Err; err != nil {
			return err
		}
		b.heard = true
	}
	return b.match(ctx, match...)
}

func (b *bus) match(ctx context.Context, match ...dbus.MatchOption) error {
	if b.direct {
		return nil // systemd sends everything to whom it talks to directly
	}
	return b.conn.AddMatchSignalContext(ctx, match...)
}

// load returns the D-Bus path of a unit, reading its file when systemd has not
// yet. A unit without a file has a path too.
func (b *bus) load(ctx context.Context, unit string) (dbus.ObjectPath, error) {
	var path dbus.ObjectPath
	err := b.manager.CallWithContext(ctx, managerIface+".LoadUnit", 0, unit).Store(&path)
	return path, err
}

// halts says whether the machine is shutting down, SystemState of
// org.freedesktop.systemd1(5).
func (b *bus) halts(ctx context.Context) bool {
	var state dbus.Variant
	err := b.manager.CallWithContext(ctx, propertyGet, 0, managerIface, "SystemState").Store(&state)
	return err == nil && state.Value() == "stopping"
}

// properties reads all properties of one interface of the object at path.
func (b *bus) properties(ctx context.Context, path dbus.ObjectPath, iface string) (properties, error) {
	var p map[string]dbus.Variant
	err := b.conn.Object(systemdName, path).CallWithContext(ctx, propertyGetAll, 0, iface).Store(&p)
	return p, err
}

// job queues a job for a unit and returns its result once systemd has removed
// it: "done", "failed", "timeout", ... (systemd's job results).
func (b *bus) job(ctx context.Context, method, unit string) (string, error) {
	err := b.subscribe(ctx, dbus.WithMatchInterface(managerIface), dbus.WithMatchMember("JobRemoved"))
	if err != nil {
		return "", err
	}
	var job dbus.ObjectPath
	if err := b.manager.CallWithContext(ctx, managerIface+"."+method, 0, unit, "replace").Store(&job); err != nil {
		return "", err
	}
	for s := range b.signals {
		if s.Name != managerIface+".JobRemoved" || len(s.Body) != 4 || s.Body[1] != job {
			continue
		}
		result, ok := s.Body[3].(string)
		if !ok {
			return "", fmt.Errorf("result of job %q is not a string: %v", job, s.Body[3])
		}
		return result, nil
	}
	return "", errors.New("the connection ended before the job did")
}

// properties are an object's properties; a missing one, or one of another
// type, reads as zero.
type properties map[string]dbus.Variant

func (p properties) str(name string) string {
	s, _ := p[name].Value().(string)
	return s
}

func (p properties) strs(name string) []string {
	s, _ := p[name].Value().([]string)
	return s
}

func (p properties) flag(name string) bool {
	b, _ := p[name].Value().(bool)
	return b
}

func (p properties) number(name string) int {
	n, _ := p[name].Value().(int32)
	return int(n)
}

func (p properties) pid(name string) int {
	n, _ := p[name].Value().(uint32)
	return int(n)
}

func (p properties) count(name string) uint64 {
	n, _ := p[name].Value().(uint64)
	return n
}

// errorName returns the D-Bus name of an error, "" if it has none.
func errorName(err error) string {
	if e, ok := errors.AsType[dbus.Error](err); ok {
		return e.Name
	}
	if p, ok := errors.AsType[*dbus.Error](err); ok {
		return p.Name
	}
	return ""
}
