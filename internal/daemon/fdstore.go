//go:build linux

package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/listen"
)

// firstInherited is SD_LISTEN_FDS_START of sd_listen_fds(3).
const firstInherited = 3

// listener makes the listener for knocks, with the listening sockets that systemd has
// kept from an earlier daemon. Systemd then keeps those of the new listener.
func (d *Daemon) listener(heard func([]knock.Heard)) *listen.Listener {
	kept := inherited(os.Getpid(), os.Getenv)
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		os.Unsetenv(name) // they are not for programs that the daemon starts
	}
	if _, err := os.Lstat("/run/systemd/system"); err != nil || os.Getenv("NOTIFY_SOCKET") == "" { // sd_booted(3)
		return listen.New(d.Log, nil, heard)
	}
	l := listen.New(d.Log, fdStore{}, heard)
	for i, name := range kept {
		fd := firstInherited + i
		p, err := l.Inherit(fd)
		if err == nil {
			d.Log.Debug("inherited a listener", "port", p)
			continue
		}
		d.Log.Warn("systemd kept a descriptor that is not a listener; closing it", "name", name, "err", err)
		if err := errors.Join(unix.Close(fd), forget(name)); err != nil {
			d.Log.Warn("cannot close it", "name", name, "err", err)
		}
	}
	return l
}

// inherited returns the names of the descriptors that systemd passes, which begin at
// firstInherited, as sd_listen_fds_with_names(3) does.
func inherited(pid int, getenv func(string) string) []string {
	if getenv("LISTEN_PID") != strconv.Itoa(pid) {
		return nil
	}
	n, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || n < 1 {
		return nil
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || uint64(n) > limit.Cur {
		return nil // so many cannot be open
	}
	names := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	all := make([]string, n)
	for i := range all {
		if i < len(names) {
			all[i] = names[i]
		}
		all[i] = cmp.Or(all[i], "unknown")
	}
	return all
}

// fdStore is systemd's file descriptor store, FileDescriptorStoreMax= in
// systemd.service(5). The next daemon inherits what is in it, however this one ends.
type fdStore struct{}

func nameOf(p uint16) string { return fmt.Sprintf("listener-%d", p) }

// Keep gives systemd a copy of a listening socket. A listener that is closed for a while
// looks hung up to systemd, which must not remove it for that: hence FDPOLL=0.
func (fdStore) Keep(p uint16, fd int) error {
	return notifyWith("FDSTORE=1\nFDPOLL=0\nFDNAME="+nameOf(p), unix.UnixRights(fd))
}

// Drop removes the socket of a port from the store.
func (fdStore) Drop(p uint16) error { return forget(nameOf(p)) }

func forget(name string) error { return notifyWith("FDSTOREREMOVE=1\nFDNAME="+name, nil) }

// notifyTimeout is how long notifyWith waits until there is room for the message in
// systemd's socket. The gateway's turn waits meanwhile.
const notifyTimeout = time.Second

// notifyWith is sd_pid_notify_with_fds(3), which go-systemd does not have.
func notifyWith(state string, rights []byte) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("notify systemd: make a socket: %w", err)
	}
	defer unix.Close(fd)
	patience := unix.NsecToTimeval(notifyTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
		return fmt.Errorf("notify systemd: limit the time: %w", err)
	}
	at := &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}
	for {
		err := unix.Sendmsg(fd, []byte(state), rights, at, unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("notify systemd at %q: %w", at.Name, err)
		}
		return nil
	}
}
