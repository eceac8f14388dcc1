//go:build linux

package packaging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/doorward/doorward/internal/service"
)

// TestMain is the stand-in for the daemon when it is called by its name: it does
// what needs a privilege, as the daemon does, and writes down what failed. By
// other names it is the operator's command, a guarded service, and a user who is
// after ports.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "doorwardd", "doorward":
	case "greeter", "panel":
		greet()
	case "squatter":
		squatter()
		os.Exit(0)
	default:
		os.Exit(runTests(m))
	}
	if _, err := os.Stat("/etc/doorward/bad"); err == nil {
		fmt.Println("doorward.toml:1: it is bad")
		os.Exit(1)
	}
	switch {
	case filepath.Base(os.Args[0]) == "doorward":
		apply()
	case !slices.Contains(os.Args, "--check"):
		stub()
	}
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "doorward-packaging-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	built.dir = dir
	return m.Run()
}

// apply has the stand-in reload.
func apply() {
	c, err := net.Dial("unix", "/run/doorward/control.sock")
	if err == nil {
		_, err = c.Read(make([]byte, 1)) // which it ends when it has
	}
	if err != io.EOF || len(os.Args) != 2 || os.Args[1] != "apply" {
		fmt.Println(os.Args, err)
		os.Exit(1)
	}
	fmt.Println("doorward.toml is in use")
}

// greet is a service that anybody may talk to.
func greet() {
	l, err := net.Listen("tcp", ":7777")
	for err == nil {
		var c net.Conn
		if c, err = l.Accept(); err == nil {
			c.Close()
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

const stubDir = "/var/lib/doorward"

func stub() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	report := ""
	for _, p := range privileges {
		if err := p.use(); err != nil {
			report += fmt.Sprintf("%s: %v\n", p.name, err)
		}
	}
	if args := strings.Join(os.Args[1:], " "); args != "-c /etc/doorward/doorward.toml" {
		report += fmt.Sprintf("arguments: %q\n", os.Args[1:])
	}
	write("report", report)
	if l, err := net.Listen("unix", "/run/doorward/control.sock"); err == nil {
		defer l.Close()
		go reload(l) // ends with l
	}
	daemon.SdNotify(false, daemon.SdNotifyReady)
	every, _ := daemon.SdWatchdogEnabled(false)
	tick := time.NewTicker(max(every/2, time.Second))
	for {
		select {
		case <-term:
			return
		case <-tick.C:
			daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
	}
}

// reload counts who asks for it.
func reload(l net.Listener) {
	for n := 1; ; n++ {
		c, err := l.Accept()
		if err != nil {
			return
		}
		write("reloaded", strconv.Itoa(n))
		c.Close()
	}
}

func write(name, text string) {
	if err := os.WriteFile(filepath.Join(stubDir, name), []byte(text), 0o600); err != nil {
		panic(err)
	}
}

// privileges are all that the daemon needs, and some that it must not have.
var privileges = []struct {
	name string
	use  func() error
}{
	{"nftables", func() error { return run("/usr/sbin/nft", "add", "table", "inet", "stub") }},
	{"port below 1024", func() error {
		l, err := net.Listen("tcp", "127.0.0.1:79")
		if err == nil {
			l.Close()
		}
		return err
	}},
	{"systemd over D-Bus", func() error {
		_, err := service.NewUnit("ssh.service", slog.New(slog.DiscardHandler)).Status(context.Background())
		return err
	}},
	{"own command", func() error {
		c := service.NewCommand([]string{"/bin/sleep", "infinity"}, nil, nil, stubDir+"/own.pid", slog.New(slog.DiscardHandler))
		return c.Start(context.Background())
	}},
	{"configuration", func() error { _, err := os.ReadFile("/etc/doorward/doorward.toml"); return err }},
	{"auth log", func() error { _, err := os.ReadFile("/var/log/auth.log"); return err }},
	{"journal", func() error { return run("/usr/bin/journalctl", "-n", "1", "--quiet", "_SYSTEMD_UNIT=init.scope") }},
	{"group of the control socket", func() error {
		write("owned", "")
		return os.Chown(stubDir+"/owned", -1, os.Getgid())
	}},
	{"must not write the configuration", mustFail(func() error { return os.WriteFile("/etc/doorward/new", nil, 0o600) })},
	{"must not write programs", mustFail(func() error { return os.WriteFile("/usr/sbin/new", nil, 0o600) })},
	{"must not read homes", mustFail(func() error { _, err := os.ReadDir("/root"); return err })},
	{"must not use raw sockets", mustFail(func() error { _, err := net.ListenPacket("ip4:icmp", "127.0.0.1"); return err })},
	{"must not mount", mustFail(func() error { return syscall.Mount("none", "/tmp", "tmpfs", 0, "") })},
	{"must not become another user", mustFail(func() error { return syscall.Setuid(0) })},
	{"must not make namespaces", mustFail(func() error { return syscall.Unshare(syscall.CLONE_NEWUSER) })},
}

// mustFail turns success into an error; as root nothing is tried.
func mustFail(use func() error) func() error {
	return func() error {
		if os.Geteuid() != 0 && use() == nil {
			return fmt.Errorf("succeeded")
		}
		return nil
	}
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
