//go:build linux

package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
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
	case "start-soon":
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		err = u.Start(ctx)
	case "stop":
		err = u.Stop(ctx)
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
		return fmt.Sprintf(`not allowed to %s unit %q: Interactive authentication required.; "doorward polkit" prints the rule that allows it`, verb, unit)
	}

	if got, want := order("start", "ssh.service"), denied("start", "ssh.service"); got != want {
		t.Errorf("without the rule: %s\nwant %s", got, want)
	}
	m.Write("/etc/polkit-1/rules.d/49-doorward.rules",
		PolkitRule("doorward", []string{"ssh.service", "ssh.socket", "fed.socket", `odd\x2dname.service`, "other.service"}), 0o644)
	m.Run("systemctl", "restart", "polkit.service") // it reads rules anew by itself, at some moment
	for _, o := range [][2]string{
		{"start", "ssh.service"}, {"start", "ssh.service"}, {"stop", "ssh.service"}, {"stop", "ssh.service"},
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

	m.Run("systemctl", "start", "plain.service")
	for _, o := range [][2]string{{"start", "main.service"}, {"stop", "plain.service"}, {"start", "fed.service"}} {
		if got, want := order(o[0], o[1]), denied(o[0], o[1]); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	got, want := order("start", "other.service"), `not allowed to start unit "other.service": Interactive authentication required.; `+
		`it is another name of "main.service", which is what the configuration should say`
	if got != want {
		t.Errorf("by an alias: %s\nwant %s", got, want)
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
}
