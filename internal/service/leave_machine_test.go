//go:build linux

package service

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/systemdtest"
)

// policed is the machine, seen by the user doorward.
type policed struct {
	*systemdtest.Machine
	t *testing.T
}

// order runs helpUnit with an order for a unit as the user doorward.
func (p policed) order(verb, unit string) string {
	p.t.Helper()
	out, err := p.CommandAs(p.t.Context(), "doorward", "/helper", helperWord, "unit", verb, unit).Output()
	if err != nil {
		p.t.Fatalf("%s %s: %v\n%s", verb, unit, err, out)
	}
	return strings.TrimSpace(string(out))
}

// denied returns what polkit denies to the user doorward, as root finds out.
func (p policed) denied(unit string) string {
	return p.Run("/helper", helperWord, "unit", "denied", unit)
}

// install writes a rule and makes it effective.
func (p policed) install(rule string) {
	p.Write("/etc/polkit-1/rules.d/49-doorward.rules", rule, 0o644)
	p.Run("systemctl", "reset-failed", "polkit.service")
	p.Run("systemctl", "restart", "polkit.service") // otherwise it would read the rules again at some later moment
}

// police creates the user, and units that the rules are about.
func police(t *testing.T, m *systemdtest.Machine) policed {
	t.Helper()
	sysusers, err := os.ReadFile("../../packaging/doorward.sysusers")
	if err != nil {
		t.Fatal(err)
	}
	m.Write("/usr/lib/sysusers.d/doorward.conf", string(sysusers), 0o644)
	m.Run("systemd-sysusers")
	m.Write("/etc/systemd/system/odd\\x2dname.service", "[Service]\nExecStart=/bin/sleep infinity\n", 0o644)
	m.Run("ln", "-sf", "main.service", "/etc/systemd/system/other.service")
	m.Run("systemctl", "daemon-reload")
	return policed{m, t}
}

// rule returns a rule for all units of these tests except plain.service and
// again.service.
func (p policed) rule() string {
	return PolkitRule("doorward", []Names{{ID: "ssh.service"}, {ID: "ssh.socket", Feeds: []string{"ssh.service"}},
		{ID: "fed.socket", Feeds: []string{"fed.service"}}, {ID: `odd\x2dname.service`}, {ID: "broken.service"},
		{ID: "nowhere.service"}, NamesByLinks(p.Path("/"), "other.service")})
}

func notAllowed(verb, unit string) string {
	return fmt.Sprintf(`not allowed to %s unit %q: Interactive authentication required.; "sudo doorward polkit --install" allows it`, verb, unit)
}

// testUnitAllowed asks what is allowed. That must change nothing: a socket that waits
// and a service that runs stay as they are, and one that failed stays failed.
func testUnitAllowed(t *testing.T, m *systemdtest.Machine) {
	p := police(t, m)
	m.Run("systemctl", "start", "fed.socket", "plain.service")
	m.Command(t.Context(), "systemctl", "start", "broken.service").Run()
	states := func() string {
		out, _ := m.Command(t.Context(), "systemctl", "is-active", "fed.socket", "fed.service", "plain.service", "broken.service").Output()
		return string(out) + m.Run("systemctl", "list-jobs")
	}
	before := states()
	for _, unit := range []string{"fed.socket", "plain.service", "broken.service", "nowhere.service"} {
		if got, want := p.order("allowed", unit), notAllowed("stop", unit); got != want {
			t.Errorf("without a rule: %s\nwant %s", got, want)
		}
	}
	if got, want := p.denied("plain.service"), "start plain.service\nstop plain.service\nreset-failed plain.service\ndone\n"; got != want {
		t.Errorf("without a rule polkit denies %q\nwant %q", got, want)
	}
	for _, tt := range []struct{ missing, want string }{
		{`"start fed.socket",`, notAllowed("start", "fed.socket")},
		{`"stop fed.socket",`, notAllowed("stop", "fed.socket")},
		{`"stop fed.service",`, notAllowed("stop", "fed.service")},
		{"", "done"},
	} {
		p.install(strings.Replace(p.rule(), tt.missing, "", 1))
		if got := p.order("allowed", "fed.socket"); got != tt.want {
			t.Errorf("the rule lacks %q: %s\nwant %s", tt.missing, got, tt.want)
		}
	}
	for unit, want := range map[string]string{"broken.service": "done", "nowhere.service": "done", "other.service": "done",
		"plain.service": notAllowed("stop", "plain.service")} {
		if got := p.order("allowed", unit); got != want {
			t.Errorf("%s: %s\nwant %s", unit, got, want)
		}
	}
	if got := p.denied("broken.service"); got != "done\n" {
		t.Errorf("polkit denies %q", got)
	}
	if got := states(); got != before {
		t.Errorf("asking changed\n%s\ninto\n%s", before, got)
	}
	m.Run("systemctl", "stop", "fed.socket", "plain.service")
	m.Run("rm", "/etc/polkit-1/rules.d/49-doorward.rules")
	m.Run("systemctl", "restart", "polkit.service")
}

// testUnitPolkit gives orders as the user doorward.
func testUnitPolkit(t *testing.T, m *systemdtest.Machine) {
	p := police(t, m)
	m.Run("systemctl", "stop", "ssh.service")
	if got, want := p.order("start", "ssh.service"), notAllowed("start", "ssh.service"); got != want {
		t.Errorf("without the rule: %s\nwant %s", got, want)
	}
	p.install(p.rule())
	for _, o := range [][2]string{
		{"start", "ssh.service"}, {"start", "ssh.service"}, {"stop", "ssh.service"}, {"stop", "ssh.service"},
		{"start", "other.service"}, {"stop", "other.service"}, // main.service
		{"start", "ssh.socket"}, {"stop", "ssh.socket"},
		{"start", `odd\x2dname.service`}, {"stop", `odd\x2dname.service`},
	} {
		if got := p.order(o[0], o[1]); got != "done" {
			t.Errorf("%s %s: %s", o[0], o[1], got)
		}
	}
	m.Run("systemctl", "start", "fed.service")
	if got := p.order("stop", "fed.socket"); got != "done" {
		t.Errorf("stop of a socket whose service runs: %s", got)
	}
	systemctl := func(user, verb string) string {
		out, _ := m.CommandAs(t.Context(), user, "systemctl", "--no-ask-password", verb, "ssh.service").CombinedOutput()
		return string(out)
	}
	if got := systemctl("doorward", "reset-failed"); got != "" {
		t.Errorf("systemctl reset-failed ssh.service as doorward: %s", got)
	}

	m.Run("systemctl", "start", "plain.service")
	for _, o := range [][2]string{{"start", "again.service"}, {"stop", "plain.service"}, {"start", "fed.service"}} {
		if got, want := p.order(o[0], o[1]), notAllowed(o[0], o[1]); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	for _, verb := range []string{"restart", "reload-or-restart", "kill", "disable", "mask"} {
		if got := systemctl("doorward", verb); !strings.Contains(got, "nteractive authentication required") {
			t.Errorf("systemctl %s ssh.service as doorward: %s", verb, got)
		}
	}
	if got := systemctl("nobody", "start"); !strings.Contains(got, "nteractive authentication required") {
		t.Errorf("systemctl start ssh.service as another user: %s", got)
	}
	m.Run("systemctl", "stop", "plain.service")
}

// testUnitNoPolkit asks on a machine without polkit.
func testUnitNoPolkit(t *testing.T, m *systemdtest.Machine) {
	p := police(t, m)
	const file, aside = "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service", "/run/polkit.service"
	m.Run("systemctl", "stop", "polkit.service")
	m.Run("mv", file, aside)
	m.Run("systemctl", "reload", "dbus.service")
	if got, want := p.denied("ssh.service"), "polkit is not installed\n"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got, want := p.order("allowed", "ssh.service"), `not allowed to stop unit "ssh.service": `; !strings.HasPrefix(got, want) {
		t.Errorf("%s\nwant %s", got, want)
	}
	m.Run("mv", aside, file)
	m.Run("systemctl", "reload", "dbus.service")
	m.Run("systemctl", "start", "polkit.service")
}
