//go:build linux

package packaging

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
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
	t.Parallel()
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
	t.Logf("a stranger tried %d connections; doorward.service began at %s µs and was ready at %s", tried,
		show(t, m, "doorward.service", "InactiveExitTimestampMonotonic"), show(t, m, "doorward.service", "ActiveEnterTimestampMonotonic"))
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

// TestListenersSurviveTheDaemon kills the daemon while a user of the machine
// tries all the time to have the listeners' ports, and a visitor knocks.
func TestListenersSurviveTheDaemon(t *testing.T) {
	t.Parallel()
	ns, visitor := nstest.New(t), nstest.New(t)
	nstest.Link(ns, visitor, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	m := systemdtest.Boot(t, ns, build(t, "cmd/doorwardd")+":/stub", build(t, "cmd/doorward")+":/usr/bin/doorward",
		os.Args[0]+":/usr/bin/squatter")
	install(t, m)
	m.Write("/etc/doorward/doorward.toml", strings.Replace(sshDoor, `service = { unit = "ssh.service" }`, "", 1), 0o640)
	m.Run("systemctl", "start", "doorward.service")
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(m.Run("journalctl", "--no-pager", "--unit=doorward.service"))
		}
	})
	end := squat(t, m)
	for i := range 3 {
		before := show(t, m, "doorward.service", "MainPID")
		m.Run("kill", "-KILL", before)
		nstest.Eventually(t, "it is dead", func() bool { _, err := os.Stat(m.Path("/proc/" + before)); return err != nil })
		if i == 0 {
			// systemd waits a second before it starts the daemon again. The visitor
			// is not next door: touches in one tick of the kernel have no order.
			for _, port := range []string{"59000", "59002"} {
				if !reaches(visitor, "192.0.2.1:"+port, 10*time.Second) {
					t.Fatalf("port %s cannot be touched while no daemon runs", port)
				}
				time.Sleep(50 * time.Millisecond)
			}
		}
		nstest.Eventually(t, "it is started again", func() bool {
			return show(t, m, "doorward.service", "MainPID") != before && show(t, m, "doorward.service", "ActiveState") == "active"
		})
		if i == 0 {
			nstest.Eventually(t, "the knock that was given meanwhile opens the door", func() bool {
				return strings.Contains(m.Run("doorward", "status"), "192.0.2.2")
			})
			if !reaches(visitor, "192.0.2.1:22", 5*time.Second) {
				t.Error("who knocked right while no daemon ran does not get in")
			}
		}
	}
	m.Run("systemctl", "restart", "doorward.service")
	if got := end(); got != "" {
		t.Errorf("another user of the machine got %s", got)
	}
	if log := m.Run("journalctl", "--no-pager", "--unit=doorward.service"); strings.Contains(log, "already in use") ||
		strings.Contains(log, "without signals") || strings.Contains(log, "is no listener") {
		t.Errorf("it complains:\n%s", log)
	}

	// A port that is no longer wanted is given up, also by systemd.
	text := strings.ReplaceAll(strings.Replace(sshDoor, `service = { unit = "ssh.service" }`, "", 1), "59001", "59009")
	m.Write("/etc/doorward/doorward.toml", text, 0o640)
	m.Run("systemctl", "reload", "doorward.service")
	nstest.Eventually(t, "it listens on its new ports alone", func() bool {
		out := m.Run("ss", "-Hltn")
		return strings.Contains(out, ":59009") && !strings.Contains(out, ":59001")
	})
	nstest.Eventually(t, "systemd has the new ports alone", func() bool {
		return show(t, m, "doorward.service", "NFileDescriptorStore") == "3"
	})
}

// TestStartsWithoutItsStateDirectory: the daemon can guard the doors without one,
// provided that systemd starts it.
func TestStartsWithoutItsStateDirectory(t *testing.T) {
	t.Parallel()
	m := systemdtest.Boot(t, nstest.New(t), build(t, "cmd/doorwardd")+":/stub")
	install(t, m)
	m.Write("/etc/doorward/doorward.toml", sshDoor, 0o640)
	m.Run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", "/var/lib")
	m.System.Run(t.Context(), "systemctl", "start", "doorward.service") // what it says is in the journal
	const failedBefore = 200                                            // systemd.exec(5), PROCESS EXIT CODES: 200 and more are systemd's own
	code, err := strconv.Atoi(show(t, m, "doorward.service", "ExecMainStatus"))
	if err != nil || code >= failedBefore {
		t.Errorf("exit status %d, %v: systemd did not start it:\n%s", code, err,
			m.Run("journalctl", "--no-pager", "--unit=doorward.service"))
	}
}

// squat has a user of the machine try for the ports of sshDoor's listeners until
// end, which says what they got.
func squat(t *testing.T, m *systemdtest.Machine) (end func() string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	cmd := m.CommandAs(ctx, "nobody", "squatter")
	var got strings.Builder
	cmd.Stdout, cmd.Stderr = &got, &got
	begun, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	end = func() string {
		begun.Close()
		err := cmd.Wait()
		stop()
		if err != nil {
			return fmt.Sprintf("%v: %s", err, got.String())
		}
		return got.String()
	}
	t.Cleanup(func() { stop(); begun.Close(); cmd.Wait() })
	return end
}

// squatter tries to have ports until its input ends, and prints what it got.
func squatter() {
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	for tried := 0; ; tried++ {
		select {
		case <-ended:
			if tried == 0 {
				fmt.Println("no chance to try")
			}
			return
		default:
		}
		for port := 59000; port <= 59002; port++ {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				continue
			}
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, tried&1)
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, tried>>1&1)
			if unix.Bind(fd, &unix.SockaddrInet4{Port: port}) == nil {
				fmt.Printf("port %d at try %d, as user %d\n", port, tried, os.Getuid())
				return
			}
			unix.Close(fd)
		}
	}
}

// built has the programs that build has built. TestMain makes and removes the directory.
var built struct {
	sync.Mutex
	dir string
}

// build builds a program of the module, static and once for all tests, and returns its
// path.
func build(t *testing.T, name string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	path := built.dir + name[strings.LastIndexByte(name, '/'):]
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
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
