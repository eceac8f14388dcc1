//go:build linux

package packaging

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/systemdtest"
)

// bootDoors are a door whose service always runs, so that doorward does not know
// which unit it is, and one that names its unit.
const bootDoors = `
[door.ssh]
ports = ["22/tcp"]
open_for = "30s"
presence = { idle = "1h" }

[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]

[door.greeter]
ports = ["7777/tcp"]
service = { unit = "greeter.service" }
presence = { idle = "1h" }

[[door.greeter.knock]]
kind = "touch"
listen = [59003, 59004, 59005]
touch = [59003, 59005]
`

// firewalls are the units of Debian's other firewalls, as far as they say when
// they start.
var firewalls = map[string]string{
	"firewalld.service": "[Unit]\nBefore=network-pre.target\nWants=network-pre.target\nAfter=dbus.service polkit.service\n",
	"ufw.service": "[Unit]\nDefaultDependencies=no\nBefore=network-pre.target\n" +
		"Wants=network-pre.target local-fs.target\nAfter=local-fs.target\n",
	"netfilter-persistent.service": "[Unit]\nDefaultDependencies=no\nWants=network-pre.target systemd-modules-load.service local-fs.target\n" +
		"Before=network-pre.target shutdown.target\nAfter=systemd-modules-load.service local-fs.target\nConflicts=shutdown.target\n",
	// As on Fedora, where it does have default dependencies.
	"nftables.service": "[Unit]\nWants=network-pre.target\nBefore=network-pre.target\n",
}

// TestNobodyGetsInWhileItBoots boots machines whose network is up before systemd
// is, while a stranger tries every door all the time. The guarded services start
// at boot, one of them without doorward knowing its unit; and other firewalls are
// there, some of which wait for what waits for doorward.
func TestNobodyGetsInWhileItBoots(t *testing.T) {
	ns, stranger := nstest.New(t), nstest.New(t)
	nstest.Link(ns, stranger, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	dir := t.TempDir()
	binds := []string{build(t, "cmd/doorwardd") + ":/usr/sbin/doorwardd", os.Args[0] + ":/usr/sbin/greeter"}
	file := func(inside, text string) {
		path := fmt.Sprintf("%s/%d", dir, len(binds))
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		binds = append(binds, path+":"+inside)
	}
	wants := "ssh.service greeter.service"
	for name, unit := range firewalls {
		file("/etc/systemd/system/"+name, unit+"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n")
		wants += " " + name
	}
	for _, f := range []struct{ from, to string }{
		{"doorward.service", "/usr/lib/systemd/system/doorward.service"},
		{"doorward.sysusers", "/usr/lib/sysusers.d/doorward.conf"},
		{"doorward.tmpfiles", "/usr/lib/tmpfiles.d/doorward.conf"},
	} {
		text, err := files.ReadFile(f.from)
		if err != nil {
			t.Fatal(err)
		}
		file(f.to, string(text))
	}
	file("/etc/doorward/doorward.toml", bootDoors)
	file("/etc/systemd/system/greeter.service", "[Service]\nExecStart=/usr/sbin/greeter\n")
	file("/etc/systemd/system/sysinit.target.d/doorward.conf", "[Unit]\nWants=doorward.service\n")
	file("/etc/systemd/system/multi-user.target.d/guarded.conf", "[Unit]\nWants="+wants+"\n")

	end := besiege(t, stranger, "192.0.2.1", 22, 7777)
	m := systemdtest.Boot(t, ns, binds...)
	for _, unit := range []string{"ssh.service", "greeter.service"} {
		if got := show(t, m, unit, "ActiveState"); got != "active" {
			t.Fatalf("%s is %q: nobody could have got in", unit, got)
		}
	}
	tried, in := end()
	if len(in) > 0 {
		t.Errorf("of %d connections that a stranger tried %d got in, the first %s after the siege began; "+
			"doorward.service was ready at %s µs, ssh.service at %s, greeter.service at %s", tried, len(in), in[0],
			show(t, m, "doorward.service", "ActiveEnterTimestampMonotonic"),
			show(t, m, "ssh.service", "ActiveEnterTimestampMonotonic"),
			show(t, m, "greeter.service", "ActiveEnterTimestampMonotonic"))
	}
	t.Logf("a stranger tried %d connections", tried)
	if log := m.Run("journalctl", "--boot", "--no-pager"); strings.Contains(log, "ordering cycle") {
		t.Errorf("the boot had to break an ordering cycle: %s", log)
	}
	m.Run("systemctl", "stop", "doorward.service")
	m.Run("doorwardd", "--cleanup")
	for _, at := range []string{"192.0.2.1:22", "192.0.2.1:7777"} {
		if !reaches(stranger, at, time.Second) {
			t.Errorf("without a fence the stranger cannot reach %s either: the siege proves nothing", at)
		}
	}
}

// build builds a program of the module, static, and returns its path.
func build(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/", "../"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return dir + "/" + name[strings.LastIndexByte(name, '/')+1:]
}

// besiege tries to connect from ns to ports of an address, a thousand times a
// second, until end is called. That returns how many tries there were and when
// each that got in did. A try is given up after a second, before the kernel
// sends its SYN again.
func besiege(t *testing.T, ns *nstest.NS, to string, ports ...int) (end func() (tried int, in []string)) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	var tried int
	var in []string
	var failed error
	done.Go(func() {
		ns.Do(func() error {
			s := siege{begun: time.Now(), at: unix.SockaddrInet4{Addr: [4]byte(net.ParseIP(to).To4())}}
			for ctx.Err() == nil && failed == nil {
				failed = s.round(ports)
			}
			s.endAll()
			tried, in = s.tried, s.in
			return nil
		})
	})
	end = func() (int, []string) {
		stop()
		done.Wait()
		if failed != nil {
			t.Fatalf("besiege: %v", failed)
		}
		return tried, in
	}
	t.Cleanup(func() { stop(); done.Wait() })
	return end
}

// siege is a stranger at work.
type siege struct {
	at       unix.SockaddrInet4
	begun    time.Time
	tried    int
	in       []string
	underway []attempt // oldest first
}

type attempt struct {
	fd   int
	port int
	at   time.Time
}

// round begins a try at each port and looks how those under way are doing.
func (s *siege) round(ports []int) error {
	for _, p := range ports {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		at := s.at
		at.Port = p
		unix.Connect(fd, &at) // EINPROGRESS, or what poll says
		s.underway = append(s.underway, attempt{fd, p, time.Now()})
		s.tried++
	}
	fds := make([]unix.PollFd, len(s.underway))
	for i, a := range s.underway {
		fds[i] = unix.PollFd{Fd: int32(a.fd), Events: unix.POLLOUT}
	}
	if _, err := unix.Poll(fds, 1); err != nil && err != unix.EINTR {
		return err
	}
	now, left := time.Now(), s.underway[:0]
	for i, a := range s.underway {
		if fds[i].Revents == 0 && now.Sub(a.at) < time.Second {
			left = append(left, a)
			continue
		}
		if code, err := unix.GetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_ERROR); fds[i].Revents != 0 && err == nil && code == 0 {
			s.in = append(s.in, fmt.Sprintf("at port %d, %v", a.port, now.Sub(s.begun)))
		}
		unix.Close(a.fd)
	}
	s.underway = left
	return nil
}

func (s *siege) endAll() {
	for _, a := range s.underway {
		unix.Close(a.fd)
	}
}
