package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/tables"
	"github.com/doorward/doorward/internal/touch"
)

// oneKnock is a knock without a mistake, for cases about something else.
const oneKnock = `[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001]
touch = [59000]
`

// ssh is the head of a door without a mistake.
const ssh = "[door.ssh]\nports = [\"22/tcp\"]\n"

// touchOf returns the rule of a knock of kind touch.
func touchOf(k Knock) touch.Rule { return k.Rule.(touch.Rule) }

// mistakes returns the messages of an error of Parse, without the file's name.
func mistakes(err error) []string {
	if err == nil {
		return nil
	}
	lines := strings.Split(err.Error(), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "t.toml:")
	}
	return lines
}

func TestMistakes(t *testing.T) {
	for _, cases := range [][]mistakeCase{formCases, doorCases, serviceCases, knockCases, disjointCases} {
		for _, tt := range cases {
			t.Run(tt.name, func(t *testing.T) {
				c, err := Parse("t.toml", []byte(tt.in))
				if diff := cmp.Diff(tt.want, mistakes(err)); diff != "" {
					t.Errorf("mistakes (-want +got):\n%s", diff)
				}
				if (c == nil) != (err != nil) {
					t.Errorf("Parse = %v, %v: want a Config or an error", c, err)
				}
			})
		}
	}
}

func TestPromise(t *testing.T) {
	c, _, err := Load("testdata/promise.toml")
	if err != nil {
		t.Fatal(err)
	}
	all, ssh := c.Doors[0], c.Doors[1]
	if !all.SSH() || !ssh.SSH() {
		t.Errorf("SSH() = %v, %v: want true for sshd as a command and for 22/tcp", all.SSH(), ssh.SSH())
	}
	if all.Refuse != Reject || !touchOf(all.Knocks[0]).Given || touchOf(all.Knocks[1]).Judge != time.Minute {
		t.Errorf("door all = %+v", all)
	}
	want := Presence{Idle: time.Hour, Logins: LoginsFiles, Files: []string{
		"/var/log/secure", "/var/log/secure.1", "/var/log/secure.2"}}
	if diff := cmp.Diff(want, all.Presence); diff != "" {
		t.Errorf("presence (-want +got):\n%s", diff)
	}
}

// Every number of the article.
func TestLikeTheArticle(t *testing.T) {
	c, err := Parse("article.toml", []byte(LikeTheArticle()))
	if err != nil {
		t.Fatal(err)
	}
	ranges := c.Doors[0].Ports
	if len(ranges) != 1 || ranges[0].String() != "22/tcp" {
		t.Errorf("ports = %v, want 22/tcp", ranges)
	}
	want := &Config{
		Gateway: Gateway{State: DefaultState, Control: DefaultControl, Records: Records{Log: true}},
		Doors: []Door{{
			Name:    "ssh",
			Ports:   ranges,
			OpenFor: 30 * time.Second,
			Service: &Service{Unit: "sshd.service", Timeout: 30 * time.Second},
			Presence: Presence{Idle: time.Hour, Logins: LoginsFiles, Files: []string{
				"/var/log/secure", "/var/log/secure.1", "/var/log/secure.2",
				"/var/log/secure.3", "/var/log/secure.4"}},
			Knocks: []Knock{{
				Name: "touch",
				Kind: "touch",
				Rule: touch.Rule{
					Listen:    []uint16{59000, 59001, 59002},
					Touch:     []uint16{59000, 59002},
					Within:    time.Minute,
					Judge:     time.Minute,
					Penalty:   5 * time.Minute,
					Everybody: true,
				},
			}},
		}},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("the article (-want +got):\n%s", diff)
	}
}

func TestPresenceFollows(t *testing.T) {
	tests := []struct {
		name, in string
		want     Presence
	}{
		{"idle follows a longer open_for",
			ssh + "open_for = \"3h\"\n" + oneKnock,
			Presence{Idle: 3 * time.Hour, Logins: LoginsAuto, Connections: true}},
		{"auto is off for a door without SSH",
			"[door.ssh]\nports = [\"8443/tcp\", \"22/udp\"]\npresence.logins = \"auto\"\n" + oneKnock,
			Presence{Idle: time.Hour, Connections: true}},
		{"auto by a range around 22/tcp",
			"[door.ssh]\nports = [\"1-1024/tcp\"]\n" + oneKnock,
			Presence{Idle: time.Hour, Logins: LoginsAuto, Connections: true}},
		{"auto by the unit",
			"[door.ssh]\nports = [\"2222/tcp\"]\nservice.unit = \"sshd.socket\"\n" + oneKnock,
			Presence{Idle: time.Hour, Logins: LoginsAuto, Connections: true}},
		{"no auto by a unit that only begins so",
			"[door.ssh]\nports = [\"2222/tcp\"]\nservice.unit = \"sshguard.service\"\n" + oneKnock,
			Presence{Idle: time.Hour, Connections: true}},
		{"auto by the command",
			"[door.ssh]\nports = [\"2222/tcp\"]\nservice.start = [\"/opt/ssh/sbin/sshd\", \"-D\"]\n" + oneKnock,
			Presence{Idle: time.Hour, Logins: LoginsAuto, Connections: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("t.toml", []byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, c.Doors[0].Presence); diff != "" {
				t.Errorf("presence (-want +got):\n%s", diff)
			}
		})
	}
}

// The fields that --json prints, of one mistake with all of them.
func TestMistakeFields(t *testing.T) {
	_, err := Parse("t.toml", []byte(ssh+"always = [\n  # office\n  \"192.0.2.7\"]\n"+oneKnock))
	want := []*tables.Mistake{{File: "t.toml", Line: 5, Column: 3, Key: "door.ssh.always[0]",
		Value: `"192.0.2.7"`, Problem: "no prefix length",
		Allowed: `prefixes such as "203.0.113.0/24", "2001:db8::/48"`, Hint: `write "192.0.2.7/32"`}}
	if diff := cmp.Diff(want, tables.Mistakes(err)); diff != "" {
		t.Errorf("Mistakes (-want +got):\n%s", diff)
	}
	if got := tables.Mistakes(os.ErrNotExist); got != nil {
		t.Errorf("Mistakes of a missing file = %v, want none", got)
	}
}

// What to write instead, for the mistakes that have one answer.
func TestHints(t *testing.T) {
	tests := []struct{ in, want string }{
		{"gateway.state = \"/var/lib/\"\n" + ssh + oneKnock, `write "/var/lib"`},
		{"gateway.metrics = \"[::ffff:192.0.2.1]:9472\"\n" + ssh + oneKnock, `write "192.0.2.1:9472"`},
		{"gateway.records = [\"udp:[::ffff:192.0.2.1]:514\"]\n" + ssh + oneKnock, `write "udp:192.0.2.1:514"`},
		{"gateway.records = [\"unix:/dev//log\"]\n" + ssh + oneKnock, `write "unix:/dev/log"`},
		{"[door.ssh]\nports = [22]\n" + oneKnock, `write "22/tcp"`},
		{ssh + "always = [\"2001:db8::1\"]\n" + oneKnock, `write "2001:db8::1/128"`},
		{ssh + "always = [\"::ffff:192.0.2.7/120\"]\n" + oneKnock, `write "192.0.2.0/24"`},
		{ssh + "always = [\"10.0.0.0/8\", \"10.1.0.0/16\"]\n" + oneKnock, `keep the one you mean`},
		{ssh + "service.unit = \"ssh\"\n" + oneKnock, `write "ssh.service"`},
		{ssh + "service.unit = \"vpn@.socket\"\n" + oneKnock, `write an instance such as "vpn@1.socket"`},
		{ssh + "service.start = \"/bin/sshd  -D\"\n" + oneKnock, `write ["/bin/sshd", "-D"]`},
		{ssh + "service.timeout = \"1m\"\n" + oneKnock, `leave the table out for a service that always runs`},
		{ssh + "presence.logins = \"/var/log/secure\"\n" + oneKnock, `write ["/var/log/secure"]`},
		{ssh + "presence.logins = []\n" + oneKnock, `write "off" to read no logins`},
		{ssh + oneKnock + "judge = \"1m\"\n", `write "every 1m"`},
		{ssh + "knock = [{kind = \"fwknop\"}]\n", `remove this knock, or use kind "sealed"`},
		{ssh + "knock = [{kind = \"touch\", listen = [\"1/tcp\"], touch = [1]}]\n", `listeners are always TCP: write 1`},
	}
	for _, tt := range tests {
		_, err := Parse("t.toml", []byte(tt.in))
		found := tables.Mistakes(err)
		if len(found) != 1 || found[0].Hint != tt.want {
			t.Errorf("Parse(%q) = %v, hint %q; want one mistake with hint %q", tt.in, err, found[0].Hint, tt.want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := file("good.toml", LikeTheArticle())
	bad := file("bad.toml", "x = 1\n"+ssh+oneKnock)
	long := file("long.toml", strings.Repeat("#", MaxFile+1))
	tests := []struct{ name, path, want string }{
		{"good", good, ""},
		{"mistake", bad, bad + ":1: x: unknown key: allowed are gateway, door"},
		{"missing", dir + "/none", "read configuration: open " + dir + "/none: no such file or directory"},
		{"directory", dir, `read configuration: "` + dir + `" is not a regular file`},
		{"device", "/dev/zero", `read configuration: "/dev/zero" is not a regular file`},
		{"long", long, `read configuration: "` + long + `" is longer than 1048576 bytes`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, text, err := Load(tt.path)
			if tt.want == "" {
				if err != nil || c == nil || string(text) != LikeTheArticle() {
					t.Errorf("Load = %v, %d bytes, %v", c, len(text), err)
				}
				return
			}
			if err == nil || err.Error() != tt.want || c != nil {
				t.Errorf("Load = %v, %v\nwant error %s", c, err, tt.want)
			}
		})
	}
}

// The records of the audit trail are sent where the file says, and nowhere for an empty
// list.
func TestRecords(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Records
	}{
		{"", Records{Log: true}},
		{"gateway.records = []\n", Records{}},
		{`gateway.records = ["journal", "unix:/dev/log", "log", "udp:[2001:db8::1]:514"]` + "\n",
			Records{Log: true, Journal: true, Syslog: [MaxSyslogs]string{"unix:/dev/log", "udp:[2001:db8::1]:514"}}},
	} {
		c, err := Parse("t.toml", []byte(tt.text+ssh+oneKnock))
		if err != nil || c.Gateway.Records != tt.want {
			t.Errorf("%q is read as %+v, %v, want %+v", tt.text, c.Gateway.Records, err, tt.want)
		}
	}
}

func TestBlank(t *testing.T) {
	for text, want := range map[string]bool{
		"":                            true,
		"# nothing yet\n\n  # here\n": true,
		"[gateway]\n":                 false,
		"x = 1":                       false,
		"no TOML":                     false,
	} {
		if got := Blank([]byte(text)); got != want {
			t.Errorf("Blank(%q) = %v, want %v", text, got, want)
		}
	}
}
