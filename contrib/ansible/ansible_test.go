//go:build linux

// Package ansible has tests only: they run the role, with Debian's Ansible, against a
// machine that was booted for it.
package ansible

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

// utf8 is for the environment of Ansible, which refuses every other encoding.
const utf8 = "LC_ALL=C.UTF-8"

// TestLint holds the role to the strictest rules that ansible-lint has.
func TestLint(t *testing.T) {
	if _, err := exec.LookPath("ansible-lint"); err != nil {
		t.Skip("ansible-lint is not installed: build/deps.sh test")
	}
	cmd := exec.CommandContext(t.Context(), "ansible-lint", "--offline", "--nocolor", "--strict", "--profile=production")
	cmd.Env = append(os.Environ(), utf8)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("ansible-lint: %v\n%s", err, out)
	}
}

// TestRole has the role guard a machine that is reached by SSH alone, from the first
// installation on: with knocks that work, and with knocks that do not.
func TestRole(t *testing.T) {
	g := newGate(t)
	g.refusesToBegin(t)
	g.failsAtFirst(t)
	g.guards(t)
	g.changesNothing(t)
	g.tries(t)
	g.changes(t)
	g.goesBack(t)
	g.keepsSecrets(t)
}

// refusesToBegin: what cannot end well is not begun.
func (g *gate) refusesToBegin(t *testing.T) {
	t.Helper()
	g.m.Run("systemd-run", "--unit=doorward-way-back", "--on-active=1h", "/bin/true")
	out := g.fails(t, knockOne+g.packages(t))
	if want := "an earlier run was broken off at its first knock"; !strings.Contains(out, want) {
		t.Errorf("the play does not say %q:\n%s", want, out)
	}
	g.m.Run("systemctl", "stop", "doorward-way-back.timer")

	out = g.fails(t, "doorward_kind: touch\ndoorward_listen: [25101, 25101, 25102]\ndoorward_touch: [25101, 25103]\n")
	if want := `nothing was changed: the configuration has mistakes: line 10: door.ssh.knock[0].listen[1]: listed twice; ` +
		`line 11: door.ssh.knock[0].touch[1]: not in \"listen\": nobody would hear it"`; !strings.Contains(out, want) {
		t.Errorf("the play does not say %q:\n%s", want, out)
	}
	if got := g.show("doorward.service", "ActiveState"); got != "inactive" {
		t.Errorf("doorward.service is %s", got)
	}
}

// failsAtFirst: the first knock opens nothing, and the machine is as it was.
func (g *gate) failsAtFirst(t *testing.T) {
	t.Helper()
	g.m.Write("/run/wall.nft", "table inet wall { chain in { type filter hook input priority 0; udp dport 25001 drop; }; }", 0o600)
	g.m.Run("nft", "-f", "/run/wall.nft")
	defer g.m.Run("nft", "delete", "table", "inet", "wall")
	out := g.fails(t, knockOne)
	if want := "the invite was in vain from localhost: no answer from 192.0.2.1"; !strings.Contains(out, want) {
		t.Errorf("the play does not say that %s:\n%s", want, out)
	}
	if got := g.m.Run("nft", "list", "tables"); strings.Contains(got, "doorward") {
		t.Errorf("the fence stands: %s", got)
	}
	if !g.reaches(t) {
		t.Error("the machine cannot be reached any more")
	}
	for unit, want := range map[string]string{"ssh.service": "active", "doorward.service": "inactive", "doorward-way-back.timer": "inactive"} {
		if got := g.show(unit, "ActiveState"); got != want {
			t.Errorf("%s is %s, want %s", unit, got, want)
		}
	}
}

// guards: the role puts a door before sshd, and can be run through it.
func (g *gate) guards(t *testing.T) {
	t.Helper()
	if r := g.plays(t, knockOne); r.changed == 0 {
		t.Error("the first run has changed nothing")
	}
	g.isDark(t)
	if out, err := g.visitor.Command(t.Context(), "env", "HOME="+g.dir, g.bin+"/doorward", "knock", "gate", "--wait", "22").CombinedOutput(); err != nil {
		t.Errorf("nobody gets in by the profile that Ansible has made: %v\n%s", err, out)
	}
	g.monitors(t)
	if keys := g.m.Run("doorward", "keys", "list"); !strings.Contains(keys, "ansible") || !strings.Contains(keys, "carol") {
		t.Errorf("the gateway knows these keys alone:\n%s", keys)
	}
	for _, of := range []string{"ActiveState", "UnitFileState"} {
		if got, want := g.show("doorward.service", of), map[string]string{"ActiveState": "active", "UnitFileState": "enabled"}[of]; got != want {
			t.Errorf("doorward.service: %s is %s, want %s", of, got, want)
		}
	}
	if got := g.show("doorward-way-back.timer", "ActiveState"); got != "inactive" {
		t.Errorf("the way back is still %s", got)
	}
	g.proxy = "connect %h %p --profile gate"
}

// monitors: a machine knocks with its secret, by a profile that names it.
func (g *gate) monitors(t *testing.T) {
	t.Helper()
	profiles, err := filepath.Glob(g.dir + "/.config/doorward/*/gate.toml")
	if err != nil || len(profiles) != 1 {
		t.Fatalf("the profiles are %q, %v", profiles, err)
	}
	text, err := os.ReadFile(profiles[0])
	if err != nil {
		t.Fatal(err)
	}
	line := fmt.Appendf(nil, "monitor %s\n", monitor)
	own := regexp.MustCompile(`(?m)^(agent|file) = .*$`).ReplaceAllLiteral(text, fmt.Appendf(nil, "secret = %q", g.dir+"/secret"))
	for path, text := range map[string][]byte{g.dir + "/secret": line, filepath.Join(filepath.Dir(profiles[0]), "monitor.toml"): own} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := g.visitor.Command(t.Context(), "env", "HOME="+g.dir, g.bin+"/doorward", "knock", "monitor", "ssh").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "open until") {
		t.Errorf("a machine does not get in by its secret: %v\n%s", err, out)
	}
	if info := g.m.Run("stat", "--format=%a %U %G", "/etc/doorward/secrets"); info != "640 root doorward\n" {
		t.Errorf("the file of secrets is %q", info)
	}
}

func (g *gate) changesNothing(t *testing.T) {
	t.Helper()
	g.isDark(t)
	if r := g.plays(t, knockOne+g.packages(t)); r.changed != 0 {
		t.Errorf("the second run has changed something:\n%s", r.out)
	}
}

// tries: --check and --diff change nothing and show no secret.
func (g *gate) tries(t *testing.T) {
	t.Helper()
	before := g.status(t).ConfigHash
	if r := g.plays(t, knockTwo, "--check", "--diff"); r.changed == 0 {
		t.Errorf("the dry run would change nothing:\n%s", r.out)
	}
	if s := g.status(t); s.ConfigHash != before || s.ConfigDiffers {
		t.Errorf("the dry run has changed something: %+v", s)
	}
}

func (g *gate) changes(t *testing.T) {
	t.Helper()
	before := g.status(t).ConfigHash
	if r := g.plays(t, knockTwo); r.changed == 0 {
		t.Errorf("nothing has changed:\n%s", r.out)
	}
	s := g.status(t)
	if s.ConfigHash == before || s.Pending != nil || s.ConfigDiffers {
		t.Errorf("the new configuration is not kept: %+v", s)
	}
	g.isDark(t)
	g.knocks(t, "by the new knock", "25102,25103")
	g.proxy = "knock --from " + g.dir + "/gate.knock --stdio"
}

func (g *gate) goesBack(t *testing.T) {
	t.Helper()
	before := g.status(t).ConfigHash
	g.m.Run("nft", "-f", "/run/wall.nft")
	defer g.m.Run("nft", "delete", "table", "inet", "wall")
	// It has another unit, too: the one before can be started all the same.
	out := g.fails(t, knockOne+"doorward_unit: ssh.socket\n")
	for _, want := range []string{"the knock from localhost was in vain: no answer from 192.0.2.1", "The configuration from before is in use"} {
		if !strings.Contains(out, want) {
			t.Errorf("the play does not say %q:\n%s", want, out)
		}
	}
	s := g.status(t)
	if s.ConfigHash != before || s.Pending != nil || s.ConfigDiffers {
		t.Errorf("the configuration from before is not in use, or its file is not there: %+v", s)
	}
	g.isDark(t)
	g.knocks(t, "by the knock from before", "25102,25103")
}

// keepsSecrets: what Ansible has written to the machine's log has no knock in it. Its
// own output is searched by play.
func (g *gate) keepsSecrets(t *testing.T) {
	t.Helper()
	log := g.m.Run("journalctl", "--no-pager", "--output=cat")
	if !strings.Contains(log, "Invoked with") {
		t.Error("Ansible has logged nothing on the machine: that proves nothing")
	}
	for line := range strings.Lines(log) {
		if secret.MatchString(line) {
			t.Errorf("the machine's log contains the knock: %s", line)
		}
	}
}

// The two knocks of the test, a sealed one and one of touches.
const (
	knockOne = "doorward_port: 25001\ndoorward_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg carol]\n" +
		"doorward_secrets: [\"monitor " + monitor + "\"]\n"
	monitor  = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=" // a machine's secret
	knockTwo = "doorward_kind: touch\ndoorward_listen: [25101, 25102, 25103, 25104]\ndoorward_touch: [25102, 25103]\n"
)

// secret finds ports of the touches, invites, and the machine's secret.
var secret = regexp.MustCompile(`\b2510[1-4]\b|doorward-invite:\S+|q83vEjRWeJ`)

// gate is a machine that Ansible is to guard, and where Ansible runs.
type gate struct {
	m       *systemdtest.Machine
	visitor *nstest.NS
	dir     string // what Ansible has: keys, inventory, connections
	bin     string // doorward's programs
	debs    []string
	proxy   string // how Ansible knocks to get in, "" for not at all
}

// newGate boots a machine with a user who may become root, and who alone logs in.
func newGate(t *testing.T) *gate {
	t.Helper()
	nstest.Need(t, "ansible-playbook", "ssh", "ssh-keygen", "dpkg-deb")
	ns, visitor := nstest.New(t), nstest.New(t)
	nstest.Link(ns, visitor, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	// Short, since ssh's sockets are in it.
	dir, err := os.MkdirTemp("", "dw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := &gate{m: systemdtest.BootSuite(t, systemdtest.Managed, ns), visitor: visitor, dir: dir, bin: filepath.Join(dir, "bin")}
	g.debs = build(t, g.bin)
	g.m.Run("useradd", "--create-home", "--shell", "/bin/sh", "deploy")
	g.m.Write("/etc/sudoers.d/deploy", "deploy ALL=(ALL) NOPASSWD: ALL\n", 0o440)
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", dir+"/key").CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	public, err := os.ReadFile(dir + "/key.pub")
	if err != nil {
		t.Fatal(err)
	}
	g.m.Write("/home/deploy/.ssh/authorized_keys", string(public), 0o600)
	g.m.Run("chown", "-R", "deploy:deploy", "/home/deploy/.ssh")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(g.m.Run("journalctl", "--no-pager", "--unit=doorward.service", "--unit=doorward-way-back.service"))
		}
	})
	return g
}

// packages are doorward's, as a variable of the role.
func (g *gate) packages(t *testing.T) string {
	t.Helper()
	list, err := json.Marshal(g.debs)
	if err != nil {
		t.Fatal(err)
	}
	return "doorward_packages: " + string(list) + "\n"
}

// recap is the end of what Ansible prints.
var recap = regexp.MustCompile(`(?m)^gate +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)`)

// result is how a run of Ansible ended.
type result struct {
	out     string
	changed int
}

// plays runs the role, which has to succeed.
func (g *gate) plays(t *testing.T, vars string, args ...string) result {
	t.Helper()
	out, err := g.play(t, vars, args...)
	m := recap.FindStringSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("ansible-playbook: %v\n%s", err, out)
	}
	r := result{out: out}
	fmt.Sscan(m[1], &r.changed)
	return r
}

// fails runs the role, which has to fail without losing the machine, and returns what
// was printed.
func (g *gate) fails(t *testing.T, vars string, args ...string) string {
	t.Helper()
	out, err := g.play(t, vars, args...)
	m := recap.FindStringSubmatch(out)
	if err == nil || m == nil || m[2] != "0" || m[3] != "1" {
		t.Fatalf("ansible-playbook: %v, want a task that failed\n%s", err, out)
	}
	return out
}

// play runs the role from the visitor's network, at its most verbose; no knock may be
// in the output. Its connections end with it.
func (g *gate) play(t *testing.T, vars string, args ...string) (string, error) {
	t.Helper()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(g.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ssh := "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=5"
	if g.proxy != "" {
		ssh += ` -o ProxyCommand="` + g.bin + `/doorward ` + g.proxy + `"`
	}
	write("inventory", fmt.Sprintf("[gateways]\ngate ansible_host=192.0.2.1 ansible_user=deploy ansible_python_interpreter=/usr/bin/python3 ansible_ssh_private_key_file=%s/key ansible_ssh_common_args='%s'\n", g.dir, ssh))
	if !strings.Contains(vars, "doorward_packages") {
		vars += "doorward_packages: []\n" // each takes a while, also when it is there
	}
	write("vars.yml", vars+"doorward_client: "+g.bin+"/doorward\ndoorward_key: "+g.dir+"/key\n")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := g.visitor.Command(ctx, "ansible-playbook", append([]string{"-i", g.dir + "/inventory", "-e", "@" + g.dir + "/vars.yml",
		"-vvv", "gateway.yml"}, args...)...)
	cmd.Env = append(os.Environ(), utf8, "HOME="+g.dir, "ANSIBLE_HOME="+g.dir, "ANSIBLE_LOCAL_TEMP="+g.dir+"/tmp", "ANSIBLE_NOCOLOR=1",
		"ANSIBLE_PIPELINING=1", "ANSIBLE_SSH_CONTROL_PATH_DIR="+g.dir+"/cp", "ANSIBLE_CALLBACKS_ENABLED=")
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	t.Logf("ansible-playbook took %v", time.Since(begun).Round(time.Second))
	g.disconnect(t)
	for _, found := range secret.FindAllString(string(out), -1) {
		t.Errorf("Ansible's output contains the secret %s", found)
	}
	return string(out), err
}

// disconnect ends Ansible's connections.
func (g *gate) disconnect(t *testing.T) {
	t.Helper()
	sockets, err := filepath.Glob(g.dir + "/cp/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sockets {
		if out, err := exec.CommandContext(t.Context(), "ssh", "-o", "ControlPath="+s, "-O", "exit", "gate").CombinedOutput(); err != nil {
			t.Errorf("ssh -O exit: %v\n%s", err, out)
		}
	}
}

// build builds doorward's packages, and unpacks the client's into bin.
func build(t *testing.T, bin string) (debs []string) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sh", "-euc",
		`FORMATS=deb build/packages.sh "$1" "$2" && dpkg-deb --fsys-tarfile "$1"/doorward-client_*.deb | tar -x -C "$1" ./usr/bin`,
		"sh", dir, runtime.GOARCH)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the packages: %v\n%s", err, out)
	}
	for _, name := range []string{"doorward-client", "doorward"} {
		found, err := filepath.Glob(dir + "/" + name + "_*.deb")
		if err != nil || len(found) != 1 {
			t.Fatalf("the packages of %s are %q, %v", name, found, err)
		}
		debs = append(debs, found[0])
	}
	if err := os.Rename(dir+"/usr/bin", bin); err != nil {
		t.Fatal(err)
	}
	return debs
}

// isDark closes the door, and checks that sshd cannot be reached and does not run.
func (g *gate) isDark(t *testing.T) {
	t.Helper()
	g.m.Run("doorward", "close", "ssh")
	nstest.Eventually(t, "sshd is stopped", func() bool { return g.show("ssh.service", "ActiveState") == "inactive" })
	if g.reaches(t) {
		t.Error("sshd can be reached without a knock")
	}
}

// knocks checks that touching these ports lets the visitor in, and has Ansible knock so.
func (g *gate) knocks(t *testing.T, how, touch string) {
	t.Helper()
	text := "doorward-knock = 1\nhost = \"192.0.2.1\"\ntouch = [" + touch + "]\nwait = 22\n"
	if err := os.WriteFile(g.dir+"/gate.knock", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := g.visitor.Command(t.Context(), g.bin+"/doorward", "knock", "--from", g.dir+"/gate.knock").CombinedOutput()
	if err != nil {
		t.Errorf("nobody gets in %s: %v\n%s", how, err, out)
	}
}

// reaches says whether the visitor gets as far as sshd.
func (g *gate) reaches(t *testing.T) bool {
	t.Helper()
	err := g.visitor.Command(t.Context(), "ssh", "-i", g.dir+"/key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=2", "deploy@192.0.2.1", "true").Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatal(err)
	}
	return err == nil
}

func (g *gate) show(unit, property string) string {
	return strings.TrimSpace(g.m.Run("systemctl", "show", "--value", "--property="+property, unit))
}

func (g *gate) status(t *testing.T) (s control.Status) {
	t.Helper()
	if err := json.Unmarshal([]byte(g.m.Run("doorward", "status", "--json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}
