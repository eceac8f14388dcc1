//go:build linux

// Package launcher runs doors' commands for a sandboxed daemon. What a sandboxed process
// starts is sandboxed too, and an sshd in the daemon's sandbox lets nobody in. So a
// second process, which strangers never talk to, is started before the daemon is
// sandboxed. It starts and stops what the configuration says, and nothing else: whoever
// has taken over the daemon cannot make it run another program or signal another
// process.
//
// The two share a socket, unix(7). For each call, the daemon makes a pair of sockets
// and sends one of them with the request. Replies come back on the other, and closing
// that ends the call. So calls are independent of each other, and the launcher ends when
// the daemon does, however that ends.
package launcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/service"
)

// Spec is a door's service that consists of commands; see service.NewCommand.
type Spec struct {
	Door                string
	Start, Stop, Status []string
}

// key is the same for equal specs, and for no others.
func (s Spec) key() string {
	text, err := json.Marshal(s)
	if err != nil {
		panic("launcher: internal error: " + err.Error()) // strings can always be written
	}
	return string(text)
}

// hello is the daemon's first message, which it sends before it is sandboxed.
type hello struct {
	Dir   string // directory of the pid files, the lock and the record
	Specs []Spec // those in use
}

// The calls are service.Command's methods.
const (
	callStart  = "start"
	callStop   = "stop"
	callStatus = "status"
	callWatch  = "watch"
)

// request is one call.
type request struct {
	Call    string
	Spec    Spec
	Timeout time.Duration // from now on, 0 for none
}

// reply is an answer. A watch has many, any other call has one.
type reply struct {
	Status service.Status
	Err    string // "" for none
}

// maxMessage is the greatest length of a message in bytes. It is enough for argument
// lists of reasonable length, and for the last lines that a service printed.
const maxMessage = 64 << 10

// pair makes two connected sockets that preserve the boundaries of messages. The first
// is for this process, the second for another one.
func pair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	other := os.NewFile(uintptr(fds[1]), "launcher")
	own, err := connOf(os.NewFile(uintptr(fds[0]), "daemon"))
	if err != nil {
		other.Close()
		return nil, nil, err
	}
	return own, other, nil
}

// connOf turns a socket's descriptor, which it closes, into a connection.
func connOf(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("use a socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("descriptor is a %T: want a unix socket", c)
	}
	return u, nil
}

// send sends a message, with a descriptor if there is one.
func send(c *net.UnixConn, message any, with *os.File) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(text) > maxMessage {
		return fmt.Errorf("a message of %d bytes: allowed are %d; are the command's arguments that long?", len(text), maxMessage)
	}
	var rights []byte
	if with != nil {
		rights = unix.UnixRights(int(with.Fd()))
	}
	_, _, err = c.WriteMsgUnix(text, rights, nil)
	return err
}

// errEnded means that the other end has been closed.
var errEnded = errors.New("the other process has ended")

// receive receives one message, and the descriptor that came with it, if any. The error
// is errEnded when there are no more messages.
func receive(c *net.UnixConn, message any) (*os.File, error) {
	text, rights := make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(4))
	n, nrights, _, _, err := c.ReadMsgUnix(text, rights)
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		return nil, errEnded
	}
	if err != nil {
		return nil, err
	}
	with, err := descriptor(rights[:nrights])
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text[:n], message); err != nil {
		if with != nil {
			with.Close()
		}
		return nil, fmt.Errorf("message %.60q: %w", text[:n], err)
	}
	return with, nil
}

// descriptor returns the one descriptor in a control message, or nil if there is none.
// If there are more, it closes all of them: a daemon that was taken over may send
// anything.
func descriptor(rights []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			all = append(all, fds...)
		}
	}
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return os.NewFile(uintptr(all[0]), "call"), nil
	}
	for _, fd := range all {
		unix.Close(fd)
	}
	return nil, fmt.Errorf("a message came with %d descriptors: want one at most", len(all))
}
