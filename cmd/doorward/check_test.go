package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/setup"
)

// runCheck checks a text for a machine. In what is printed the file is F.
func runCheck(t *testing.T, m setup.Machine, text string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "doorward.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
	c := newCheckWith(e, m)
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(append(args, file))
	status = report(e, c.Execute())
	short := func(s string) string { return strings.ReplaceAll(s, file, "F") }
	return status, short(out.String()), short(errs.String())
}

const vpnText = `[door.vpn]
ports = ["51820/udp"]
service.unit = "vpn.service"
[[door.vpn.knock]]
kind = "touch"
listen = [20001, 20002, 20003]
touch = [20001, 20003]
`

// Where the machine does not report flows, a door that depends on them is a mistake;
// where check may not ask, it says so.
func TestCheckAsksForFlows(t *testing.T) {
	const vpn = `
door vpn guards 51820/udp
  knock      touch 20001 and 20003 in any order within 1m, leave 20002 alone
  right      opens the door to the visitor's address for 30s
  wrong      bans the source for 5m, doubled each time
  strangers  get no answer
  service    vpn.service starts when the door opens, and stops when nobody has used it for 1h
  presence   in use while there is: a flow over UDP to 51820/udp that was answered, until a few minutes after its last packet
`
	const mistake = `F:1: door.vpn.presence.idle: "1h": the default does not work here: flows over UDP cannot be seen here: no ctnetlink; ` +
		`the door would go dark, and its service be stopped, while people are using it: allowed are "never"` + "\n" +
		`    name a source of logins, or set idle = "never"` + "\n"
	never := strings.Replace(vpnText, "[[", "presence.idle = \"never\"\n[[", 1)
	for _, tt := range []struct {
		name, text string
		flows      func() error
		status     int
		out, errs  string
	}{
		{"they are seen", vpnText, func() error { return nil }, 0, "F: 1 door, no mistakes\n" + vpn, ""},
		{"no daemon runs on such a machine", vpnText, nil, 0, "F: 1 door, no mistakes\n" + vpn, ""},
		{"they are not", vpnText, func() error { return errors.New("no ctnetlink") }, 1, mistake,
			"doorward: error: F has 1 mistake\ndoorward: hint: doorward init --reference explains every key\n"},
		{"no permission to ask", vpnText, func() error { return fmt.Errorf("list flows: %w", fs.ErrPermission) }, 0,
			"F: warning: whether the kernel shows flows over UDP, by which door vpn would know that somebody is in, was not " +
				"checked: run as root\nF: 1 door, no mistakes\n" + vpn, ""},
		{"nothing depends on them", never, func() error { t.Error("asked for flows"); return nil }, 0, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := machineOf()
			m.Flows = tt.flows
			status, out, errs := runCheck(t, m, tt.text)
			if tt.out == "" {
				out = ""
			}
			if diff := cmp.Diff([]any{tt.status, tt.out, tt.errs}, []any{status, out, errs}); diff != "" {
				t.Errorf("status, output, errors (-want +got):\n%s", diff)
			}
		})
	}
}

// A port that a socket of this machine may take is reported, with what to type.
func TestCheckTellsOfClashes(t *testing.T) {
	text := strings.Replace(vpnText, "20001", "40001", -1) // init warns of listeners
	m := machineOf("proc/sys/net/ipv4/ip_local_port_range=32768\t60999\n", "proc/sys/net/ipv4/ip_local_reserved_ports=8080\n")
	const what = "51820/udp (guarded by door vpn): this machine assigns ports 32768 to 60999 to sockets that do not ask for one, " +
		"such as those of outgoing connections: one of them may hold the port when it is needed"
	const do = "echo net.ipv4.ip_local_reserved_ports=8080,51820 >/etc/sysctl.d/60-doorward.conf && " +
		"sysctl -p /etc/sysctl.d/60-doorward.conf"
	status, out, _ := runCheck(t, m, text)
	if want := "F: warning: " + what + "\n    " + do + "\nF: 1 door, no mistakes\n"; status != 0 || !strings.HasPrefix(out, want) {
		t.Errorf("status %d, %s\nwant 0, %s", status, out, want)
	}
	status, out, _ = runCheck(t, m, text, "--json")
	var got checkJSON
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != 0 || !got.OK || len(got.Findings) != 1 {
		t.Fatalf("status %d, %v: %s", status, err, out)
	}
	if f := got.Findings[0]; f.Level != "warning" || f.Problem != what || f.Hint != do {
		t.Errorf("got %v", f)
	}
	m = machineOf("proc/sys/net/ipv4/ip_local_port_range=32768\t60999\n", "proc/sys/net/ipv4/ip_local_reserved_ports=51820\n")
	for name, m := range map[string]setup.Machine{"reserved": m, "not Linux": machineOf()} {
		if _, out, _ := runCheck(t, m, text); !strings.HasPrefix(out, "F: 1 door, no mistakes\n") {
			t.Errorf("%s: %s\nwant no warning", name, out)
		}
	}
}

// A configuration that is on its way to a gateway is checked before it is a file
// there.
func TestCheckReadsStandardInput(t *testing.T) {
	const good = "[door.panel]\nports = [\"8443/tcp\"]\n[[door.panel.knock]]\nkind = \"touch\"\nlisten = [11, 12, 13]\ntouch = [11, 13]\n"
	for _, tt := range []struct {
		name, stdin string
		status      int
		out, errs   string // beginnings
	}{
		{"a good one", good, 0, "standard input: 1 door, no mistakes\n", ""},
		{"one with a mistake", good + "tuch = [1]\n", 1, "standard input:7: door.panel.knock[0].tuch: ", "doorward: error: standard input has 1 mistake\n"},
		{"no end of it", strings.Repeat("#", config.MaxFile+1), 1, "",
			"doorward: error: read configuration: standard input is longer than 1048576 bytes\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			e := &env{stdin: strings.NewReader(tt.stdin), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
			status := run(t.Context(), e, []string{"check", "-"})
			if status != tt.status || !strings.HasPrefix(out.String(), tt.out) || !strings.HasPrefix(errs.String(), tt.errs) {
				t.Errorf("status %d, output %q, errors %q, want %d, %q... and %q...",
					status, out.String(), errs.String(), tt.status, tt.out, tt.errs)
			}
		})
	}
}

// A file that is one thing to a knock and another to a second is warned of, as the daemon
// does, which has the second open nothing.
func TestCheckSeesWhatIsTwoThings(t *testing.T) {
	dir := t.TempDir()
	var text string
	for _, door := range []string{"web", "panel"} {
		text += fmt.Sprintf("[door.%s]\nports = [\"%d/tcp\"]\n[[door.%[1]s.knock]]\nkind = \"sealed\"\nidentity = \"%[3]s/sealed.key\"\n",
			door, 8000+len(door), dir)
	}
	one := strings.Replace(text, "[door.panel]", "keys = \"/f\"\n[door.panel]", 1) + "keys = \"/f\"\n"
	two := strings.Replace(text, "[door.panel]", "keys = \"/f\"\n[door.panel]", 1) + "revoked = \"/f\"\n"
	two = strings.ReplaceAll(two, "/f\"", dir+"/f\"")
	one = strings.ReplaceAll(one, "/f\"", dir+"/f\"")
	want := fmt.Sprintf("warning: %s/f is revoked of door \"panel\" and keys of door \"web\", and the knock of the second opens nothing: give it a file of its own", dir)
	if status, out, _ := runCheck(t, machineOf(), two); status != 0 || !strings.Contains(out, want) {
		t.Errorf("status %d, %s\nwant 0, %s", status, out, want)
	}
	if status, out, _ := runCheck(t, machineOf(), one); status != 0 || strings.Contains(out, "opens nothing: give") {
		t.Errorf("one file that is the same to both: status %d, %s", status, out)
	}
}
