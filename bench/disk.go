//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A slow disk is made of a seccomp filter (seccomp_unotify(2)): each sync of the daemon
// waits until this program lets it go on. strace could delay syncs, too, but a tracer
// stops the traced program for every signal as well, and Go's runtime stops its threads
// by signals: the pauses that were seen would be the tracer's.

// withSlowSyncs is the first argument of this program when another is to be run with
// slow syncs, after a socket's path and in place of this.
const withSlowSyncs = "with-slow-syncs"

// slowSyncs is what a program runs under whose syncs take so long, until the bench ends.
func (b *bench) slowSyncs(delay time.Duration) ([]string, error) {
	path := b.Path(fmt.Sprintf("syncs-%d", time.Now().UnixNano()))
	return underSyncs(path, func(goOn func()) { time.AfterFunc(delay, goOn) })
}

// underSyncs is what a program runs under each of whose syncs is handed to each and waits
// until that calls goOn. The two meet at a socket that is made at the path.
func underSyncs(path string, each func(goOn func())) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	go func() { // ends with the program that runs under it
		defer l.Close()
		c, err := l.AcceptUnix()
		if err == nil {
			err = hearSyncs(c, each)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: error: syncs are no longer slow:", err)
		}
	}()
	return []string{self, withSlowSyncs, path}, nil
}

// execSlowSyncs puts program in place of this one, its syncs delayed by whoever listens at
// the path. It returns only with an error.
func execSlowSyncs(path, program string, args []string) error {
	runtime.LockOSThread() // which has the filter, and the program in the end
	fd, err := filterSyncs()
	if err != nil {
		return fmt.Errorf("have syncs reported: %w", err)
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	if _, _, err := c.WriteMsgUnix([]byte{0}, unix.UnixRights(fd), nil); err != nil {
		return err
	}
	return unix.Exec(program, append([]string{program}, args...), os.Environ())
}

// filterSyncs has the calling thread's syncs reported to the descriptor that it returns.
func filterSyncs() (fd int, err error) {
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4}, // the call's number
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_FSYNC, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_FDATASYNC, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
		bpf.RetConstant{Val: unix.SECCOMP_RET_USER_NOTIF},
	})
	if err != nil {
		return -1, err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	n, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

// notification and answer are struct seccomp_notif and seccomp_notif_resp.
type notification struct {
	id         uint64
	pid, flags uint32
	data       [64]byte
}

type answer struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

// hearSyncs hands each sync that is reported to the descriptor that comes over c to each,
// until there can be no more.
func hearSyncs(c *net.UnixConn, each func(goOn func())) error {
	defer c.Close()
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.ReadMsgUnix(make([]byte, 1), rights)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("no descriptor came: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	fd := fds[0]
	for {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(polled, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return err
		}
		if polled[0].Revents&unix.POLLIN == 0 {
			return nil // nobody has the filter any more
		}
		var sync notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&sync))); errno != 0 {
			continue // it was given up meanwhile
		}
		each(func() {
			goOn := answer{id: sync.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&goOn))) // or it was given up
		})
	}
}
