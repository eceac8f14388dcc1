//go:build linux

// Package nstest makes network namespaces for tests, so that real programs meet
// over real links while the machine's own firewall, interfaces and sshd stay
// as they are. It needs root; without root a test is skipped and says so, except
// in CI (the environment has CI=true), where it fails instead.
package nstest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NS is a network namespace with its loopback interface up. It is removed when the
// test that made it ends. The test must end the processes that it started in it.
type NS struct {
	Name string // as `ip netns` knows it
	t    testing.TB
}

var serial atomic.Int32

// Need skips the test unless it runs as root and finds every program of
// programs on PATH. In CI it fails the test instead.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root: network namespaces; run `sudo make test`")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			skip(t, fmt.Sprintf("needs the program %q; `make deps` installs it", p))
		}
	}
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("would be skipped, which CI does not allow: " + why)
	}
	t.Skip(why)
}

// New makes a namespace for the test.
func New(t testing.TB) *NS {
	t.Helper()
	Need(t)
	n := &NS{Name: fmt.Sprintf("dw-%d-%d", os.Getpid(), serial.Add(1)), t: t}
	inThread(t, func() error {
		h, err := netns.NewNamed(n.Name)
		if err != nil {
			return fmt.Errorf("make namespace %q: %w", n.Name, err)
		}
		defer h.Close()
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	t.Cleanup(func() {
		if err := netns.DeleteNamed(n.Name); err != nil {
			t.Errorf("delete namespace %q: %v", n.Name, err)
		}
	})
	return n
}

// Path returns the path of the file that stands for the namespace.
func (n *NS) Path() string { return "/run/netns/" + n.Name }

// Do runs f on a thread of its own inside the namespace and waits for it.
// Sockets that f opens stay in the namespace; goroutines that f starts do not
// run in it. A panic or an error fails the test.
func (n *NS) Do(f func() error) {
	n.t.Helper()
	inThread(n.t, func() error {
		h, err := netns.GetFromName(n.Name)
		if err != nil {
			return fmt.Errorf("open namespace %q: %w", n.Name, err)
		}
		defer h.Close()
		if err := netns.Set(h); err != nil {
			return fmt.Errorf("enter namespace %q: %w", n.Name, err)
		}
		return f()
	})
}

// Command is exec.CommandContext inside the namespace. The process that it
// starts is the program itself (nsenter replaces itself), so its process ID is the
// program's.
func (n *NS) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter",
		append([]string{"--net=" + n.Path(), "--", name}, args...)...)
}

// Run runs a program inside the namespace and returns what it printed, on both
// outputs. A non-zero exit fails the test.
func (n *NS) Run(name string, args ...string) string {
	n.t.Helper()
	out, err := n.Command(n.t.Context(), name, args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Listen is net.Listen inside the namespace. The listener is closed when the test
// ends; an error fails it.
func (n *NS) Listen(network, address string) net.Listener {
	n.t.Helper()
	var l net.Listener
	n.Do(func() (err error) { l, err = net.Listen(network, address); return })
	n.t.Cleanup(func() { l.Close() })
	return l
}

// Dial is net.DialTimeout inside the namespace, for ten seconds. The connection is
// closed when the test ends; an error fails it.
func (n *NS) Dial(network, address string) net.Conn {
	n.t.Helper()
	var c net.Conn
	n.Do(func() (err error) { c, err = net.DialTimeout(network, address, 10*time.Second); return })
	n.t.Cleanup(func() { c.Close() })
	return c
}

// Link joins two namespaces with a veth pair and gives each end its addresses
// (in CIDR form, e.g. "192.0.2.1/24", "2001:db8::1/64"). IPv6 addresses are
// usable at once (no duplicate address detection). When packets flow, it returns
// the names of the two ends.
func Link(a, b *NS, addrsA, addrsB []string) (ifA, ifB string) {
	a.t.Helper()
	id := strconv.Itoa(int(serial.Add(1)))
	ifA, ifB = "veth"+id+"a", "veth"+id+"b"
	a.Run("ip", "link", "add", ifA, "type", "veth", "peer", "name", ifB, "netns", b.Name)
	for _, end := range []struct {
		ns    *NS
		name  string
		addrs []string
	}{{a, ifA, addrsA}, {b, ifB, addrsB}} {
		for _, addr := range end.addrs {
			args := []string{"addr", "add", addr, "dev", end.name}
			if strings.Contains(addr, ":") {
				args = append(args, "nodad")
			}
			end.ns.Run("ip", args...)
		}
		end.ns.Run("ip", "link", "set", end.name, "up")
	}
	a.awaitCarrier(ifA)
	b.awaitCarrier(ifB)
	a.awaitRoutes(addrsA)
	b.awaitRoutes(addrsB)
	return ifA, ifB
}

// awaitRoutes returns when the namespace's addresses are its own: the kernel adds the
// routes of IPv6 addresses asynchronously, too (addrconf_dad_work in net/ipv6/addrconf.c).
func (n *NS) awaitRoutes(addrs []string) {
	n.t.Helper()
	for _, addr := range addrs {
		ip, _, err := net.ParseCIDR(addr)
		if err != nil {
			n.t.Fatal(err)
		}
		n.await("a local route to "+addr, func() (bool, error) {
			routes, err := netlink.RouteGet(ip)
			return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL, nil // until then there may be none at all
		})
	}
}

// awaitCarrier returns when packets flow over the interface. The kernel brings a
// carrier up asynchronously, perhaps a second later.
func (n *NS) awaitCarrier(name string) {
	n.t.Helper()
	n.await(fmt.Sprintf("a carrier of interface %q", name), func() (bool, error) {
		link, err := netlink.LinkByName(name)
		return err == nil && link.Attrs().OperState == netlink.OperUp, err
	})
}

// await calls there in the namespace until it is true.
func (n *NS) await(what string, there func() (bool, error)) {
	n.t.Helper()
	n.Do(func() error {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			switch ok, err := there(); {
			case ok || err != nil:
				return err
			case time.Now().After(end):
				return fmt.Errorf("there is not %s in %q", what, n.Name)
			}
		}
	})
}

// inThread runs f on a locked thread that ends afterwards, so that no other
// goroutine is ever scheduled onto a thread in a foreign namespace.
func inThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v", p)
			}
		}()
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
