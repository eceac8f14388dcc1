//go:build linux

package sealed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
)

// traveller is the visitor of a site with their programs: a home, an ssh-agent with a key
// that the gateway knows, and a profile.
type traveller struct {
	*site
	bin, home string
	env       []string
}

// newTraveller has a site with an sshd behind a door "ssh" (22/tcp), and doors "shop" (8000/tcp) and
// "db" (5432/tcp) that have nothing behind them.
func newTraveller(t *testing.T, need ...string) *traveller {
	nstest.Need(t, append(need, "ssh", "sshd", "ssh-agent", "ssh-add", "ssh-keygen")...)
	v := &traveller{site: newSite(t, "")}
	path, err := program()
	v.must(err)
	v.bin, v.home = filepath.Dir(path), v.lab.Path("home")
	v.behindSSH()
	v.agent()
	v.env = []string{"env", "HOME=" + v.home, "XDG_CONFIG_HOME=" + v.home, "XDG_RUNTIME_DIR=" + v.home,
		"SSH_AUTH_SOCK=" + v.lab.Path("agent"), "PATH=" + v.bin + ":" + os.Getenv("PATH")}
	in := profile.Directory(filepath.Join(v.home, "doorward", "profiles"))
	f := ssh.FingerprintSHA256(v.alice.public)
	v.must(in.Save(profile.Profile{Name: "gate", Hosts: []string{gate4, gate6}, Port: port, Carriers: []string{"udp"},
		Suite: seal.Hybrid, Gateway: v.peer, Doors: []string{"ssh", "shop", "db"}, Key: profile.Key{Agent: f}}, false))
	v.start()
	return v
}

// behindSSH puts an sshd behind a door.
func (v *traveller) behindSSH() {
	v.t.Helper()
	s, err := v.lab.SSH(22)
	v.must(err)
	text, err := os.ReadFile(v.config)
	v.must(err)
	for name, number := range map[string]int{"ssh": 22, "shop": 8000, "db": 5432} {
		text = fmt.Appendf(text, "[door.%s]\nports = [\"%d/tcp\"]\nopen_for = \"1m\"\n[door.%s.presence]\nlogins = \"off\"\n[[door.%s.knock]]\n"+
			"kind = \"sealed\"\nport = %d\nidentity = %q\nkeys = %q\n", name, number, name, name, port, v.lab.Path("sealed.key"), v.lab.Path("authorized_keys"))
	}
	v.config, err = v.lab.Write("doorward.toml", string(text))
	v.must(err)
	sshd, err := os.ReadFile(s.Config)
	v.must(err)
	v.must(os.WriteFile(s.Config, append(sshd, "Subsystem sftp internal-sftp\n"...), 0o600))
	_, err = v.server.Start(s.Program, "-D", "-e", "-f", s.Config)
	v.must(err)
	v.must(os.MkdirAll(filepath.Join(v.home, ".ssh"), 0o700))
	v.must(os.WriteFile(v.sshConfig(), []byte(strings.Join([]string{
		"BatchMode yes", "StrictHostKeyChecking yes", "ConnectTimeout 10", "LogLevel ERROR", "UserKnownHostsFile " + v.lab.Path("known_hosts"),
		"IdentityFile " + v.lab.Path("user_key"), "IdentitiesOnly yes", "IdentityAgent none", "User root", ""}, "\n")), 0o600))
}

func (v *traveller) sshConfig() string { return filepath.Join(v.home, ".ssh", "config") }

// agent starts an ssh-agent, and adds a key, which alice has from then on.
func (v *traveller) agent() {
	v.t.Helper()
	path := v.lab.Path("alice_key")
	out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", path).CombinedOutput()
	if err != nil {
		v.t.Fatalf("%v\n%s", err, out)
	}
	public, err := os.ReadFile(path + ".pub")
	v.must(err)
	k, _, _, _, err := ssh.ParseAuthorizedKey(public)
	v.must(err)
	v.alice = &key{name: "alice", public: k}
	v.keys(strings.TrimSpace(string(public)))
	_, err = v.visitor.Start("ssh-agent", "-D", "-a", v.lab.Path("agent"))
	v.must(err)
	v.must(lab.Until(v.t.Context(), soon, "the agent", func() error {
		add := exec.Command("ssh-add", "-q", path)
		add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+v.lab.Path("agent"))
		return add.Run()
	}))
}

// run runs a program of the visitor's, and returns what it prints on each output.
func (v *traveller) run(args ...string) (stdout, stderr string, err error) {
	v.t.Helper()
	c := v.visitor.Command(v.t.Context(), v.env[0], append(v.env[1:], args...)...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err = c.Run()
	return out.String(), errs.String(), err
}

// works runs a program that must succeed, say what is wanted, and nothing else on standard
// error.
func (v *traveller) works(want string, args ...string) {
	v.t.Helper()
	stdout, stderr, err := v.run(args...)
	if err != nil || !strings.Contains(stdout, want) || stderr != "" {
		v.t.Errorf("%s: %v\n%s%s\nwant %q, and nothing on standard error", strings.Join(args, " "), err, stdout, stderr, want)
	}
}

// ssh is a program of OpenSSH's with the visitor's configuration.
func (v *traveller) ssh(program string, args ...string) []string {
	return append([]string{program, "-F", v.sshConfig()}, args...)
}

// grants is how often the gateway has opened a door to a knock.
func (v *traveller) grants() (n int) {
	v.t.Helper()
	v.status() // what it shows is on disk, and so in the trail
	out, stderr, err := v.run(filepath.Join(v.bin, "doorward"), "--control", v.lab.Path("control.sock"), "log", "--json", "--limit", "1000")
	if err != nil {
		v.t.Fatalf("log: %v: %s", err, stderr)
	}
	for line := range strings.Lines(out) {
		var r audit.Record
		v.must(json.Unmarshal([]byte(line), &r))
		if r.Event == audit.EventGranted {
			n++
		}
	}
	return n
}

// costs says how many grants f takes.
func (v *traveller) costs(want int, f func()) {
	v.t.Helper()
	before := v.grants()
	f()
	if n := v.grants() - before; n != want {
		v.t.Errorf("%d grants were given, want %d", n, want)
	}
}

func (v *traveller) closeDoor(door string) {
	v.t.Helper()
	v.works("closed for", "doorward", "knock", "gate", door, "--close")
}

// ssh knocks by itself.
func TestOpenSSH(t *testing.T) {
	v := newTraveller(t)
	v.refuses(v.visitor, gate4, "22")
	v.works("are written", "doorward", "ssh-config", "gate", "--install")
	v.works("nothing is changed", "doorward", "ssh-config", "gate", "--install")
	v.costs(2, func() { // one for each family
		v.works("hello", v.ssh("ssh", "gate", "echo hello")...)
		v.works("hello", v.ssh("ssh", gate4, "echo hello")...)
	})
	v.closeDoor("ssh")
	v.refuses(v.visitor, gate4, "22")

	// A session over a connection that stands does not knock, and needs no open door.
	socket := v.lab.Path("master")
	master := v.started("", v.ssh("ssh", "-M", "-S", socket, "-N", "gate")...)
	v.must(lab.Until(t.Context(), soon, "the connection", func() error { _, err := os.Stat(socket); return err }))
	v.closeDoor("ssh")
	v.refuses(v.visitor, gate4, "22")
	v.costs(0, func() { v.works("hello", v.ssh("ssh", "-S", socket, "gate", "echo hello")...) })
	v.must(master.Stop())

	// Many at once share a knock, and come in over the family that works.
	if out, err := v.visitor.Run(t.Context(), "ip", "route", "add", "blackhole", gate4+"/32"); err != nil {
		t.Fatal(err, out)
	}
	v.costs(1, func() {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { v.works("hello", v.ssh("ssh", "gate", "echo hello")...) })
		}
		all.Wait()
	})
	v.closeDoor("ssh")

	// The second form, which ssh runs more often than it connects.
	v.works("are written", "doorward", "ssh-config", "gate", "--match", "--install", "--host", "gate")
	text, err := os.ReadFile(v.sshConfig())
	v.must(err)
	v.must(os.WriteFile(v.sshConfig(), bytes.ReplaceAll(text, []byte("HostName "+gate4), []byte("HostName "+gate6)), 0o600))
	v.costs(1, func() {
		for range 3 {
			v.works("", v.ssh("ssh", "-G", "gate")...)
		}
		v.works("hello", v.ssh("ssh", "gate", "echo hello")...)
	})
	v.works("are removed", "doorward", "ssh-config", "gate", "--remove")
	if text, _ := os.ReadFile(v.sshConfig()); !strings.HasPrefix(string(text), "BatchMode yes\n") {
		t.Errorf("what is left of the file:\n%s", text)
	}
}

// started starts a program of the visitor's that goes on.
func (v *traveller) started(says string, args ...string) *lab.Process {
	v.t.Helper()
	p, err := v.visitor.Start(v.env[0], append(v.env[1:], args...)...)
	v.must(err)
	v.must(p.Says(v.t.Context(), says, soon))
	return p
}
