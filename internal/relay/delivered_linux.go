package relay

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// delivered waits, after the other end's last word, until ours is acknowledged, and
// returns why it is not going to be, or nil when ctx ends. What is sent is in this
// kernel at first, up to megabytes of it, and once the socket is closed nobody is
// told of a connection that fails then; nor is a write under way that would meet it
// while standard input says nothing.
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

// doneWith says whether the kernel is done with a TCP connection, and what made it
// fail. It goes to TCP_CLOSE when both ends are acknowledged (tcp_time_wait and
// tcp_rcv_state_process in net/ipv4), and with an error (tcp_reset, tcp_write_err).
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
