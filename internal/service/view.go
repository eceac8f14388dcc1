//go:build linux

package service

import (
	"context"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// view is a unit as systemd describes it at one moment.
type view struct {
	members  []member // the unit itself, and for a socket the one service it feeds
	triggers []member // active units that would start it again
	halts    bool     // it is down because the machine is shutting down
}

// member is one unit's properties. Its name is the canonical one, never an alias.
type member struct {
	name string
	path dbus.ObjectPath
	unit properties // of the Unit interface
	own  properties // of the Service or Socket interface
}

// look reads the unit and what belongs to it, and remembers its names.
func (u *Unit) look(ctx context.Context, b *bus) (view, error) {
	v, err := u.read(ctx, b)
	if err != nil {
		return v, err
	}
	names := v.names()
	u.names.Store(&names)
	if s := v.status().State; s == Stopped || s == Failed {
		v.halts = b.halts(ctx)
	}
	return v, nil
}

func (u *Unit) read(ctx context.Context, b *bus) (view, error) {
	m, err := readMember(ctx, b, u.name)
	if err != nil {
		return view{}, err
	}
	v := view{members: []member{m}}
	if m.isSocket() {
		if m.own.flag("Accept") {
			return v, nil
		}
		for _, name := range m.unit.strs("Triggers") {
			s, err := readMember(ctx, b, name)
			if err != nil {
				return view{}, err
			}
			v.members = append(v.members, s)
		}
		return v, nil
	}
	for _, name := range m.unit.strs("TriggeredBy") {
		t, err := readMember(ctx, b, name)
		if err != nil {
			return view{}, err
		}
		v.triggers = append(v.triggers, t)
	}
	return v, nil
}

func readMember(ctx context.Context, b *bus, name string) (member, error) {
	m := member{name: name}
	var err error
	if m.path, err = b.load(ctx, name); err != nil {
		return member{}, err
	}
	if m.unit, err = b.properties(ctx, m.path, unitIface); err != nil {
		return member{}, err
	}
	if id := m.unit.str("Id"); id != "" {
		m.name = id // name may be an alias
	}
	switch {
	case m.isSocket():
		m.own, err = b.properties(ctx, m.path, socketIface)
	case strings.HasSuffix(m.name, ".service"):
		m.own, err = b.properties(ctx, m.path, serviceIface)
	}
	return m, err
}

func (m member) isSocket() bool { return strings.HasSuffix(m.name, ".socket") }

// waits says whether systemd has an unfinished job for the unit: somebody has ordered
// something.
func (m member) waits() bool {
	job, _ := m.unit["Job"].Value().([]any) // (uo): its id, 0 for none, and its path
	if len(job) != 2 {
		return false
	}
	id, ok := job[0].(uint32)
	return ok && id != 0
}

// state translates systemd's ActiveState. A unit that is down with a job is about
// to be started, as between the two halves of a restart.
func (m member) state() State {
	switch m.unit.str("ActiveState") {
	case "active", "reloading", "refreshing":
		return Running
	case "activating":
		return Starting
	case "deactivating":
		return Stopping
	}
	switch {
	case m.waits():
		return Starting
	case m.unit.str("ActiveState") == "failed":
		return Failed
	}
	return Stopped // "inactive", "maintenance"
}

// failure says why the unit last failed, "" when it did not.
func (m member) failure() string {
	result := m.own.str("Result")
	if result == "" || result == "success" {
		return ""
	}
	status := m.own.number("ExecMainStatus")
	switch code := m.own.number("ExecMainCode"); {
	case result == "timeout":
		return "timeout, it was not up within the time that its own TimeoutStartSec allows, or not down within TimeoutStopSec"
	case code == 1 && status != 0: // CLD_EXITED of waitid(2)
		return fmt.Sprintf("%s, its main process ended with status %d", result, status)
	case code == 2 || code == 3: // CLD_KILLED, CLD_DUMPED
		return fmt.Sprintf("%s, its main process was ended by signal %d", result, status)
	}
	return result
}

func (v view) names() Names {
	n := Names{ID: v.members[0].name}
	for _, m := range v.members[1:] {
		n.Feeds = append(n.Feeds, m.name)
	}
	return n
}

// status returns the state of the member itself.
func (m member) status() Status {
	s := Status{State: m.state(), PID: m.own.pid("MainPID")}
	switch s.State {
	case Failed:
		s.Detail = fmt.Sprintf("failed: %s; see %s", m.failure(), journal(m.name))
	case Starting:
		if f := m.failure(); f != "" {
			s.Detail = fmt.Sprintf("systemd starts it again: %s; see %s", f, journal(m.name))
		}
	case Stopped:
		if l := m.unit.str("LoadState"); l != "loaded" {
			s.Detail = "unit is " + l
		}
	}
	return s
}

// status returns the state of the unit as a door sees it: a socket whose service runs
// counts as running even if the socket itself is not listening.
func (v view) status() Status {
	if v.halts {
		return Status{State: Stopping} // so that nobody tries a repair
	}
	m := v.members[0]
	s := m.status()
	for _, o := range v.members[1:] {
		if s.PID == 0 {
			s.PID = o.own.pid("MainPID")
		}
		if (s.State == Stopped || s.State == Failed) && o.state() == Running {
			s.State, s.Detail = Running, fmt.Sprintf("%s does not listen, but %s runs", m.name, o.name)
		}
	}
	if by := v.restarters(); len(by) > 0 && s.State == Stopped {
		s.Detail = fmt.Sprintf("%s would start it again; \"systemctl disable --now %s\", or name it as the door's unit",
			strings.Join(by, " and "), strings.Join(by, " "))
	}
	return s
}

// restarters returns the active units that would start this one.
func (v view) restarters() []string {
	var names []string
	for _, t := range v.triggers {
		if t.state() == Running || t.state() == Starting {
			names = append(names, t.name)
		}
	}
	return names
}
