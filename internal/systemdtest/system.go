//go:build linux

package systemdtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// System is a booted system. It runs until Close. Its methods may be called by
// several goroutines.
type System struct {
	Name    string // its host name
	PID     int    // of its systemd, in this machine's PID namespace
	console string // file with the console's output
	cmd     *exec.Cmd
	done    chan struct{} // closed when cmd, systemd-nspawn, has ended
	groups  []string      // its cgroups
	lock    *os.File      // on the tree that it runs from
}

// Options say where a system is booted.
type Options struct {
	Suite   string // one of Suites or Managed, "" for the first of those
	Network string // file that stands for its network namespace
	Console string // file to create for what it writes to its console
	// Binds are paths of this machine that the system sees too, read-only, as
	// "PATH" or "PATH:PATH-INSIDE".
	Binds []string
	Logf  func(format string, args ...any) // is called before something that takes long
}

const (
	bootLimit = 60 * time.Second
	// haltLimit is how long a machine may take to end after each signal.
	haltLimit = 10 * time.Second
	// look is the pause between checks of a state that nothing announces.
	look = 20 * time.Millisecond
)

var serial atomic.Int32

// Start boots a system and returns when it is up. Before that, it removes what is left
// of systems whose process was killed.
func Start(ctx context.Context, o Options) (*System, error) {
	root, lock, err := rootfs(ctx, cmp.Or(o.Suite, Suites[0]), o.Logf)
	if err != nil {
		return nil, err
	}
	s := &System{Name: fmt.Sprintf("%s%d-%d", namePrefix, os.Getpid(), serial.Add(1)), console: o.Console, lock: lock,
		done: make(chan struct{})}
	if err := s.start(root, o); err != nil {
		return nil, errors.Join(fmt.Errorf("boot: %w", err), s.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := s.await(ctx); err != nil {
		s.cmd.Process.Kill() // a system that has not booted cannot shut down
		return nil, errors.Join(fmt.Errorf("boot: %w\n%s", err, s.Console()), s.Close())
	}
	return s, nil
}

// start starts the container in a cgroup of its own: two containers in the same cgroup
// would share the cgroups of their units, and end each other's processes.
func (s *System) start(root string, o Options) (err error) {
	if err := removeGroups(leftGroups()); err != nil {
		return err
	}
	if s.groups, err = makeGroups(s.Name); err != nil {
		return err
	}
	out, err := os.Create(s.console)
	if err != nil {
		return err
	}
	defer out.Close()
	nspawn := []string{"systemd-nspawn", "--quiet", "--boot", "--machine=" + s.Name, "--directory=" + root,
		"--read-only", "--volatile=overlay", // several systems share the tree; each keeps what it writes in memory
		"--register=no", "--keep-unit", "--console=pipe", "--network-namespace-path=" + o.Network,
		"--capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON",
		// Landlock is not on systemd-nspawn's list of allowed system calls, though it is harmless.
		"--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
		"--resolv-conf=off", "--timezone=off"}
	for _, b := range o.Binds {
		nspawn = append(nspawn, "--bind-ro="+b)
	}
	// The shell only moves itself into the cgroups and becomes systemd-nspawn.
	script := `while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"`
	args := append([]string{"-c", script, "sh"}, s.groups...)
	s.cmd = exec.Command("sh", append(append(args, "--"), nspawn...)...)
	s.cmd.Stdout, s.cmd.Stderr = out, out
	// If this process is killed, so is systemd-nspawn, and the next boot by any
	// process ends the machine. The signal is sent when the thread that started
	// systemd-nspawn ends, prctl(2), so a thread is kept for that.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() { // ends with systemd-nspawn, which Close ends
		defer close(s.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			s.cmd.Wait()
		}
	}()
	return <-started
}

// await waits until the machine has booted.
func (s *System) await(ctx context.Context) error {
	for {
		if s.PID == 0 {
			s.PID = s.leader()
		}
		state := "no systemd yet"
		if s.PID != 0 {
			out, err := s.Command(ctx, "systemctl", "is-system-running").CombinedOutput()
			if state = strings.TrimSpace(string(out)); err == nil {
				return nil
			}
			if state == "degraded" {
				failed, _ := s.Command(ctx, "systemctl", "--failed", "--no-pager").CombinedOutput()
				return fmt.Errorf("units failed:\n%s", failed)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not up in time, last seen %q: %w", state, ctx.Err())
		case <-s.done:
			return fmt.Errorf("systemd-nspawn ended: %v", s.cmd.ProcessState)
		case <-time.After(look):
		}
	}
}

// leader returns the pid of the container's systemd, or 0 while there is none.
func (s *System) leader() int { return childWith(s.cmd.Process.Pid, 1) }

// ServicePID returns this machine's pid of a process that the system's systemd has
// started and that has the pid inside in the system, or 0 if there is none.
func (s *System) ServicePID(inside int) int { return childWith(s.PID, inside) }

// childWith returns the pid of the child of parent that has the pid inside in its own
// PID namespace, or 0 if there is none.
func childWith(parent, inside int) int {
	pid := strconv.Itoa(parent)
	raw, _ := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	for _, child := range strings.Fields(string(raw)) {
		status, _ := os.ReadFile("/proc/" + child + "/status")
		if strings.Contains(string(status), fmt.Sprintf("\nNSpid:\t%s\t%d\n", child, inside)) {
			n, _ := strconv.Atoi(child)
			return n
		}
	}
	return 0
}

// Close shuts the system down, by force if it must, and removes what was made for it.
func (s *System) Close() error {
	err := s.halt()
	err = errors.Join(err, removeGroups(s.groups))
	return errors.Join(err, s.lock.Close())
}

func (s *System) halt() error {
	if s.cmd == nil || s.cmd.Process == nil {
		return nil // it was never started
	}
	// systemd-nspawn(1): SIGTERM asks for an orderly shutdown, a second one does not.
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-s.done:
			return nil
		default:
		}
		s.cmd.Process.Signal(sig)
		select {
		case <-s.done:
			return nil
		case <-time.After(haltLimit):
		}
	}
	return fmt.Errorf("%s (process %d) cannot be ended", s.Name, s.cmd.Process.Pid)
}

// Command is exec.CommandContext inside the machine, as root. The process that
// it starts is nsenter; the program is nsenter's child and ends when nsenter is
// killed.
func (s *System) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target=" + strconv.Itoa(s.PID), "--all", "--",
		"setpriv", "--pdeathsig=KILL", "--", name}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	cmd.WaitDelay = haltLimit
	return cmd
}

// Run runs a program in the system and returns what it printed, on both outputs.
// If the program fails, the error contains its output.
func (s *System) Run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := s.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), err
}

// Path returns this machine's path of a file in the system.
func (s *System) Path(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(s.PID), "root", inside)
}

// Write writes a file in the system, and makes its directory.
func (s *System) Write(inside, content string, mode os.FileMode) error {
	path := s.Path(inside)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		return err
	}
	return unix.Chmod(path, uint32(mode.Perm())) // whatever the umask is
}

// Console returns what the system has written to its console so far.
func (s *System) Console() string {
	raw, err := os.ReadFile(s.console)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
