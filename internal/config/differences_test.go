package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
)

func TestDifferences(t *testing.T) {
	const (
		unit     = "[door.ssh.service]\nunit = \"ssh.service\"\n"
		command  = "[door.ssh.service]\nstart = [\"/bin/start\", \"-D\"]\nstop = [\"/bin/stop\"]\n"
		presence = "[door.ssh.presence]\n"
		second   = "[[door.ssh.knock]]\nkind = \"touch\"\nlisten = [59010, 59011]\ntouch = [59010]\n"
		web      = "[door.web]\nports = [\"443/tcp\"]\n[[door.web.knock]]\nkind = \"touch\"\nlisten = [60000, 60001]\ntouch = [60000]\n"
	)
	changed := func(key, before, after string) Difference { return Difference{Key: key, Before: before, After: after} }
	knock := func(key string) Difference { return Difference{Key: "door.ssh.knock[0]." + key, Secret: true} }
	for _, tt := range []struct {
		name, before, after string
		want                []Difference
	}{
		{"nothing", ssh + oneKnock, ssh + oneKnock, nil},
		{"a comment", ssh + oneKnock, "# why\n" + ssh + "# what\n" + oneKnock, nil},
		{"defaults that are written down", ssh + oneKnock, "[gateway]\nmetrics = \"\"\nstate = \"/var/lib/doorward\"\n" + ssh +
			"open_for = \"30s\"\nrefuse = \"drop\"\nalways = []\npenalties = \"knock\"\nsingle_use = false\n" +
			presence + "idle = \"1h\"\nlogins = \"auto\"\nconnections = true\n" + oneKnock + "order = \"any\"\nwithin = \"60s\"\n", nil},
		{"another order of what has none", ssh + "always = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n" + oneKnock,
			ssh + "always = [\"2001:db8::/32\", \"192.0.2.0/24\"]\n" + oneKnock, nil},
		{"the gateway", ssh + oneKnock, "[gateway]\nstate = \"/srv/d\"\ncontrol = \"/run/d\"\nmetrics = \"127.0.0.1:9472\"\nhost = \"gate.example.org\"\nrecords = [\"unix:/dev/log\", \"journal\"]\n" + ssh + oneKnock,
			[]Difference{changed("gateway.control", `"/run/doorward/control.sock"`, `"/run/d"`),
				changed("gateway.host", `""`, `"gate.example.org"`), changed("gateway.metrics", `""`, `"127.0.0.1:9472"`),
				changed("gateway.records", `["log"]`, `["journal", "unix:/dev/log"]`), changed("gateway.state", `"/var/lib/doorward"`, `"/srv/d"`)}},
		{"a door's keys", ssh + oneKnock, "[door.ssh]\nports = [\"22/tcp\", \"60000-61000/udp\"]\nopen_for = \"90s\"\nsingle_use = true\n" +
			"refuse = \"reject\"\nalways = [\"192.0.2.0/24\"]\npenalties = \"door\"\n" + oneKnock,
			[]Difference{changed("door.ssh.always", "[]", `["192.0.2.0/24"]`), changed("door.ssh.open_for", `"30s"`, `"1m30s"`),
				changed("door.ssh.penalties", `"knock"`, `"door"`), changed("door.ssh.ports", `["22/tcp"]`, `["22/tcp", "60000-61000/udp"]`),
				changed("door.ssh.refuse", `"drop"`, `"reject"`), changed("door.ssh.single_use", "false", "true")}},
		{"a default that follows", ssh + oneKnock, ssh + "open_for = \"3h\"\n" + oneKnock,
			[]Difference{changed("door.ssh.open_for", `"30s"`, `"3h"`), changed("door.ssh.presence.idle", `"1h"`, `"3h"`)}},
		{"presence", ssh + presence + "logins = \"journal\"\n" + oneKnock,
			ssh + presence + "idle = \"never\"\nlogins = [\"/var/log/auth.log\"]\nconnections = false\n" + oneKnock,
			[]Difference{changed("door.ssh.presence.connections", "true", "false"), changed("door.ssh.presence.idle", `"1h"`, `"never"`),
				changed("door.ssh.presence.logins", `"journal"`, `["/var/log/auth.log"]`)}},
		{"a service", ssh + oneKnock, ssh + unit + oneKnock, []Difference{{Key: "door.ssh.service", Added: true}}},
		{"another service", ssh + unit + oneKnock, ssh + command + oneKnock, []Difference{
			{Key: "door.ssh.service.start", After: `["/bin/start", "-D"]`, Added: true},
			{Key: "door.ssh.service.stop", After: `["/bin/stop"]`, Added: true},
			{Key: "door.ssh.service.unit", Before: `"ssh.service"`, Removed: true}}},
		{"a knock's keys", ssh + oneKnock + "within = \"10s\"\n", strings.Replace(ssh+oneKnock, "touch = [59000]", "touch = [59001]", 1) + "order = \"given\"\n",
			[]Difference{{Key: "door.ssh.knock[0].order", Secret: true, Added: true}, knock("touch"),
				{Key: "door.ssh.knock[0].within", Secret: true, Removed: true}}},
		{"a knock more", ssh + oneKnock, ssh + oneKnock + second, []Difference{{Key: "door.ssh.knock[1]", Added: true}}},
		{"a door more", ssh + oneKnock, ssh + oneKnock + web, []Difference{{Key: "door.web", Added: true}}},
		{"another door", ssh + oneKnock, web, []Difference{{Key: "door.ssh", Removed: true}, {Key: "door.web", Added: true}}},
		{"mistakes before", "rubbish", web, []Difference{{Key: "door.web", Added: true},
			{Key: "gateway.control", After: `"/run/doorward/control.sock"`, Added: true},
			{Key: "gateway.records", After: `["log"]`, Added: true},
			{Key: "gateway.state", After: `"/var/lib/doorward"`, Added: true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, text := range []string{tt.before, tt.after} {
				if _, err := Parse("t.toml", []byte(text)); err != nil && text != "rubbish" {
					t.Fatal(err)
				}
			}
			got := Differences([]byte(tt.before), []byte(tt.after))
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			back := Differences([]byte(tt.after), []byte(tt.before))
			for i := range back {
				b := &back[i]
				b.Before, b.After, b.Added, b.Removed = b.After, b.Before, b.Removed, b.Added
			}
			if d := cmp.Diff(got, back); d != "" {
				t.Errorf("the other way round (-there +back):\n%s", d)
			}
		})
	}
}

// Every key of the reference is compared; those of a knock are, whatever they are.
func TestEveryKeyIsCompared(t *testing.T) {
	compared := map[string]bool{"door.*": true, "door": true, "gateway": true, "door.*.presence": true, "door.*.service": true, "door.*.knock": true}
	note := func(table string, keys []keyValue) {
		for _, k := range keys {
			compared[table+k.key] = true
		}
	}
	note("gateway.", Gateway{}.keys())
	note("door.*.", (&Door{}).keys())
	note("door.*.presence.", (&Presence{}).keys())
	note("door.*.service.", (&Service{}).keys())
	var tree map[string]any
	if err := toml.Unmarshal([]byte(Reference()), &tree); err != nil {
		t.Fatal(err)
	}
	keysOf("", tree, func(key string) {
		if key = plainKey(key); !compared[key] && !strings.HasPrefix(key, "door.*.knock.") {
			t.Errorf("%s is not compared", key)
		}
	})
}

func TestHash(t *testing.T) {
	const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // FIPS 180-4, by sha256sum(1)
	if got := Hash([]byte("abc")); got != abc || Hash(nil) != "" || Hash([]byte{}) == "" {
		t.Errorf("got %s, of nil %q, of nothing %q", got, Hash(nil), Hash([]byte{}))
	}
}
