package gateway

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
)

// keyChange is a change of one key of the configuration, and how it shows.
type keyChange struct {
	key      string // with the door's name as *
	from, to string // parts of everyKey or everyCommand; if from is "", to is added at the end
	also     string // added at the end before and after the change
	// before brings the gateway into the state in which the change is made; nil for nothing.
	before func(*keyed)
	// see returns how the gateway behaves: was without the change, is with it.
	see     func(*keyed) string
	was, is string
	refused string // how the answer to apply begins if the change is not taken into use
}

// everyKey is the configuration that changes.
const everyKey = `
[door.ssh]
ports = ["22/tcp"]
open_for = "30s"
[door.ssh.service]
unit = "ssh.service"
timeout = "30s"
[door.ssh.presence]
idle = "1h"
logins = "journal"
connections = true
[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
order = "any"
within = "1m"
judge = "at once"
penalty = "5m"
scope = "source"
`

// secondKnock is another way to ask for the door.
const secondKnock = "[[door.ssh.knock]]\nkind = \"touch\"\nlisten = [59010, 59011]\ntouch = [59010]\n"

// everyCommand is the same door with commands.
var everyCommand = strings.Replace(everyKey, `unit = "ssh.service"`, `start = ["/bin/start"]
stop = ["/bin/stop"]
status = ["/bin/status"]`, 1)

// keyed is a gateway whose machine follows the configuration of a door: it looks for
// presence where that says, and runs the commands that it names.
type keyed struct {
	*running
	machine   *machine // whose mutex guards the rest
	connected bool     // somebody has a connection to 22/tcp
	noJournal bool     // the journal has no entry
	hangs     bool     // services do not stop
	ran       []string // commands, each once
	uses      []knock.Use
}

func (k *keyed) look(c config.Door) func(context.Context) Observation {
	at := port.Port{Proto: port.TCP, Number: 22}
	return func(context.Context) (seen Observation) {
		k.machine.do(func() {
			guarded := slices.ContainsFunc(c.Ports, func(r port.Range) bool { return r.Contains(at) })
			if k.connected && guarded && c.Presence.Connections {
				seen.Connections = 1
			}
			if k.noJournal && c.Presence.Logins == config.LoginsJournal {
				seen.NoData = "the journal has no entry"
			}
		})
		return seen
	}
}

// behind is the service behind a door.
type behind struct {
	*unit
	k *keyed
	c *config.Service
}

// run notes that a command ran.
func (b *behind) run(argv []string) {
	b.m.do(func() {
		if len(argv) > 0 && !slices.Contains(b.k.ran, argv[0]) {
			b.k.ran = append(b.k.ran, argv[0])
		}
	})
}

func (b *behind) Start(ctx context.Context) error {
	b.run(b.c.Start)
	b.run(b.c.Status)
	return b.unit.Start(ctx)
}

func (b *behind) Stop(ctx context.Context) error {
	b.run(b.c.Stop)
	hangs := false
	if b.m.do(func() { hangs = b.k.hangs }); hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return b.unit.Stop(ctx)
}

// after waits.
func (k *keyed) after(d time.Duration) *keyed {
	time.Sleep(d)
	synctest.Wait()
	return k
}

func (k *keyed) knock() *keyed {
	k.touch(visitor, 59000, 59002)
	return k
}

// state touches ports and returns the door's state.
func (k *keyed) state(ports ...uint16) string {
	k.touch(visitor, ports...)
	return k.status().State
}

// grants returns who has a grant, and for how long.
func (k *keyed) grants() string {
	var all []string
	for _, g := range k.status().Grants {
		all = append(all, fmt.Sprintf("%s %s", g.Source, time.Until(g.Expires)))
	}
	return strings.Join(all, ", ")
}

// sealedKnock is a way that goes by files. What its kind makes of the rules that it is told
// to use is for its own tests.
const sealedKnock = "[[door.ssh.knock]]\nkind = \"sealed\"\n"

// spied is a kind that has something in common, and remembers what it was told to use.
type spied struct {
	knock.Keeper
	uses *[]knock.Use
}

func (s spied) Keep(random io.Reader, marks []knock.Mark) knock.Kept {
	return spiedKept{s.Keeper.Keep(random, marks), s.uses}
}

type spiedKept struct {
	knock.Kept
	uses *[]knock.Use
}

func (k spiedKept) Use(now time.Time, uses []knock.Use) []string {
	*k.uses = uses
	return k.Kept.Use(now, uses)
}

// spy puts it in the place of the kind.
func (k *keyed) spy(t *testing.T) {
	before := kinds.All
	kinds.All = slices.Clone(before)
	t.Cleanup(func() { kinds.All = before })
	for i, kind := range kinds.All {
		if keeper, ok := kind.(knock.Keeper); ok {
			kinds.All[i] = spied{keeper, &k.uses}
		}
	}
}

// usedAs returns a field of the rule that the kind was told to use.
func usedAs(field string) func(*keyed) string {
	return func(k *keyed) string {
		if len(k.uses) != 1 {
			return fmt.Sprintf("%d rules are in use", len(k.uses))
		}
		return fmt.Sprint(reflect.ValueOf(k.uses[0].Rule).FieldByName(field))
	}
}

// openUDP returns the UDP ports where datagrams are opened.
func (k *keyed) openUDP() string {
	var all []string
	k.m.do(func() {
		for at, by := range k.m.openers {
			if by != nil && at.Medium == knock.Datagrams {
				all = append(all, fmt.Sprint(at.Port))
			}
		}
	})
	return strings.Join(all, " ")
}

// commands knocks, closes, and returns the commands that ran.
func (k *keyed) commands() string {
	k.machine.do(func() { k.ran = nil })
	k.knock().order(control.CloseRequest{Door: "ssh"})
	synctest.Wait()
	return strings.Join(k.ran, " ")
}

// stopTakes closes a door whose service does not stop, and returns how long the gateway
// waits for it.
func (k *keyed) stopTakes() string {
	k.machine.do(func() { k.hangs = true })
	since := time.Now()
	for k.order(control.CloseRequest{Door: "ssh"}); !strings.Contains(k.m.events(), "error"); {
		k.after(time.Second)
	}
	return time.Since(since).String()
}

// knockAndConnect opens the door and has somebody come in.
func knockAndConnect(k *keyed) {
	k.knock()
	k.machine.do(func() { k.connected = true })
}

func noJournal(k *keyed) {
	k.machine.do(func() { k.noJournal = true })
	k.after(time.Minute).wantState("failsafe")
}

// guards returns the door as the kernel guards it.
func (k *keyed) guards() fence.Door { return k.m.doors[0] }

// host returns the host in the configuration in use.
func (k *keyed) host() (host string) {
	k.sync(func(time.Time) { host = k.Gateway.config.Gateway.Host })
	return host
}

const restartIt = "error: nothing was changed: the keys of [gateway] are read at the start only"

var keyChanges = []keyChange{
	{key: "gateway.state", to: "[gateway]\nstate = \"/other\"\n", refused: restartIt},
	{key: "gateway.control", to: "[gateway]\ncontrol = \"/other\"\n", refused: restartIt},
	{key: "gateway.metrics", to: "[gateway]\nmetrics = \"127.0.0.1:9472\"\n", refused: restartIt},
	{key: "gateway.records", to: "[gateway]\nrecords = [\"journal\"]\n", refused: restartIt},
	{key: "gateway.host", to: "[gateway]\nhost = \"gate.example.org\"\n",
		see: func(k *keyed) string { return k.host() }, was: "", is: "gate.example.org"},
	{key: "door.*.ports", from: `"22/tcp"`, to: `"2222/tcp"`,
		see: func(k *keyed) string { return fmt.Sprint(k.guards().Ports) }, was: "[22/tcp]", is: "[2222/tcp]"},
	{key: "door.*.ports", from: `"22/tcp"`, to: `"2222/tcp"`, before: knockAndConnect,
		see: func(k *keyed) string { return k.after(2 * time.Hour).state() }, was: "open", is: "dark"},
	{key: "door.*.open_for", from: `"30s"`, to: `"45s"`,
		see: func(k *keyed) string { return k.knock().grants() }, was: "192.0.2.2 30s", is: "192.0.2.2 45s"},
	{key: "door.*.single_use", from: "[door.ssh.service]", to: "single_use = true\n[door.ssh.service]",
		see: func(k *keyed) string { return fmt.Sprint(k.guards().SingleUse) }, was: "false", is: "true"},
	{key: "door.*.refuse", from: "[door.ssh.service]", to: "refuse = \"reject\"\n[door.ssh.service]",
		see: func(k *keyed) string { return fmt.Sprint(k.guards().Reject) }, was: "false", is: "true"},
	{key: "door.*.always", from: "[door.ssh.service]", to: "always = [\"203.0.113.0/24\"]\n[door.ssh.service]",
		see: func(k *keyed) string { return fmt.Sprint(k.guards().Always) }, was: "[]", is: "[203.0.113.0/24]"},
	{key: "door.*.penalties", from: "[door.ssh.service]", to: "penalties = \"door\"\n[door.ssh.service]", also: secondKnock,
		see: func(k *keyed) string { k.touch(visitor, 59001); return k.state(59010) }, was: "open", is: "dark"},
	{key: "door.*.service.unit", from: `"ssh.service"`, to: `"sshd.service"`,
		see: func(k *keyed) string { return k.knock().runs() }, was: "ssh.service", is: "sshd.service"},
	{key: "door.*.service.unit", from: `"ssh.service"`, to: `"sshd.service"`, before: knockAndConnect,
		see: func(k *keyed) string { return k.after(time.Second).status().Service + " " + k.state() },
		was: "ssh.service open", is: "sshd.service open"},
	{key: "door.*.service.start", from: `"/bin/start"`, to: `"/bin/other"`, see: (*keyed).commands,
		was: "/bin/start /bin/status /bin/stop", is: "/bin/other /bin/status /bin/stop"},
	{key: "door.*.service.stop", from: `"/bin/stop"`, to: `"/bin/other"`, see: (*keyed).commands,
		was: "/bin/start /bin/status /bin/stop", is: "/bin/start /bin/status /bin/other"},
	{key: "door.*.service.status", from: `"/bin/status"`, to: `"/bin/other"`, see: (*keyed).commands,
		was: "/bin/start /bin/status /bin/stop", is: "/bin/start /bin/other /bin/stop"},
	{key: "door.*.service.timeout", from: `timeout = "30s"`, to: `timeout = "45s"`, before: knockAndConnect,
		see: (*keyed).stopTakes, was: "30s", is: "45s"},
	{key: "door.*.presence.idle", from: `"1h"`, to: `"2h"`, before: func(k *keyed) { k.knock() },
		see: func(k *keyed) string { return k.after(90 * time.Minute).state() }, was: "dark", is: "open"},
	{key: "door.*.presence.idle", from: `"1h"`, to: `"never"`, before: func(k *keyed) { k.knock() },
		see: func(k *keyed) string { return k.after(3 * time.Hour).state() }, was: "dark", is: "open"},
	{key: "door.*.presence.logins", from: `"journal"`, to: `"off"`, before: noJournal,
		see: func(k *keyed) string { return k.state(59000, 59002) }, was: "failsafe", is: "open"},
	{key: "door.*.presence.logins", from: `"journal"`, to: `["/var/log/auth.log"]`, before: noJournal,
		see: func(k *keyed) string { return k.state(59000, 59002) }, was: "failsafe", is: "open"},
	{key: "door.*.presence.connections", from: "connections = true", to: "connections = false", before: knockAndConnect,
		see: func(k *keyed) string { return k.after(2 * time.Hour).state() }, was: "open", is: "dark"},
	{key: "door.*.knock.kind", from: `"touch"`, to: `"sealed"`, refused: "error: nothing was changed: "},
	{key: "door.*.knock.listen", from: "59001", to: "59003",
		see: func(k *keyed) string { return fmt.Sprint(k.m.listening) }, was: "[59000 59001 59002]", is: "[59000 59002 59003]"},
	{key: "door.*.knock.touch", from: "[59000, 59002]", to: "[59001, 59002]",
		see: func(k *keyed) string { return k.state(59001, 59002) }, was: "dark", is: "open"},
	{key: "door.*.knock.order", from: `"any"`, to: `"given"`,
		see: func(k *keyed) string { return k.state(59002, 59000) }, was: "open", is: "dark"},
	{key: "door.*.knock.within", from: `within = "1m"`, to: `within = "30s"`,
		see: func(k *keyed) string { k.touch(visitor, 59000); return k.after(40 * time.Second).state(59002) },
		was: "open", is: "dark"},
	{key: "door.*.knock.judge", from: `"at once"`, to: `"every 2m"`,
		see: func(k *keyed) string { return k.state(59000, 59002) }, was: "open", is: "dark"},
	{key: "door.*.knock.penalty", from: `"5m"`, to: `"7m"`,
		see: func(k *keyed) string {
			k.touch(visitor, 59001)
			return time.Until(k.status().Penalties[0].Until).String()
		},
		was: "5m0s", is: "7m0s"},
	{key: "door.*.knock.scope", from: `"source"`, to: `"door"`,
		see: func(k *keyed) string { return k.knock().grants() }, was: "192.0.2.2 30s", is: "any 1h0m0s"},
	{key: "door.*.knock.scope", from: `"door"`, to: `"source"`, before: knockAndConnect, // not open to everybody forever
		see: func(k *keyed) string { return k.after(61 * time.Minute).grants() }, was: "any 1h0m0s", is: ""},
	{key: "door.*.knock.port", also: sealedKnock, to: "port = 5005\n", see: (*keyed).openUDP, was: "41641", is: "5005"},
	{key: "door.*.knock.carriers", also: sealedKnock, to: "carriers = [\"udp\", \"tcp\"]\n", see: usedAs("TCP"), was: "false", is: "true"},
	{key: "door.*.knock.identity", also: sealedKnock, to: "identity = \"/keys/id\"\n", see: usedAs("Identity"), was: "/etc/doorward/sealed.key", is: "/keys/id"},
	{key: "door.*.knock.keys", also: sealedKnock, to: "keys = \"/keys/them\"\n", see: usedAs("Keys"), was: "/etc/doorward/authorized_keys", is: "/keys/them"},
	{key: "door.*.knock.secrets", also: sealedKnock, to: "secrets = \"/keys/s\"\n", see: usedAs("Secrets"), is: "/keys/s"},
	{key: "door.*.knock.revoked", also: sealedKnock, to: "revoked = \"/keys/r\"\n", see: usedAs("Revoked"), is: "/keys/r"},
	{key: "door.*.knock.one_way", also: sealedKnock, to: "one_way = true\n", see: usedAs("OneWay"), was: "false", is: "true"},
	{key: "door.*.knock.any_source", also: sealedKnock + "one_way = true\n", to: "any_source = true\n", see: usedAs("AnySource"), was: "false", is: "true"},
	{key: "door.*.knock.max_open_for", also: sealedKnock, to: "max_open_for = \"2h\"\n", see: usedAs("MaxOpenFor"), was: "1h0m0s", is: "2h0m0s"},
}

// runs returns which units run.
func (k *keyed) runs() (all string) {
	k.m.do(func() {
		maps.DeleteFunc(k.m.running, func(_ string, runs bool) bool { return !runs })
		all = strings.Join(slices.Sorted(maps.Keys(k.m.running)), " ")
	})
	return all
}

// text returns the configuration without the change, and with it.
func (c *keyChange) text(t *testing.T) (before, after string) {
	t.Helper()
	before = everyKey
	if strings.HasPrefix(c.from, `"/bin/`) {
		before = everyCommand
	}
	if c.from == `"door"` {
		before = strings.Replace(before, `"source"`, `"door"`, 1)
	}
	before += c.also
	if c.from == "" {
		return before, before + c.to
	}
	if !strings.Contains(before, c.from) {
		t.Fatalf("the configuration lacks %s", c.from)
	}
	return before, strings.Replace(before, c.from, c.to, 1)
}

// tryKey runs a gateway on a configuration, applies the changed one if apply is set, and
// returns what is seen then and what apply answered.
func tryKey(t *testing.T, c *keyChange, apply bool) (seen, answered string) {
	synctest.Test(t, func(t *testing.T) {
		before, after := c.text(t)
		path := configPath(t)
		k := &keyed{machine: newMachine()}
		k.spy(t)
		k.running = runWith(t, k.machine, path, before, func(w *World) {
			w.Look = k.look
			w.Service = func(d config.Door) Service { return &behind{&unit{k.machine, d.Service.Unit}, k, d.Service} }
		})
		if c.before != nil {
			c.before(k)
		}
		if apply {
			write(t, path, after)
			answered = k.order(control.ApplyRequest{Action: "apply"})
			synctest.Wait()
		}
		if c.see != nil {
			seen = c.see(k)
		}
	})
	return seen, answered
}

// Every key takes effect with apply, or apply refuses the change. A new key needs a line
// above.
func TestEveryKeyTakesEffect(t *testing.T) {
	tried := map[string]bool{}
	for _, c := range keyChanges {
		tried[c.key] = true
		t.Run(fmt.Sprintf("%s to %s", c.key, c.to), func(t *testing.T) {
			was, _ := tryKey(t, &c, false)
			is, answered := tryKey(t, &c, true)
			if was != c.was || is != c.is {
				t.Errorf("without the change: %q, want %q; with it: %q, want %q", was, c.was, is, c.is)
			}
			if want := cmp.Or(c.refused, "/"); !strings.HasPrefix(answered, want) {
				t.Errorf("apply: %q, want %q", answered, want)
			}
		})
	}
	if diff := gocmp.Diff(everyKeyOf(t), slices.Sorted(maps.Keys(tried))); diff != "" {
		t.Errorf("keys whose change was tried (-reference +tried):\n%s", diff)
	}
}

// everyKeyOf returns the keys that the reference documents, which are all keys
// (config.TestReferenceIsWhole), with * for the names of doors.
func everyKeyOf(t *testing.T) []string {
	t.Helper()
	var tree map[string]any
	if err := toml.Unmarshal([]byte(config.Reference()), &tree); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	var walk func(key string, v any)
	walk = func(key string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, child := range v {
				if key == "door" {
					name = "*"
				}
				walk(strings.TrimPrefix(key+"."+name, "."), child)
			}
			return
		case []any:
			tables := false
			for _, e := range v {
				if t, ok := e.(map[string]any); ok {
					tables = true
					walk(key, t)
				}
			}
			if tables {
				return
			}
		}
		keys[key] = true
	}
	walk("", tree)
	return slices.Sorted(maps.Keys(keys))
}
