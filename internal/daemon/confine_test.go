//go:build linux

package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/sandbox"
	"github.com/doorward/doorward/internal/touch"
)

// guarding returns a configuration with one door, after change has changed it.
func guarding(change func(*config.Config)) *config.Config {
	c := &config.Config{Doors: []config.Door{{Name: "web", Knocks: []config.Knock{{Rule: touch.Rule{Listen: []uint16{1024, 59000}}}}}}}
	if change != nil {
		change(c)
	}
	return c
}

func unit(c *config.Config)        { c.Doors[0].Service = &config.Service{Unit: "web.service"} }
func lowListener(c *config.Config) { c.Doors[0].Knocks[0].Rule.(touch.Rule).Listen[0] = 1023 }
func lowMetrics(c *config.Config)  { c.Gateway.Metrics = "127.0.0.1:80" }
func theJournal(c *config.Config)  { c.Doors[0].Presence.Logins = config.LoginsJournal }
func logs(c *config.Config)        { c.Doors[0].Presence.Files = []string{"/srv/log/auth.log"} }

// needy is a knock that needs something of the machine.
type needy struct {
	touch.Rule
	needs knock.Needs
}

func (n needy) Needs() knock.Needs { return n.needs }

// needing adds to a door a knock that needs something.
func needing(n knock.Needs) func(*config.Config) {
	return func(c *config.Config) {
		c.Doors[0].Knocks = append(c.Doors[0].Knocks, config.Knock{Rule: needy{needs: n}})
	}
}

var (
	rawSockets = needing(knock.Needs{Capabilities: []string{"CAP_NET_RAW"}})
	keys       = needing(knock.Needs{Files: []string{"/etc/doorkeys"}})
	manyAtOnce = needing(knock.Needs{SystemCalls: []string{"recvmmsg"}})
)

// onUDP is a knock that hears datagrams. The configuration of udp has one.
type onUDP struct{ touch.Rule }

func (onUDP) Hears() []knock.Place { return []knock.Place{{Medium: knock.Datagrams, Port: 5005}} }

func udp(c *config.Config) {
	c.Doors[0].Knocks = append(c.Doors[0].Knocks, config.Knock{Rule: onUDP{}})
}

// What a knock needs is in the policy, once, and no more than that.
func TestPolicyHasWhatKnocksNeed(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	const path = "/etc/doorward/doorward.toml"
	all := needing(knock.Needs{Capabilities: []string{"CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_OF_NOBODY"},
		Files: []string{"/etc/doorkeys"}, SystemCalls: []string{"recvmmsg"}})
	want := policyFor(path, guarding(nil))
	want.Keep = append(want.Keep, cap.NET_RAW)
	want.Read = append(want.Read, "/etc/doorkeys")
	want.Calls = append(want.Calls, "recvmmsg")
	if diff := cmp.Diff(want, policyFor(path, guarding(all))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Files that are read again and again may be replaced: their directories can be read, where
// the names are and where these lead.
func TestPolicyHasDirectoriesOfFilesThatChange(t *testing.T) {
	dir := t.TempDir()
	for _, err := range []error{os.Mkdir(dir+"/real", 0o700), os.WriteFile(dir+"/real/keys", nil, 0o600), os.Symlink("real/keys", dir+"/keys")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := kinds.All
	kinds.All = append(slices.Clone(before), keeping{})
	defer func() { kinds.All = before }()
	conf := guarding(func(c *config.Config) {
		c.Doors[0].Knocks = append(c.Doors[0].Knocks, config.Knock{Kind: "keeping",
			Rule: needy{needs: knock.Needs{Files: []string{dir + "/keys", dir + "/more", "/etc/doorkeys/a"}}}})
	})
	const path = "/etc/doorward/doorward.toml"
	want := append(policyFor(path, guarding(nil)).Read, dir, dir+"/real", "/etc/doorkeys")
	if diff := cmp.Diff(want, policyFor(path, conf).Read); diff != "" {
		t.Errorf("to be read (-want +got):\n%s", diff)
	}
}

// keeping is a kind with a Keeper.
type keeping struct{ knock.Keeper }

func (keeping) Name() string { return "keeping" }

// The policy allows what the configuration needs, and no more.
func TestPolicyIsWhatTheConfigurationNeeds(t *testing.T) {
	type need struct {
		Bind, Connect, Abstract, Program bool
	}
	for _, tt := range []struct {
		name        string
		change      func(*config.Config)
		notify, bus string
		want        need
	}{
		{name: "a door, and nothing else"},
		{name: "a unit", change: unit, want: need{Connect: true}},
		{name: "a listener below 1024", change: lowListener, want: need{Bind: true}},
		{name: "metrics below 1024", change: lowMetrics, want: need{Bind: true}},
		{name: "the journal", change: theJournal, want: need{Program: true}},
		{name: "systemd", notify: "/run/systemd/notify", want: need{Connect: true}},
		{name: "systemd without a file", notify: "@/org/freedesktop/systemd1/notify", want: need{Connect: true, Abstract: true}},
		{name: "D-Bus without a file", change: unit, bus: "unix:abstract=/tmp/dbus-x,guid=1", want: need{Connect: true, Abstract: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("NOTIFY_SOCKET", tt.notify)
			t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", tt.bus)
			w := policyFor("/etc/doorward/doorward.toml", guarding(tt.change))
			got := need{slices.Contains(w.Keep, cap.NET_BIND_SERVICE), w.Connect, w.Abstract, len(w.Programs) > 0}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if !slices.Contains(w.Keep, cap.NET_ADMIN) {
				t.Error("CAP_NET_ADMIN is not kept, without which there is no fence")
			}
		})
	}
}

// A later configuration that needs more is refused, with an error that says what to do;
// one that needs as much, or less, is not.
func TestPolicyHoldsForLaterConfigurations(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "")
	const hint = ": the sandbox was set up when the daemon started; systemctl restart doorward"
	for _, tt := range []struct {
		name         string
		first, later func(*config.Config)
		want         string
	}{
		{name: "the same"},
		{name: "less", first: unit},
		{name: "as much", first: lowMetrics, later: lowListener},
		{name: "a unit", later: unit, want: `door "web" has a unit, and D-Bus cannot be reached any more` + hint},
		{name: "a low port", later: lowListener, want: "1023/tcp cannot be listened on any more, as all below 1024" + hint},
		{name: "the journal", later: theJournal, want: "journalctl cannot be started any more" + hint},
		{name: "a log", later: logs, want: `"/srv/log" cannot be read any more` + hint},
		{name: "what a knock needs", first: rawSockets, later: rawSockets},
		{name: "a capability for a knock", later: rawSockets, want: "a knock needs CAP_NET_RAW, which the daemon has given up" + hint},
		{name: "a file for a knock", later: keys, want: `"/etc/doorkeys" cannot be read any more` + hint},
		{name: "datagrams as before", first: udp, later: udp},
		{name: "datagrams", later: udp, want: "a knock is heard on UDP, and no datagram can be heard any more" + hint},
		{name: "a system call for a knock", later: manyAtOnce,
			want: "a knock needs the system call recvmmsg, which cannot be made any more" + hint},
	} {
		t.Run(tt.name, func(t *testing.T) {
			policy := policyFor("/etc/doorward/doorward.toml", guarding(tt.first))
			c := &confinement{configPath: "/etc/doorward/doorward.toml", policy: &policy}
			got := ""
			if err := c.confine(guarding(tt.later)); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// An intruder may have written to the store: what its configuration needs is allowed
// only if the file needs it, too.
func TestPolicyIsNotTheStores(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "")
	elsewhere := func(c *config.Config) { c.Doors[0].Presence.Files = []string{"/root/.ssh/auth.log"} }
	for _, tt := range []struct {
		name          string
		stored, filed func(*config.Config)
		want          []string
	}{
		{name: "the same", stored: logs, filed: logs},
		{name: "a unit in both", stored: unit, filed: unit},
		{name: "a log where all logs are", stored: func(c *config.Config) { c.Doors[0].Presence.Files = []string{"/var/log/x/auth.log"} }},
		{name: "a directory", stored: elsewhere, filed: logs, want: []string{`"/root/.ssh" cannot be read, since the file does not name it`}},
		{name: "what a knock of both needs", stored: manyAtOnce, filed: manyAtOnce},
		{name: "a capability", stored: rawSockets, want: []string{"CAP_NET_RAW is not kept, since no knock of the file needs it"}},
		{name: "a system call", stored: manyAtOnce,
			want: []string{"the system call recvmmsg cannot be made, since no knock of the file needs it"}},
		{name: "datagrams of both", stored: udp, filed: udp},
		{name: "datagrams", stored: udp, want: []string{"no datagram can be heard, since no knock of the file is one"}},
		{name: "a port below 1024", stored: lowListener},
		{name: "a unit", stored: unit, want: []string{"D-Bus cannot be reached, since the file names no unit"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const path = "/etc/doorward/doorward.toml"
			policy := policyFor(path, guarding(tt.stored))
			got := cutTo(&policy, policyFor(path, guarding(tt.filed)))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("cut (-want +got):\n%s", diff)
			}
			if again := cutTo(&policy, policyFor(path, guarding(tt.filed))); again != nil {
				t.Errorf("not removed the first time: %q", again)
			}
		})
	}
}

// A configuration file that is a link elsewhere can still be read from inside the
// sandbox after it has changed.
func TestPolicyOfALinkedConfiguration(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	etc, srv := filepath.Join(dir, "etc"), filepath.Join(dir, "srv")
	for _, d := range []string{etc, srv} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link, beside, file := filepath.Join(etc, "doorward.toml"), filepath.Join(etc, "beside.toml"), filepath.Join(srv, "real.toml")
	for _, name := range []string{beside, file} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		target string
		want   bool
	}{{file, true}, {beside, false}} {
		os.Remove(link)
		if err := os.Symlink(tt.target, link); err != nil {
			t.Fatal(err)
		}
		read := policyFor(link, guarding(nil)).Read
		if !slices.Contains(read, etc) || slices.Contains(read, srv) != tt.want {
			t.Errorf("a link to %s: %q can be read, want %s in it: %v", tt.target, read, srv, tt.want)
		}
	}
}

// Without a file that can be used, the policy is what any configuration needs.
func TestPolicyWithoutAFile(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	path := filepath.Join(t.TempDir(), "doorward.toml")
	if err := os.WriteFile(path, []byte("no TOML"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &confinement{configPath: path}
	if diff := cmp.Diff(policyFor(path, &config.Config{}), c.filed()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A daemon whose programs were replaced ends, so that systemd starts it again. Without
// systemd, it logs that, and goes on guarding.
func TestFileWatchEndsTheDaemonThatIsStartedAgain(t *testing.T) {
	for _, notify := range []string{"/run/systemd/notify", ""} {
		t.Setenv("NOTIFY_SOCKET", notify)
		file := filepath.Join(t.TempDir(), "journalctl")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := newFileWatch([]string{file})
		if err != nil {
			t.Fatal(err)
		}
		v.quiet = 0
		said := &said{lines: make(chan string, 1)}
		c := &confinement{log: said.logger(), fixed: make(chan *fileWatch, 1)}
		c.fixed <- v
		ended := make(chan error, 1)
		go func() { ended <- c.watch(t.Context()) }()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		got := ""
		select {
		case err := <-ended:
			if notify == "" {
				t.Fatalf("the daemon ended without systemd: %v", err)
			}
			got = err.Error()
		case got = <-said.lines:
			if notify != "" {
				t.Errorf("the log has only %q", got)
			}
		}
		if !strings.Contains(got, file) {
			t.Errorf("%q does not name %q", got, file)
		}
	}
}

// The watched files include what journalctl needs on this machine, and only that.
func TestWatchedFilesAreTheProgramsOwn(t *testing.T) {
	const program = "/usr/bin/journalctl"
	if _, err := os.Stat(program); err != nil {
		t.Skip(err)
	}
	want, _ := sandbox.Files(program)
	if diff := cmp.Diff(want, files([]string{program, "/nowhere/journalctl"})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
