//go:build linux

package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/service"
)

// units are systemd's, by name; those that are missing cannot be asked about.
type units map[string]fakeUnit

type fakeUnit struct {
	facts  service.Facts // as for a unit of its name that is loaded, where that is not set
	status service.Status
	cuts   string
}

func (u units) unit(name string) Unit { return asked{u, name} }

type asked struct {
	units units
	name  string
}

func (a asked) Facts(context.Context) (service.Facts, error) {
	u, ok := a.units[a.name]
	if !ok {
		return service.Facts{}, fmt.Errorf("unit %q does not answer", a.name)
	}
	f := u.facts
	if f.ID == "" {
		f.ID = a.name
	}
	if f.Load == "" {
		f.Load = "loaded"
	}
	return f, nil
}

func (a asked) Status(context.Context) (service.Status, error) { return a.units[a.name].status, nil }

func (a asked) CutsSessions(context.Context) (bool, string, error) {
	return a.units[a.name].cuts != "", a.units[a.name].cuts, nil
}

// polkit is the orders that it denies.
type polkit []string

func (p polkit) denied(_ context.Context, uid int, orders []service.Order) (denied []service.Order, _ error) {
	for _, o := range orders {
		if uid == 998 && slices.Contains(p, o.String()) {
			denied = append(denied, o)
		}
	}
	return denied, nil
}

var running = service.Status{State: service.Running}

func TestUnit(t *testing.T) {
	alias := fakeUnit{facts: service.Facts{Names: service.Names{ID: "sshd.service"}}}
	socket := func(own service.Status, enabled string) fakeUnit {
		// A door that has the socket as its unit would see the service run.
		return fakeUnit{facts: service.Facts{Own: own, Enabled: enabled}, status: running}
	}
	const beside = `it holds the port, and starts the service behind doorward's back > systemctl `
	tests := []struct {
		name  string
		units units
		files map[string]string
		want  []string
	}{
		{"runs", units{"ssh.service": {status: running}}, nil, []string{"ok: door ssh: its unit ssh.service is running > "}},
		{"stopped, its socket too", units{"ssh.service": {}, "ssh.socket": socket(service.Status{}, "disabled")}, nil,
			[]string{"ok: door ssh: its unit ssh.service is stopped > "}},
		{"no answer", units{}, nil,
			[]string{`problem: door ssh: cannot ask systemd about its unit ssh.service: unit "ssh.service" does not answer > systemctl status`}},
		{"none", units{"ssh.service": {facts: service.Facts{Load: "not-found"}}}, nil,
			[]string{`problem: door ssh: its unit ssh.service does not exist > systemctl list-unit-files --type=service`}},
		{"masked", units{"ssh.service": {facts: service.Facts{Load: "masked"}}}, nil,
			[]string{`problem: door ssh: its unit ssh.service is masked, so that nothing may start it > systemctl unmask ssh.service`}},
		{"garbled", units{"ssh.service": {facts: service.Facts{Load: "bad-setting"}}}, nil,
			[]string{`problem: door ssh: its unit ssh.service cannot be loaded (bad-setting) > systemctl status ssh.service`}},
		{"alias", units{"ssh.service": alias}, nil, []string{"ok: door ssh: its unit sshd.service is stopped",
			`note: door ssh: ssh.service is another name of sshd.service, and may go when that is disabled > write unit = "sshd.service"`}},
		{"failed", units{"ssh.service": {status: service.Status{State: service.Failed, Detail: "exit status 255"}}}, nil,
			[]string{"warning: door ssh: its unit ssh.service is failed: exit status 255 > journalctl -u ssh.service"}},
		{"cuts sessions", units{"ssh.service": {status: running, cuts: "KillMode=control-group ends them"}}, nil, []string{
			"ok: door ssh", "problem: door ssh: going dark would end open sessions: KillMode=control-group ends them >" +
				" systemctl edit ssh.service"}},
		{"socket beside it, not active", units{"ssh.service": {status: running}, "ssh.socket": socket(service.Status{}, "disabled")}, nil,
			[]string{"ok: door ssh"}},
		{"socket beside it", units{"ssh.service": {status: running}, "ssh.socket": socket(running, "disabled")}, nil, []string{
			"ok: door ssh", "problem: door ssh: ssh.socket is active beside ssh.service, though not enabled: " + beside +
				`stop ssh.socket; or write unit = "ssh.socket"`}},
		{"socket beside it, enabled too", units{"ssh.service": {status: running}, "ssh.socket": socket(running, "enabled")}, nil, []string{
			"ok: door ssh", "problem: door ssh: ssh.socket is active and enabled beside ssh.service: " + beside +
				`disable --now ssh.socket; or write unit = "ssh.socket"`}},
		{"socket beside it, enabled only", units{"ssh.service": {status: running}, "ssh.socket": socket(service.Status{}, "enabled")}, nil,
			[]string{"ok: door ssh", "warning: door ssh: ssh.socket is enabled beside ssh.service, though not active: from the" +
				" next boot on " + beside + `disable ssh.socket; or write unit = "ssh.socket"`}},
		{"another starts it", units{"ssh.service": {status: running, facts: service.Facts{FedBy: []string{"night.timer"}}},
			"night.timer": socket(running, "enabled")}, nil, []string{"ok: door ssh", "problem: door ssh: night.timer is active and" +
			" enabled beside ssh.service: it starts the service behind doorward's back > systemctl disable --now night.timer"}},
		{"enabled", units{"ssh.service": {status: running}},
			map[string]string{"/etc/systemd/system/multi-user.target.wants/ssh.service": ""}, []string{
				"ok: door ssh", "note: door ssh: ssh.service also starts at boot, and doorward stops it when nobody" +
					" has been in for 1h; that is a way in should doorward itself not start > to have it run only"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := machine(t, tt.files)
			p.Unit = tt.units.unit
			want(t, p.unit(t.Context(), &sshDoor(t).Doors[0], nil, nil), tt.want...)
		})
	}
	p := machine(t, map[string]string{"/etc/systemd/system/multi-user.target.wants/ssh.service": ""})
	p.Unit = units{"ssh.service": {}}.unit
	never := sshDoor(t).Doors[0]
	never.Presence.Idle = 0
	want(t, p.unit(t.Context(), &never, nil, nil), "ok: door ssh: its unit ssh.service is stopped", "note: door ssh: ssh.service also starts at boot, and doorward stops it when its door goes dark; that is a way in should doorward itself not start")
}

func TestUnitMayStart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may ask polkit")
	}
	names := service.Names{ID: "ssh.socket", Feeds: []string{"ssh.service"}}
	user := &reader{name: "the user doorward", uid: 998}
	fails := func(err error) func(context.Context, int, []service.Order) ([]service.Order, error) {
		return func(context.Context, int, []service.Order) ([]service.Order, error) { return nil, err }
	}
	for _, tt := range []struct {
		name   string
		reader *reader
		denied func(context.Context, int, []service.Order) ([]service.Order, error)
		want   []string
	}{
		{"allowed", user, polkit{"start other.service"}.denied, []string{"ok: door ssh: the user doorward may start and stop ssh.socket > "}},
		{"denied", user, polkit{"start ssh.socket", "stop ssh.service"}.denied, []string{"problem: door ssh: polkit does not let the user" +
			" doorward start ssh.socket, stop ssh.service, so that right knocks fail or the service is never stopped >" +
			" sudo doorward polkit --install"}},
		{"an older rule", user, polkit{"reset-failed ssh.socket"}.denied, []string{"warning: door ssh: polkit does not let the user" +
			" doorward reset-failed ssh.socket > sudo doorward polkit --install"}},
		{"no polkit", user, fails(service.ErrNoPolkit), []string{"problem: door ssh: the user doorward may not start and stop" +
			" ssh.socket: polkit, which would allow it, is not installed > apt-get install polkitd (dnf install polkit)," +
			" and then sudo doorward polkit --install"}},
		{"no answer", user, fails(errors.New("no reply")), []string{"warning: door ssh: cannot tell whether the user doorward may start and stop ssh.socket: no reply > systemctl status polkit"}},
		{"a daemon that is root", nil, fails(errors.New("asked")), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &Host{Denied: tt.denied}
			want(t, p.mayStart(t.Context(), "door ssh", names, tt.reader), tt.want...)
		})
	}
}

func TestUnitRemovesRunSSHD(t *testing.T) {
	facts := service.Facts{Names: service.Names{ID: "ssh.service"}, Removes: []service.RunDirectory{{Unit: "ssh.service", Name: "sshd"}}}
	all4 := netip.MustParseAddr("0.0.0.0")
	own, other := listener{tcp(22), all4, 7, "sshd"}, listener{tcp(2222), all4, 8, "sshd"}
	status := service.Status{State: service.Running, PID: 7}
	const stopping = "stopping ssh.service removes /run/sshd, without which no sshd lets anybody in"
	const do = " > systemctl edit ssh.service, and add the lines [Service] and RuntimeDirectoryPreserve=yes"
	for _, tt := range []struct {
		name    string
		facts   service.Facts
		sockets []listener
		files   map[string]string
		want    []string
	}{
		{"keeps it", service.Facts{}, []listener{own, other}, nil, nil},
		{"has another directory", service.Facts{Removes: []service.RunDirectory{{Unit: "ssh.service", Name: "panel"}}},
			[]listener{own, other}, nil, nil},
		{"alone", facts, []listener{own, {tcp(2222), all4, 9, "a port forwarding of an SSH session"}},
			map[string]string{"/etc/systemd/system/sshd-keys.service": "[Service]\nExecStart=/usr/sbin/sshd-keygen\n"},
			[]string{"note: door ssh: " + stopping + "; that would affect a second one" + do}},
		{"another runs", facts, []listener{own, other}, nil,
			[]string{"warning: door ssh: " + stopping + ": sshd (pid 8) would not either" + do}},
		{"another is set up", facts, []listener{own},
			map[string]string{"/etc/systemd/system/fallback.service": "[Service]\nExecStart=-/usr/sbin/sshd -D -p 2222\n"},
			[]string{"warning: door ssh: " + stopping + ": fallback.service would not either" + do}},
		{"its own file, changed", facts, []listener{own},
			map[string]string{"/etc/systemd/system/ssh.service": "[Service]\nExecStart=/usr/sbin/sshd -D\n"},
			[]string{"note: door ssh: " + stopping}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want(t, machine(t, tt.files).removes("door ssh", tt.facts, status, tt.sockets), tt.want...)
		})
	}
}

func TestSharedUnits(t *testing.T) {
	text := configText + strings.NewReplacer("door.ssh", "door.alt", "ssh.service", "sshd.socket", "22/tcp", "2222/tcp",
		"590", "580").Replace(configText)
	c, err := config.Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	socket := fakeUnit{facts: service.Facts{Names: service.Names{ID: "ssh.socket", Feeds: []string{"ssh.service"}}}}
	p := &Host{Unit: units{"ssh.service": {}, "sshd.socket": socket}.unit}
	want(t, p.sharedUnits(t.Context(), c), "problem: door ssh: has the same service as door alt, ssh.service: when one goes dark,"+
		" it is stopped for both > make it one door: its ports may be several")
	p.Unit = units{"ssh.service": {}, "sshd.socket": {}}.unit
	want(t, p.sharedUnits(t.Context(), c))
}
