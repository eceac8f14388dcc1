//go:build linux

// Package journal writes entries to the systemd journal in its own protocol
// (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram for each entry, with a line for each
// field. It does not read the journal.
//
// github.com/coreos/go-systemd/v22/journal opens its socket when the first entry is
// sent, waits for a journal that does not read, and makes a file for what is too
// long. A daemon in its sandbox cannot do that, and must not wait.
package journal

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/legible"
)

// Socket is where the journal accepts entries.
const Socket = "/run/systemd/journal/socket"

// Prefix is what the names of doorward's own fields begin with.
const Prefix = "DOORWARD_"

// mostValue is how many bytes of a value are sent. A longer one is cut and ends in "…".
const mostValue = 8 << 10

// Entry is one entry of the journal, ready to be sent. The zero value is empty.
type Entry struct{ text []byte }

// Add adds a field. What cannot be in a field's name becomes "_", and what does not
// print in its value becomes U+FFFD: strangers can influence some values, and one with
// a line feed would be read as several fields.
func (e *Entry) Add(name, value string) {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, name)
	e.text = fmt.Appendf(e.text, "%s=%s\n", name, legible.Clip(legible.Text(value), mostValue))
}

// Bytes returns the entry as a datagram. It is valid until the next Add.
func (e *Entry) Bytes() []byte { return e.text }

// Priority returns the priority of syslog(3) for a level.
func Priority(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= slog.LevelInfo:
		return 6
	}
	return 7
}

// Conn sends entries. Its methods may be called from any goroutine.
type Conn struct {
	conn *net.UnixConn
	to   unix.SockaddrUnix
}

// Dial makes the socket for entries to a path, which is Socket except in tests. Nobody
// needs to listen there yet, and the journal may be restarted: the path is looked up for
// each entry. The caller closes the Conn, or keeps it until the process ends.
func Dial(path string) (*Conn, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	return &Conn{conn, unix.SockaddrUnix{Name: path}}, nil
}

// Send sends an entry and does not wait: the error is EAGAIN if the journal does not
// keep up, EMSGSIZE if the entry is too long, and ENOENT or ECONNREFUSED if there is no
// journal.
func (c *Conn) Send(e *Entry) error {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = unix.Sendto(int(fd), e.text, 0, &c.to) }) // Go's sockets do not block
	if err != nil {
		return err
	}
	return os.NewSyscallError("sendto", sent)
}

// Close closes the socket.
func (c *Conn) Close() error { return c.conn.Close() }
