package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/port"
)

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("t.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// How presence is described, for each place of logins and each kind of port.
func TestTold(t *testing.T) {
	for _, tt := range []struct{ name, ports, presence, want string }{
		{"SSH", `"22/tcp"`, "", "in use while there is: a login in the journal or the auth log, for 1h; a live TCP " +
			"connection to 22/tcp (a socket of this machine, or a flow to where the port is forwarded)"},
		{"WireGuard", `"51820/udp"`, `idle = "10m"`, "in use while there is: a flow over UDP to 51820/udp that was answered, " +
			"until a few minutes after its last packet"},
		{"both kinds, the journal", `"443/tcp", "443/udp", "8000-8010/tcp"`, `logins = "journal"`,
			"in use while there is: a login in the journal, for 1h; a live TCP connection to 443/tcp and " +
				"8000-8010/tcp (a socket of this machine, or a flow to where the port is forwarded); a flow over UDP to " +
				"443/udp that was answered, until a few minutes after its last packet"},
		{"the log alone", `"22/tcp"`, "connections = false\nlogins = [\"/var/log/secure\", \"/var/log/secure.1\"]\nidle = \"90m\"",
			"in use while there is: a login in /var/log/secure and /var/log/secure.1, for 1h30m"},
		{"never", `"22/tcp"`, `idle = "never"`, `presence does not count: idle = "never", so the door goes dark ` +
			"only on doorward close, or when all log data is missing"},
		{"never and nothing", `"443/tcp"`, "idle = \"never\"\nconnections = false", `presence does not count: ` +
			`idle = "never", so the door goes dark only on doorward close`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := parse(t, "[door.ssh]\nports = ["+tt.ports+"]\n[door.ssh.presence]\n"+tt.presence+"\n"+oneKnock)
			if diff := cmp.Diff(tt.want, c.Doors[0].Told()); diff != "" {
				t.Errorf("the words (-want +got):\n%s", diff)
			}
		})
	}
}

const clashing = `[door.mosh]
ports = ["60000-61000/udp", "33000/tcp"]
knock = [{kind = "touch", listen = [59001, 59000, 20000], touch = [59000]}]
[door.vpn]
ports = ["51820/udp", "1194/udp"]
knock = [{kind = "touch", listen = [20001, 20002], touch = [20002]}]
`

// One command keeps all of them free, and those that were kept before stay so: the
// kernel replaces the whole list each time.
func TestClashes(t *testing.T) {
	c := parse(t, clashing)
	const file = ` >/etc/sysctl.d/60-doorward.conf && sysctl -p /etc/sysctl.d/60-doorward.conf`
	const why = ": this machine assigns ports 32768 to 60999 to sockets that do not ask for one, such as those of outgoing " +
		"connections: one of them may hold the port when it is needed"
	for _, tt := range []struct {
		name, reserved string
		listeners      bool
		what, do       string
	}{
		{"UDP ports", "8080", false, "60000-60999/udp (guarded by door mosh) and 51820/udp (guarded by door vpn)" + why,
			"echo net.ipv4.ip_local_reserved_ports=8080,51820,60000-60999" + file},
		{"listeners too", "", true, "60000-60999/udp (guarded by door mosh), 59000/tcp and 59001/tcp (listeners of door " +
			"mosh) and 51820/udp (guarded by door vpn)" + why,
			"echo net.ipv4.ip_local_reserved_ports=51820,59000-59001,60000-60999" + file},
		{"kept already", "51820,60000-61000", false, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := port.ParseLocal("32768\t60999\n", tt.reserved)
			if err != nil {
				t.Fatal(err)
			}
			what, do := c.Clashes(l, tt.listeners)
			if diff := cmp.Diff([]string{tt.what, tt.do}, []string{what, do}); diff != "" {
				t.Errorf("clashes (-want +got):\n%s", diff)
			}
		})
	}
}

// A door whose presence depends on flows has a mistake where they cannot be seen.
func TestBlind(t *testing.T) {
	const text = `[door.a]
ports = ["1/udp"]
knock = [{kind = "touch", listen = [11, 12], touch = [11]}]
[door.b]
ports = ["2/udp"]
presence = {idle = "2h", connections = true}
service.unit = "b.service"
knock = [{kind = "touch", listen = [21, 23], touch = [21]}]
[door.c]
ports = ["3/tcp"]
knock = [{kind = "touch", listen = [31, 32], touch = [31]}]
[door.d]
ports = ["22/tcp", "4/udp"]
knock = [{kind = "touch", listen = [41, 42], touch = [41]}]
[door.e]
ports = ["5/udp"]
presence.idle = "never"
knock = [{kind = "touch", listen = [51, 52], touch = [51]}]
`
	got := parse(t, text).Blind("t.toml", []byte(text), "no ctnetlink")
	var lines []string
	for _, m := range got {
		lines = append(lines, m.Error()+" > "+m.Hint)
	}
	want := []string{
		`t.toml:1: door.a.presence.idle: "1h": the default does not work here: flows over UDP cannot be seen here: no ctnetlink; ` +
			`the door would go dark while people are using it: allowed are "never" > name a source of logins, or set idle = "never"`,
		`t.toml:6: door.b.presence.idle: "2h": flows over UDP cannot be seen here: no ctnetlink; the door would go dark, and ` +
			`its service be stopped, while people are using it: allowed are "never" > name a source of logins, or set idle = "never"`,
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}
