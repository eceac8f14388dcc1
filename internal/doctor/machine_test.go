//go:build linux

package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/service"
)

// TestRun looks at a real network namespace with other firewalls, a taken
// port, and a server that also listens elsewhere.
func TestRun(t *testing.T) {
	nstest.Need(t, "nft", "nsenter")
	n := nstest.New(t)
	n.Run("nft", `
		table ip raw {
			chain PREROUTING {
				type filter hook prerouting priority raw; policy accept;
				jump early
			}
			chain early {
				ip saddr 203.0.113.0/24 drop
				udp dport 53 notrack
			}
			chain unused { drop; }
		}
		table inet filter {
			chain input { type filter hook input priority filter; policy drop; tcp dport 22 accept; }
			chain forward { type filter hook forward priority filter; policy drop; }
		}
		table inet doorward {
			chain prerouting { type filter hook prerouting priority mangle; drop; }
		}`)
	for _, at := range []string{"0.0.0.0:22", "0.0.0.0:8080", "127.0.0.1:8081", "127.0.0.1:59001"} {
		var l net.Listener
		n.Do(func() (err error) { l, err = net.Listen("tcp", at); return })
		defer l.Close()
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "doorward.toml")
	log := filepath.Join(dir, "auth.log")
	text := strings.Replace(configText, "[[door.ssh.knock]]",
		fmt.Sprintf("[door.ssh.presence]\nlogins = [%q]\n[[door.ssh.knock]]", log), 1)
	write(t, path, fmt.Sprintf("[gateway]\nstate = %q\n", dir)+text) // it has run before
	write(t, log, time.Now().Add(-time.Minute).UTC().Format("2006-01-02T15:04:05.000000+00:00")+
		" gate sshd[7]: Accepted publickey for alice from 192.0.2.1 port 50000 ssh2: ED25519 SHA256:x\n")

	p := &Host{Config: path, Control: filepath.Join(dir, "none.sock"), Now: time.Now,
		Unit:   units{"ssh.service": {status: service.Status{State: service.Running}}}.unit,
		Denied: polkit{}.denied,
		Status: func(context.Context) (control.Status, error) {
			return control.Status{}, errors.New("no daemon answers")
		}}
	var found []Finding
	n.Do(func() error { found = p.Run(t.Context()); return nil })
	got := lines(found)
	us := fmt.Sprintf("%s (pid %d)", p.processName(os.Getpid()), os.Getpid())
	for _, beginning := range []string{
		"ok: configuration: " + path + ": door ssh",
		"ok: kernel: Linux ",
		"ok: conntrack: ",
		"warning: daemon: no daemon answers > ",
		"warning: table ip raw, chain PREROUTING: takes packets out of connection tracking",
		"problem: table inet filter, chain input: drops what strangers send to 59000/tcp, 59001/tcp, 59002/tcp (policy of chain input)",
		"ok: firewall: other rules let 22/tcp through",
		"problem: 59001/tcp: is taken by " + us + ": door ssh cannot listen",
		"ok: door ssh: behind it is " + us + " on 22/tcp",
		"note: 8080/tcp: " + us + ", which is behind door ssh, listens here too",
		"ok: door ssh: its unit ssh.service is running",
		"ok: door ssh: in use while there is: a login in " + log + ", for 1h; a live TCP connection to 22/tcp",
		"ok: door ssh: " + log + " can be read; the last login was alice's from 192.0.2.1, 1m",
		"note: network: ",
	} {
		if !slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, beginning) }) {
			t.Errorf("not found: %s", beginning)
		}
	}
	for _, part := range []string{"table inet doorward", "chain forward", "8081/tcp", "59000/tcp: "} {
		if i := slices.IndexFunc(got, func(l string) bool { return strings.Contains(l, part) }); i >= 0 {
			t.Errorf("found, and should not be: %s", got[i])
		}
	}
	if t.Failed() {
		t.Log("\n" + strings.Join(got, "\n"))
	}
}

// TestRunFindsTheDaemon: the daemon is the process that listens at the control socket.
func TestRunFindsTheDaemon(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := &Host{Control: socket}
	if got := p.daemonPID(); got != os.Getpid() {
		t.Errorf("the daemon is process %d, want %d", got, os.Getpid())
	}
	p.Control = filepath.Join(dir, "none")
	if got := p.daemonPID(); got != 0 {
		t.Errorf("the daemon is process %d, want none", got)
	}
}

// TestRehearsalLeavesNoTrace: the table is tried in another network namespace.
func TestRehearsalLeavesNoTrace(t *testing.T) {
	nstest.Need(t, "nft", "nsenter")
	n := nstest.New(t)
	n.Do(func() error {
		_, err := rehearse(sshDoor(t))
		return err
	})
	if rules := n.Run("nft", "list", "ruleset"); rules != "" {
		t.Errorf("left behind:\n%s", rules)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
