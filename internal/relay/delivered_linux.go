package relay

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// delivered waits, after the other end has ended its direction, until ours has ended too
// and is acknowledged. It returns why that will not happen, or nil when ctx ends. What
// was written is in this kernel's buffers at first, up to megabytes of it, and nobody
// learns of a connection that fails after its socket was closed. Nor would a write meet
// the failure while standard input has nothing to send.
func delivered(ctx context.Context, conn net.Conn) error {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	for rest := time.Millisecond; ; rest = min(2*rest, 100*time.Millisecond) {
		var ended bool
		var failed error
		if err := raw.Control(func(fd uintptr) { ended, failed = doneWith(int(fd)) }); err != nil {
			return err
		}
		if ended || failed != nil {
			return failed
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rest):
		}
	}
}

// doneWith reports whether the kernel is done with a TCP connection, and what made it
// fail. The state becomes TCP_CLOSE once the ends of both directions are acknowledged
// (tcp_time_wait and tcp_rcv_state_process in net/ipv4), and after an error (tcp_reset,
// tcp_write_err).
func doneWith(fd int) (ended bool, failed error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return false, err
	}
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = syscall.Errno(n)
	}
	return info.State == unix.BPF_TCP_CLOSE, err
}
