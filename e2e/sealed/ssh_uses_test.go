//go:build linux

package sealed

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// Each program that runs ssh gets in by connect, with a connection for each session of
// ssh's, and with all of them over one.
func TestWhatRunsSSH(t *testing.T) {
	v := newTraveller(t, "scp", "sftp", "rsync", "git", "ansible-playbook", "borg", "autossh", "curl")
	v.works("are written", "doorward", "ssh-config", "gate", "--install")
	v.must(os.WriteFile(v.lab.Path("letter"), bytes.Repeat([]byte("doorward\n"), 100_000), 0o600))
	text, err := os.ReadFile(v.sshConfig())
	v.must(err)
	for _, way := range []struct{ name, more string }{
		{"alone", ""},
		{"multiplexed", "ControlMaster auto\nControlPersist 1m\nControlPath " + filepath.Join(v.home, "ssh-%C") + "\n"},
	} {
		v.must(os.WriteFile(v.sshConfig(), append([]byte(way.more), text...), 0o600))
		u := &uses{v, v.lab.Path(way.name), way.more != ""}
		v.must(os.Mkdir(u.dir, 0o700))
		for _, use := range []struct {
			name string
			f    func()
		}{{"scp", u.scp}, {"sftp", u.sftp}, {"rsync", u.rsync}, {"git", u.git}, {"ansible", u.ansible}, {"borg", u.borg}, {"editor", u.editor}, {"autossh", u.autossh}} {
			begun := time.Now()
			u.closeDoor("ssh")
			u.refuses(u.visitor, gate4, "22")
			grants := 2 // one for each family
			if use.name == "autossh" {
				grants = 4
			}
			v.costs(grants, use.f)
			t.Logf("%s, %s: %v", use.name, way.name, time.Since(begun).Round(10*time.Millisecond))
			u.disconnect()
		}
	}
}

// uses are the programs, with a directory for what they leave.
type uses struct {
	*traveller
	dir         string
	multiplexed bool
}

func (u *uses) path(name string) string { return filepath.Join(u.dir, name) }

// operator gives an order on the gateway.
func (u *uses) operator(want string, args ...string) {
	u.t.Helper()
	u.works(want, append([]string{"doorward", "--control", u.lab.Path("control.sock")}, args...)...)
}

// disconnect ends the connection that sessions share, if there is one.
func (u *uses) disconnect() {
	u.t.Helper()
	if !u.multiplexed {
		return
	}
	if _, stderr, err := u.run(u.ssh("ssh", "-O", "exit", "gate")...); err != nil {
		u.t.Errorf("there is no connection that sessions share: %v: %s", err, stderr)
	}
}

// with runs a program that runs ssh by itself, by a variable for how.
func (u *uses) with(variable, want string, args ...string) {
	u.t.Helper()
	u.works(want, append([]string{"env", variable}, args...)...)
}

// is checks that a copy has arrived.
func (u *uses) is(copied string) {
	u.t.Helper()
	if text, err := os.ReadFile(copied); err != nil || len(text) != 900_000 {
		u.t.Errorf("%s: %d bytes, %v", copied, len(text), err)
	}
}

func (u *uses) scp() {
	u.works("", u.ssh("scp", "-q", u.lab.Path("letter"), "gate:"+u.path("by-scp"))...)
	u.works("", u.ssh("scp", "-q", "-O", "gate:"+u.path("by-scp"), u.path("by-the-old-scp"))...)
	u.is(u.path("by-the-old-scp"))
}

func (u *uses) sftp() {
	u.must(os.WriteFile(u.path("batch"), []byte("put "+u.lab.Path("letter")+" "+u.path("up")+"\nget "+u.path("up")+" "+u.path("by-sftp")+"\n"), 0o600))
	u.works("", u.ssh("sftp", "-q", "-b", u.path("batch"), "gate")...)
	u.is(u.path("by-sftp"))
}

func (u *uses) rsync() {
	u.with("RSYNC_RSH=ssh -F "+u.sshConfig(), "", "rsync", "-a", u.lab.Path("letter"), "gate:"+u.path("up-by-rsync"))
	u.with("RSYNC_RSH=ssh -F "+u.sshConfig(), "", "rsync", "-a", "gate:"+u.path("up-by-rsync"), u.path("by-rsync"))
	u.is(u.path("by-rsync"))
}

func (u *uses) git() {
	git := func(args ...string) {
		u.t.Helper()
		u.with("GIT_SSH_COMMAND=ssh -F "+u.sshConfig(), "", append([]string{"git"}, args...)...)
	}
	clone := u.path("clone")
	git("init", "-q", "-b", "main", u.path("project"))
	commit := []string{"-c", "user.name=alice", "-c", "user.email=alice@example.org", "commit", "-q", "--allow-empty", "-m"}
	git(append([]string{"-C", u.path("project")}, append(commit, "one")...)...)
	git("clone", "-q", "ssh://gate"+u.path("project"), clone)
	git(append([]string{"-C", clone}, append(commit, "knock")...)...)
	git("-C", clone, "push", "-q", "origin", "HEAD:pushed")
	git("-C", clone, "fetch", "-q", "origin", "pushed")
	u.works("knock", "git", "-C", u.path("project"), "log", "--oneline", "pushed")
}

// Ansible sees hosts by several names, so that its forks connect at the same time.
func (u *uses) ansible() {
	u.must(os.WriteFile(u.path("inventory"), []byte("[all]\n"+
		"one ansible_host=gate\ntwo ansible_host=gate\nthree ansible_host=gate\n"+
		"[all:vars]\nansible_python_interpreter=/usr/bin/python3\nansible_ssh_common_args=-F "+u.sshConfig()+"\n"), 0o600))
	u.must(os.WriteFile(u.path("play.yml"), []byte("- hosts: all\n  gather_facts: false\n  tasks:\n    - ping:\n"+
		"    - copy:\n        src: "+u.lab.Path("letter")+"\n        dest: "+u.path("by-ansible-on-")+"{{ inventory_hostname }}\n"), 0o600))
	vars := []string{"env", "LC_ALL=C.UTF-8", "ANSIBLE_HOME=" + u.path("ansible"), "ANSIBLE_LOCAL_TEMP=" + u.path("ansible/tmp"),
		"ANSIBLE_PIPELINING=1", "ANSIBLE_NOCOLOR=1", "ANSIBLE_REMOTE_TEMP=" + u.path("ansible/remote")}
	if !u.multiplexed {
		vars = append(vars, "ANSIBLE_SSH_ARGS=-o ControlMaster=no")
	} else {
		vars = append(vars, "ANSIBLE_SSH_ARGS=") // what ~/.ssh/config says
	}
	u.works("failed=0", append(vars, "ansible-playbook", "-f", "3", "-i", u.path("inventory"), u.path("play.yml"))...)
	for _, host := range []string{"one", "two", "three"} {
		u.is(u.path("by-ansible-on-" + host))
	}
}

func (u *uses) borg() {
	borg := func(want string, args ...string) {
		u.t.Helper()
		u.works(want, append([]string{"env", "-C", u.dir, "BORG_RSH=ssh -F " + u.sshConfig(), "BORG_BASE_DIR=" + u.path("borg-home")}, args...)...)
	}
	at := "ssh://gate" + u.path("backup")
	u.must(os.Mkdir(u.path("kept"), 0o700))
	u.must(os.WriteFile(u.path("kept/letter"), bytes.Repeat([]byte("doorward\n"), 100_000), 0o600))
	borg("", "borg", "--error", "init", "-e", "none", at)
	borg("", "borg", "create", at+"::today", "kept")
	u.must(os.RemoveAll(u.path("kept")))
	borg("", "borg", "extract", at+"::today")
	u.is(u.path("kept/letter"))
}

// An editor's remote mode, as VS Code's Remote - SSH: a shell without a terminal that reads
// a script from its input, and a SOCKS proxy by which the editor reaches what the script
// has started.
func (u *uses) editor() {
	far := u.listen("127.0.0.1:0")
	go func() {
		for {
			c, err := far.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "HTTP/1.0 200 OK\r\n\r\nhello from the far side\n")
			c.Close()
		}
	}()
	var near net.Listener
	u.must(u.visitor.Do(func() (err error) { near, err = net.Listen("tcp", "127.0.0.1:0"); return }))
	socks := near.Addr().String()
	near.Close()
	_, port, err := net.SplitHostPort(socks)
	u.must(err)
	p := u.started("", u.ssh("ssh", "-T", "-D", port, "gate", "bash")...)
	u.must(p.Type("uname -s\necho \"the script runs in $BASH\"\n"))
	u.must(p.Says(u.t.Context(), "the script runs in /", soon))
	u.works("hello from the far side", "curl", "-sS", "--max-time", "10", "--socks5-hostname", socks, "http://"+far.Addr().String()+"/")
	u.must(p.Type("exit\n"))
	select {
	case <-p.Ended():
	case <-time.After(soon):
		u.t.Errorf("ssh goes on: %s", p.Output())
		u.must(p.Kill())
	}
}

var session = regexp.MustCompile(`session (\d+)`)

// autossh connects again by itself, when its connection is cut and the grant is over, of
// which the visitor knows nothing.
func (u *uses) autossh() {
	p := u.started("session ", append([]string{"env", "AUTOSSH_GATETIME=0", "autossh", "-M", "0"}, u.ssh("ssh", "gate", "echo session $PPID; exec sleep 300")[1:]...)...)
	u.operator("can open no new connections", "close", "ssh", "--source", visitor4)
	u.operator("can open no new connections", "close", "ssh", "--source", visitor6)
	u.refuses(u.visitor, gate4, "22")
	first := session.FindStringSubmatch(p.Output())[1]
	if out, err := u.server.Run(u.t.Context(), "kill", "-9", first); err != nil {
		u.t.Fatal(err, out)
	}
	u.until("another session", func() error {
		if all := session.FindAllStringSubmatch(p.Output(), -1); len(all) < 2 || all[1][1] == first {
			return fmt.Errorf("autossh says %q", p.Output())
		}
		return nil
	})
	u.must(p.Stop())
}
