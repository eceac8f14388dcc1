//go:build linux

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/control"
)

// Path is a file's path in the scratch directory.
func (l *Lab) Path(name string) string { return filepath.Join(l.Dir, name) }

// Write writes a file of the scratch directory and returns its path.
func (l *Lab) Write(name, text string) (string, error) {
	return l.Path(name), os.WriteFile(l.Path(name), []byte(text), 0o600)
}

// Isolate gives the host /run, /var/log and /dev of its own, and a root with an
// empty home, so that a service on it leaves nothing on the machine: no login in
// its wtmp, no line in its journal, nothing done by root's shell start-up files.
// What the host's programs send to syslog goes into the returned file,
// in the form that a syslog daemon writes; logs of other facilities than auth
// and authpriv are left out.
func (h *Host) Isolate() (authLog string, err error) {
	ctx := context.Background()
	dev := h.lab.Path(h.Name + "-dev")
	if err := os.Mkdir(dev, 0o755); err != nil {
		return "", err
	}
	mounts := [][]string{
		{"-t", "tmpfs", "tmpfs", "/run"},
		{"-t", "tmpfs", "tmpfs", "/var/log"},
		{"-t", "tmpfs", "tmpfs", dev},
	}
	for _, args := range mounts {
		if _, err := h.Run(ctx, "mount", args...); err != nil {
			return "", err
		}
	}
	if _, err := h.Run(ctx, "mkdir", "-m", "755", "/run/sshd", dev+"/pts", dev+"/shm"); err != nil {
		return "", err
	}
	for _, node := range []string{"null", "zero", "full", "random", "urandom", "tty", "ptmx"} {
		if _, err := h.Run(ctx, "touch", dev+"/"+node); err != nil {
			return "", err
		}
		if _, err := h.Run(ctx, "mount", "--bind", "/dev/"+node, dev+"/"+node); err != nil {
			return "", err
		}
	}
	socket := h.lab.Path(h.Name + "-syslog")
	authLog = h.lab.Path(h.Name + "-auth.log")
	if err := h.Syslog(socket, authLog); err != nil {
		return "", err
	}
	if _, err := h.Run(ctx, "ln", "-s", socket, dev+"/log"); err != nil {
		return "", err
	}
	if _, err := h.Run(ctx, "mount", "--bind", "/dev/pts", dev+"/pts"); err != nil {
		return "", err
	}
	if _, err := h.Run(ctx, "mount", "--rbind", dev, "/dev"); err != nil {
		return "", err
	}
	return authLog, h.ownRoot(ctx)
}

// OwnEtc gives an isolated host an /etc of its own, a copy in memory of what it had, so
// that what is configured on it is so nowhere else.
func (h *Host) OwnEtc() error {
	etc := h.lab.Path(h.Name + "-etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", etc},
		{"cp", "-a", "/etc/.", etc},
		{"mount", "--bind", etc, "/etc"},
	} {
		if _, err := h.Run(context.Background(), argv[0], argv[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// ownRoot gives the host a user root with an empty home, a plain shell and, as
// sshd without PAM asks for, a password that is impossible but not locked. The
// machine's other users stay.
func (h *Host) ownRoot(ctx context.Context) error {
	home := h.lab.Path(h.Name + "-root")
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	for _, file := range []struct{ name, root string }{
		{"passwd", "root:x:0:0:root:" + home + ":/bin/sh"},
		{"shadow", "root:*:20000:0:99999:7:::"},
	} {
		text, err := os.ReadFile("/etc/" + file.name)
		if err != nil {
			return err
		}
		lines := strings.Split(string(text), "\n")
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "root:") })
		own, err := h.lab.Write(h.Name+"-"+file.name, file.root+"\n"+strings.Join(lines, "\n"))
		if err != nil {
			return err
		}
		if file.name == "passwd" {
			if err := os.Chmod(own, 0o644); err != nil {
				return err
			}
		}
		if _, err := h.Run(ctx, "mount", "--bind", own, "/etc/"+file.name); err != nil {
			return err
		}
	}
	return nil
}

// Syslog is a small syslog daemon: it listens on socket until the lab ends, and
// writes what is of auth and authpriv to the file authLog.
func (h *Host) Syslog(socket, authLog string) error {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o666); err != nil {
		return err
	}
	log, err := os.OpenFile(authLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "%s %s syslogd: started\n", time.Now().Format(time.Stamp), h.Name)
	done := make(chan struct{})
	h.lab.onClose(func() { conn.Close(); <-done })
	go func() { // ends when conn is closed
		defer close(done)
		defer log.Close()
		b := make([]byte, 8192)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			if line, ok := syslogLine(b[:n], h.Name); ok {
				fmt.Fprintln(log, line)
			}
		}
	}()
	return nil
}

// message is what syslog(3) sends: "<38>Nov 24 06:10:00 sshd[7]: text".
var message = regexp.MustCompile(`^<(\d+)>([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d) (.*?)[\x00\n]*$`)

// syslogLine is the line that a syslog daemon writes for a message of the
// facilities auth (4) and authpriv (10).
func syslogLine(b []byte, host string) (string, bool) {
	m := message.FindSubmatch(b)
	if m == nil {
		return "", false
	}
	priority, _ := strconv.Atoi(string(m[1]))
	facility := priority / 8
	return fmt.Sprintf("%s %s %s", m[2], host, m[3]), facility == 4 || facility == 10
}

// SSH is what a real sshd and the visitors of it need.
type SSH struct {
	Program string // path of sshd
	Config  string // for sshd -f
	client  []string
}

// SSH makes host and user keys and the configuration of an sshd on the
// given port. Root logs in by key, the one way in.
func (l *Lab) SSH(port int) (*SSH, error) {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		return nil, err
	}
	for _, key := range []string{"host_key", "user_key"} {
		out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", l.Path(key)).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
	}
	hostKey, err := os.ReadFile(l.Path("host_key.pub"))
	if err != nil {
		return nil, err
	}
	known, err := l.Write("known_hosts", "* "+string(hostKey))
	if err != nil {
		return nil, err
	}
	config, err := l.Write("sshd_config", strings.Join([]string{
		"Port " + strconv.Itoa(port),
		"HostKey " + l.Path("host_key"),
		"AuthorizedKeysFile " + l.Path("user_key.pub"),
		"PidFile none",
		"PermitRootLogin prohibit-password",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"StrictModes no", // the keys are in a scratch directory
		"UsePAM no",      // the machine's PAM may forbid, log and mount
		"PermitUserRC no",
		"UseDNS no",
		"SyslogFacility AUTH",
	}, "\n")+"\n")
	return &SSH{sshd, config, []string{"-F", "none", "-T", "-p", strconv.Itoa(port), "-i", l.Path("user_key"),
		"-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "LogLevel=ERROR",
		"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + known}}, err
}

// Client is the arguments of an ssh that logs in at address and runs command.
// It gives up connecting after the given number of seconds.
func (s *SSH) Client(address string, seconds int, command ...string) []string {
	args := append([]string{}, s.client...)
	args = append(args, "-o", "ConnectTimeout="+strconv.Itoa(seconds), "root@"+address)
	return append(args, command...)
}

// Doorward is a daemon on a host and the operator's command for it.
type Doorward struct {
	*Process
	host    *Host
	bin     string // directory of the two programs
	control string // path of the socket
}

// Doorward starts the daemon of the directory bin with a configuration file
// whose control socket is at socket, and waits until it says that it is ready,
// as it does to systemd. What stands in under is put before its command line: a
// program that runs it, in its place.
func (h *Host) Doorward(ctx context.Context, bin, config, socket string, under ...string) (*Doorward, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	notify, ready, err := h.lab.notifySocket()
	if err != nil {
		return nil, err
	}
	args := append([]string{"NOTIFY_SOCKET=" + notify}, under...)
	p, err := h.Start("env", append(args, filepath.Join(bin, "doorwardd"), "-c", config)...)
	if err != nil {
		return nil, err
	}
	select {
	case <-ready:
	case <-p.Ended():
		err = fmt.Errorf("doorwardd has ended: %v: %s", p.err, tail(p.Output()))
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(20 * time.Second):
		err = fmt.Errorf("doorwardd is not ready within 20 s: %s", tail(p.Output()))
	}
	return &Doorward{p, h, bin, socket}, err
}

// notifySocket is systemd's end of sd_notify(3) until the lab ends. ready is
// closed at READY=1.
func (l *Lab) notifySocket() (path string, ready <-chan struct{}, err error) {
	l.mu.Lock()
	l.notified++
	path = l.Path("notify-" + strconv.Itoa(l.notified))
	l.mu.Unlock()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return "", nil, err
	}
	l.onClose(func() { conn.Close() })
	seen := make(chan struct{})
	go func() { // ends when conn is closed
		b, once := make([]byte, 4096), sync.Once{}
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			if slices.Contains(strings.Split(string(b[:n]), "\n"), "READY=1") {
				once.Do(func() { close(seen) })
			}
		}
	}()
	return path, seen, nil
}

// Program is the path of one of the two programs.
func (d *Doorward) Program(name string) string { return filepath.Join(d.bin, name) }

// Status is what `doorward status --json` prints.
func (d *Doorward) Status(ctx context.Context) (*control.Status, error) {
	out, err := d.Operator(ctx, "status", "--json")
	if err != nil {
		return nil, err
	}
	var s control.Status
	return &s, json.Unmarshal([]byte(out), &s)
}

// Door is one door of Status.
func (d *Doorward) Door(ctx context.Context, name string) (*control.Door, error) {
	s, err := d.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, door := range s.Doors {
		if door.Name == name {
			return &door, nil
		}
	}
	return nil, fmt.Errorf("status has no door %q", name)
}

// WaitState waits until a door is in a state.
func (d *Doorward) WaitState(ctx context.Context, door, state string, limit time.Duration) error {
	return Until(ctx, limit, fmt.Sprintf("door %q %s", door, state), func() error {
		s, err := d.Door(ctx, door)
		if err == nil && s.State != state {
			err = fmt.Errorf("it is %s: %s", s.State, s.Reason)
		}
		return err
	})
}

// Operator runs an operator's command against the daemon and returns its
// standard output. The error of one that fails is what it said.
func (d *Doorward) Operator(ctx context.Context, args ...string) (string, error) {
	cmd := d.host.Command(ctx, d.Program("doorward"),
		append([]string{"--control", d.control}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("doorward %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), err
}
