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

// listener makes the ear of the knocks, with the listening sockets that systemd has
// kept from an earlier daemon, and has it keep the new one's.
func (d *Daemon) listener(heard func([]knock.Heard)) *listen.Listener {
	kept := inherited(os.Getpid(), os.Getenv)
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		os.Unsetenv(name) // they are nobody else's
	}
	if _, err := os.Lstat("/run/systemd/system"); err != nil || os.Getenv("NOTIFY_SOCKET") == "" { // sd_booted(3)
		return listen.New(d.Log, nil, heard)
	}
	ear := listen.New(d.Log, fdStore{}, heard)
	for i, name := range kept {
		fd := firstInherited + i
		p, err := ear.Inherit(fd)
		if err == nil {
			d.Log.Debug("inherited a listener", "port", p)
			continue
		}
		d.Log.Warn("systemd kept a descriptor that is not a listener; closing it", "name", name, "err", err)
		if err := errors.Join(unix.Close(fd), forget(name)); err != nil {
			d.Log.Warn("cannot close it", "name", name, "err", err)
		}
	}
	return ear
}

// inherited are the names of the descriptors that systemd hands over, from
// firstInherited on, as sd_listen_fds_with_names(3) has them.
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
		return nil // it cannot have been handed over
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

// fdStore is systemd's store of descriptors, FileDescriptorStoreMax= in
// systemd.service(5): what it has, the next daemon inherits, however this one
// ends.
type fdStore struct{}

func nameOf(p uint16) string { return fmt.Sprintf("listener-%d", p) }

// Keep hands systemd a copy of a listening socket. One that is shut for a while
// looks hung up to it, and must not be thrown away for that: hence FDPOLL=0.
func (fdStore) Keep(p uint16, fd int) error {
	return notifyWith("FDSTORE=1\nFDPOLL=0\nFDNAME="+nameOf(p), unix.UnixRights(fd))
}

// Drop takes the socket of a port back.
func (fdStore) Drop(p uint16) error { return forget(nameOf(p)) }

func forget(name string) error { return notifyWith("FDSTOREREMOVE=1\nFDNAME="+name, nil) }

// notifyTimeout is how long systemd may leave a message unread before it is not
// told: the gateway's turn waits for it.
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
