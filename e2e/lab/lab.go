//go:build linux

// Package lab makes a small network of hosts on one machine, for the demo, the
// whole-system tests and the benchmark: each host is a network namespace with a
// mount namespace of its own, so that real programs meet over real links while
// the machine's own firewall, interfaces, logs and sshd stay as they are. It
// needs root. It makes no judgement: what is seen is for its users to judge.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Lab is a set of hosts, processes and files that go away together. Its methods
// may be called by several goroutines.
type Lab struct {
	Dir string // scratch directory, gone after Close

	mu     sync.Mutex // guards what follows
	hosts  []*Host
	closes []func()
	links  int
	// How many sockets were made for daemons to say that they are ready.
	notified int
}

// New makes an empty lab. Close it also when the work was interrupted.
func New() (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root: run this with sudo")
	}
	dir, err := os.MkdirTemp("", "doorward-lab-")
	if err != nil {
		return nil, err
	}
	return &Lab{Dir: dir}, os.Chmod(dir, 0o755)
}

// Close ends every process on the lab's hosts, the hosts, and the files.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.hosts {
		h.killAll()
	}
	for _, f := range l.closes {
		f()
	}
	for _, h := range l.hosts {
		h.hold.Close() // cat ends, and with it the namespaces
		h.holder.Wait()
	}
	l.hosts, l.closes = nil, nil
	return os.RemoveAll(l.Dir)
}

// Host is one machine of the lab.
type Host struct {
	Name   string
	lab    *Lab
	holder *exec.Cmd // a cat that keeps the namespaces until hold is closed
	hold   interface{ Close() error }
}

// Host adds a host, with loopback up and no link yet.
func (l *Lab) Host(name string) (*Host, error) {
	cat := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "--", "cat")
	cat.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the lab's owner
	pipe, err := cat.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cat.Start(); err != nil {
		return nil, fmt.Errorf("make host %q: %w", name, err)
	}
	h := &Host{Name: name, lab: l, holder: cat, hold: pipe}
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	// The namespaces are there once unshare has become cat.
	err = Until(context.Background(), 5*time.Second, "namespaces of "+name, func() error {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cat.Process.Pid))
		if err == nil && strings.TrimSpace(string(comm)) != "cat" {
			err = errors.New("not yet")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	_, err = h.Run(context.Background(), "ip", "link", "set", "lo", "up")
	return h, err
}

// Network is the file that stands for the host's network, as long as the lab
// lives.
func (h *Host) Network() string { return fmt.Sprintf("/proc/%d/ns/net", h.holder.Process.Pid) }

// Link joins two hosts with a cable. Addresses are in CIDR form; IPv6 ones are
// usable at once.
func (l *Lab) Link(a *Host, addrsA []string, b *Host, addrsB []string) error {
	_, err := l.link(a, addrsA, b, addrsB)
	return err
}

// link is Link, and returns what the cable's ends are called.
func (l *Lab) link(a *Host, addrsA []string, b *Host, addrsB []string) (name string, err error) {
	l.mu.Lock()
	l.links++
	name = "eth" + strconv.Itoa(l.links)
	l.mu.Unlock()
	_, err = a.Run(context.Background(), "ip", "link", "add", name, "type", "veth",
		"peer", "name", name, "netns", strconv.Itoa(b.holder.Process.Pid))
	if err != nil {
		return "", err
	}
	if err := a.up(name, addrsA); err != nil {
		return "", err
	}
	return name, b.up(name, addrsB)
}

// Switch joins hosts on one network, as a switch does. Each host comes with its
// addresses.
func (l *Lab) Switch(members map[*Host][]string) error {
	sw, err := l.Bridge("switch")
	if err != nil {
		return err
	}
	for h, addrs := range members {
		if _, err := sw.Plug(h, addrs); err != nil {
			return err
		}
	}
	return nil
}

// Bridge adds a host that is a switch with its interface br0: what the others send one
// another passes through it.
func (l *Lab) Bridge(name string, addrs ...string) (*Host, error) {
	h, err := l.Host(name)
	if err != nil {
		return nil, err
	}
	if _, err := h.Run(context.Background(), "ip", "link", "add", "br0", "type", "bridge"); err != nil {
		return nil, err
	}
	return h, h.up("br0", addrs)
}

// Plug joins a host with its addresses to the switch h, and returns the interface of h that
// it is behind.
func (h *Host) Plug(other *Host, addrs []string) (port string, err error) {
	if port, err = h.lab.link(other, addrs, h, nil); err != nil {
		return "", err
	}
	_, err = h.Run(context.Background(), "ip", "link", "set", port, "master", "br0")
	return port, err
}

// up gives an interface its addresses and brings it up.
func (h *Host) up(ifname string, addrs []string) error {
	ctx := context.Background()
	for _, addr := range addrs {
		args := []string{"addr", "add", addr, "dev", ifname}
		if strings.Contains(addr, ":") {
			args = append(args, "nodad")
		}
		if _, err := h.Run(ctx, "ip", args...); err != nil {
			return err
		}
	}
	_, err := h.Run(ctx, "ip", "link", "set", ifname, "up")
	return err
}

// Command is exec.CommandContext on the host. nsenter replaces itself, so the
// process's id is the program's. A Ctrl-C on the terminal does not reach it.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	pid := strconv.Itoa(h.holder.Process.Pid)
	cmd := exec.CommandContext(ctx, "nsenter",
		append([]string{"-t", pid, "--net", "--mount", "--wd=" + h.lab.Dir, "--", name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Run runs a program on the host and returns what it printed, on both outputs.
// The error of a program that fails has its output in it.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := h.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %s %s: %w: %s", h.Name, name, strings.Join(args, " "), err,
			strings.TrimSpace(string(out)))
	}
	return string(out), err
}

// Do runs f on a thread inside the host's network. Sockets that f opens stay
// there; goroutines that f starts do not run there.
func (h *Host) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		net, err := os.Open(h.Network())
		if err != nil {
			done <- err
			return
		}
		defer net.Close()
		if err := unix.Setns(int(net.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network of %s: %w", h.Name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// pids are the processes in the host's network, without the holder.
func (h *Host) pids() []int {
	netOf := func(pid int) string {
		ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		return ns
	}
	own := netOf(h.holder.Process.Pid)
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		if own != "" && pid != h.holder.Process.Pid && pid != os.Getpid() && netOf(pid) == own {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killAll ends the host's processes; a few rounds, because they may fork.
func (h *Host) killAll() {
	for range 10 {
		pids := h.pids()
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// onClose has f called when the lab ends, after the hosts' processes have.
func (l *Lab) onClose(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closes = append(l.closes, f)
}

// Until calls f, again and again, until it returns nil. When the time is up it
// returns f's last error, with what was waited for.
func Until(ctx context.Context, limit time.Duration, what string, f func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s: %w", what, limit, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
