//go:build linux

package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

func textLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// helpUnit carries out an order as the user that runs it: ORDER UNIT.
func helpUnit(args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	u := NewUnit(args[1], textLogger(os.Stderr))
	var err error
	switch args[0] {
	case "start":
		err = u.Start(ctx)
	case "stop":
		err = u.Stop(ctx)
	case "allowed":
		err = u.Allowed(ctx)
	case "denied": // as root, about the user doorward
		who, lookup := user.Lookup("doorward")
		if lookup != nil {
			fmt.Println(lookup)
			return
		}
		uid, _ := strconv.Atoi(who.Uid)
		var orders []Order
		orders, err = Denied(ctx, uid, u.Names().Orders())
		for _, o := range orders {
			fmt.Println(o)
		}
	case "watch":
		ctx, cancel := context.WithCancel(ctx)
		go func() { // ends when the test closes the input, or with the process
			io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
		err = u.Watch(ctx, func(s Status) { fmt.Println(s.State) })
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("done")
}

// testUnitSession holds an SSH session open over a stop of its server.
func testUnitSession(t *testing.T, m *systemdtest.Machine, visitor *nstest.NS) {
	key := t.TempDir() + "/id"
	visitor.Run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	m.Write("/root/.ssh/authorized_keys", string(public), 0o600)
	for _, unit := range []string{"ssh.service", "ssh.socket"} {
		t.Run(unit, func(t *testing.T) {
			u := NewUnit(unit, discard)
			if err := u.Start(within(t, 20*time.Second)); err != nil {
				t.Fatal(err)
			}
			ssh := visitor.Command(t.Context(), "ssh", "-T", "-i", key, "-F", "none", "-o", "StrictHostKeyChecking=no",
				"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectionAttempts=20", "root@192.0.2.1", "cat")
			in, out := pipes(t, ssh.StdinPipe, ssh.StdoutPipe)
			if err := ssh.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ssh.Process.Kill(); ssh.Wait() })
			for _, text := range []string{"before", "after"} {
				fmt.Fprintln(in, text)
				if !out.Scan() || out.Text() != text {
					t.Fatalf("session answers %q to %q", out.Text(), text)
				}
				if err := u.Stop(within(t, 20*time.Second)); err != nil {
					t.Fatal(err)
				}
				if listeners := m.Run("ss", "-Hltn", "sport = :22"); listeners != "" {
					t.Errorf("after Stop something listens: %s", listeners)
				}
			}
		})
	}
}

// testUnitPolkit gives orders as the user doorward.
func testUnitPolkit(t *testing.T, m *systemdtest.Machine) {
	sysusers, err := os.ReadFile("../../packaging/doorward.sysusers")
	if err != nil {
		t.Fatal(err)
	}
	m.Write("/usr/lib/sysusers.d/doorward.conf", string(sysusers), 0o644)
	m.Run("systemd-sysusers")
	m.Write("/etc/systemd/system/odd\\x2dname.service", "[Service]\nExecStart=/bin/sleep infinity\n", 0o644)
	m.Run("ln", "-s", "main.service", "/etc/systemd/system/other.service")
	m.Run("systemctl", "daemon-reload")
	order := func(args ...string) string {
		t.Helper()
		args = append([]string{helperWord, "unit"}, args...)
		out, err := m.CommandAs(t.Context(), "doorward", "/helper", args...).Output()
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	denied := func(verb, unit string) string {
		return fmt.Sprintf(`not allowed to %s unit %q: Interactive authentication required.; "sudo doorward polkit --install" allows it`, verb, unit)
	}
	polkitSays := func(unit string) string { return m.Run("/helper", helperWord, "unit", "denied", unit) }

	// The questions come first, and change nothing: a socket that waits and a
	// service that runs stay so, and one that failed stays failed.
	m.Run("systemctl", "start", "fed.socket", "plain.service")
	m.Run("systemctl", "stop", "ssh.service")
	m.Command(t.Context(), "systemctl", "start", "broken.service").Run()
	states := func() string {
		out, _ := m.Command(t.Context(), "systemctl", "is-active", "fed.socket", "fed.service", "plain.service", "broken.service").Output()
		return string(out) + m.Run("systemctl", "list-jobs")
	}
	before := states()
	for _, unit := range []string{"fed.socket", "plain.service", "broken.service", "nowhere.service"} {
		if got, want := order("allowed", unit), denied("stop", unit); got != want {
			t.Errorf("without the rule: %s\nwant %s", got, want)
		}
	}
	if got, want := polkitSays("plain.service"), "start plain.service\nstop plain.service\nreset-failed plain.service\ndone\n"; got != want {
		t.Errorf("without the rule polkit denies %q\nwant %q", got, want)
	}
	if got, want := order("start", "ssh.service"), denied("start", "ssh.service"); got != want {
		t.Errorf("without the rule: %s\nwant %s", got, want)
	}
	only := func(rule, old string) string { return strings.Replace(rule, old, "", 1) }
	install := func(rule string) {
		m.Write("/etc/polkit-1/rules.d/49-doorward.rules", rule, 0o644)
		m.Run("systemctl", "reset-failed", "polkit.service")
		m.Run("systemctl", "restart", "polkit.service") // it reads rules anew by itself, at some moment
	}
	rule := PolkitRule("doorward", []Names{{ID: "ssh.service"}, {ID: "ssh.socket", Feeds: []string{"ssh.service"}},
		{ID: "fed.socket", Feeds: []string{"fed.service"}}, {ID: `odd\x2dname.service`}, {ID: "broken.service"}, {ID: "nowhere.service"},
		NamesByLinks(m.Path("/"), "other.service")})
	for _, tt := range []struct{ missing, unit, want string }{
		{`"start fed.socket",`, "fed.socket", denied("start", "fed.socket")},
		{`"stop fed.socket",`, "fed.socket", denied("stop", "fed.socket")},
		{`"stop fed.service",`, "fed.socket", denied("stop", "fed.service")},
		{"", "fed.socket", "done"},
		{"", "broken.service", "done"},
		{"", "nowhere.service", "done"},
		{"", "other.service", "done"},
		{"", "plain.service", denied("stop", "plain.service")},
	} {
		install(only(rule, tt.missing))
		if got := order("allowed", tt.unit); got != tt.want {
			t.Errorf("the rule lacks %q: %s\nwant %s", tt.missing, got, tt.want)
		}
	}
	if got := states(); got != before {
		t.Errorf("the questions changed\n%s\ninto\n%s", before, got)
	}
	if got := polkitSays("broken.service"); got != "done\n" {
		t.Errorf("polkit denies %q", got)
	}
	m.Run("systemctl", "stop", "fed.socket", "plain.service")

	for _, o := range [][2]string{
		{"start", "ssh.service"}, {"start", "ssh.service"}, {"stop", "ssh.service"}, {"stop", "ssh.service"},
		{"start", "sshd.service"}, {"stop", "sshd.service"}, {"start", "other.service"}, {"stop", "other.service"},
		{"start", "ssh.socket"}, {"stop", "ssh.socket"},
		{"start", `odd\x2dname.service`}, {"stop", `odd\x2dname.service`},
	} {
		if got := order(o[0], o[1]); got != "done" {
			t.Errorf("%s %s: %s", o[0], o[1], got)
		}
	}
	m.Run("systemctl", "start", "fed.service")
	if got := order("stop", "fed.socket"); got != "done" {
		t.Errorf("stop of a socket whose service runs: %s", got)
	}
	if out, err := m.CommandAs(t.Context(), "doorward", "systemctl", "--no-ask-password", "reset-failed", "ssh.service").CombinedOutput(); err != nil {
		t.Errorf("reset-failed: %v: %s", err, out)
	}

	m.Run("systemctl", "start", "plain.service")
	for _, o := range [][2]string{{"start", "again.service"}, {"stop", "plain.service"}, {"start", "fed.service"}} {
		if got, want := order(o[0], o[1]), denied(o[0], o[1]); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	for _, verb := range []string{"restart", "reload-or-restart", "kill", "disable", "mask"} {
		out, err := m.CommandAs(t.Context(), "doorward", "systemctl", "--no-ask-password", verb, "ssh.service").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "nteractive authentication required") {
			t.Errorf("systemctl %s ssh.service as doorward: %v\n%s", verb, err, out)
		}
	}
	out, err := m.CommandAs(t.Context(), "nobody", "systemctl", "--no-ask-password", "start", "ssh.service").CombinedOutput()
	if err == nil {
		t.Errorf("another user may start it: %s", out)
	}
	m.Run("systemctl", "stop", "plain.service")
	m.Run("systemctl", "stop", "polkit.service")
	m.Run("systemctl", "mask", "--runtime", "polkit.service")
	m.Run("mv", "/usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service", "/run/")
	m.Run("systemctl", "reload", "dbus.service")
	if got, want := polkitSays("ssh.service"), "polkit is not installed\n"; got != want {
		t.Errorf("without polkit: %s\nwant %s", got, want)
	}
	if got, want := order("allowed", "ssh.service"), "not allowed to stop unit \"ssh.service\""; !strings.HasPrefix(got, want) {
		t.Errorf("without polkit: %s\nwant %s", got, want)
	}
	m.Run("mv", "/run/org.freedesktop.PolicyKit1.service", "/usr/share/dbus-1/system-services/")
	m.Run("systemctl", "unmask", "--runtime", "polkit.service")
	m.Run("systemctl", "reload", "dbus.service")
	m.Run("systemctl", "start", "polkit.service")
}
