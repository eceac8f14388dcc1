//go:build linux

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

func TestSSHLoginReachesTheAuthLog(t *testing.T) {
	nstest.Need(t, "sshd", "ssh", "ssh-keygen", "ip", "unshare", "nsenter")
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	server, err := l.Host("server")
	must(err)
	visitor, err := l.Host("visitor")
	must(err)
	must(l.Switch(map[*Host][]string{
		server:  {"192.0.2.1/24", "2001:db8::1/64"},
		visitor: {"192.0.2.2/24", "2001:db8::2/64"},
	}))
	authLog, err := server.Isolate()
	must(err)
	must(server.OwnEtc())
	_, err = server.Run(t.Context(), "touch", "/etc/"+filepath.Base(l.Dir))
	must(err)
	if _, err := os.Stat("/etc/" + filepath.Base(l.Dir)); !os.IsNotExist(err) {
		t.Errorf("a file of a host's own /etc is in the machine's: %v", err)
	}
	ssh, err := l.SSH(22)
	must(err)
	sshd, err := server.Start(ssh.Program, "-D", "-f", ssh.Config)
	must(err)
	for _, address := range []string{"192.0.2.1", "2001:db8::1"} {
		must(Until(t.Context(), 10*time.Second, "login at "+address, func() error {
			out, err := visitor.Run(t.Context(), "ssh", ssh.Client(address, 2, "echo", "in")...)
			if err == nil && strings.TrimSpace(out) != "in" {
				err = fmt.Errorf("got %q", out)
			}
			return err
		}))
	}
	for _, want := range []string{"Accepted publickey for root from 192.0.2.2 port", "Accepted publickey for root from 2001:db8::2 port"} {
		must(Until(t.Context(), 10*time.Second, "a line in the auth log", func() error {
			lines, err := os.ReadFile(authLog)
			if err == nil && !strings.Contains(string(lines), want) {
				err = fmt.Errorf("got\n%swant a line with %q", lines, want)
			}
			return err
		}))
	}
	must(sshd.Stop())
	dir := l.Dir
	must(l.Close())
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is still there after Close: %v", dir, err)
	}
	if pids := server.pids(); len(pids) > 0 {
		t.Errorf("processes on a host after Close: %v", pids)
	}
}

func TestSyslogLine(t *testing.T) {
	for _, c := range []struct {
		in, want string
		ok       bool
	}{
		{"<38>Nov  4 06:10:00 sshd[7]: Accepted publickey", "Nov  4 06:10:00 host sshd[7]: Accepted publickey", true},
		{"<86>Nov 14 06:10:00 sshd[7]: text\n\x00", "Nov 14 06:10:00 host sshd[7]: text", true},
		{"<30>Nov 14 06:10:00 other: text", "", false}, // daemon, not auth
		{"Nov 14 06:10:00 sshd: text", "", false},
		{"<38>yesterday sshd: text", "", false},
	} {
		got, ok := syslogLine([]byte(c.in), "host")
		if ok != c.ok || ok && got != c.want {
			t.Errorf("syslogLine(%q): got %q, %v; want %q, %v", c.in, got, ok, c.want, c.ok)
		}
	}
}
