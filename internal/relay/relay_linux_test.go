package relay

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
)

// big returns more than the buffers of a connection and two pipes hold.
func big(seed byte) []byte {
	b := make([]byte, 6<<20)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// sum describes a text that is too long to be shown.
func sum(b []byte) string { return fmt.Sprintf("%d bytes, %x", len(b), sha256.Sum256(b)) }

// TestJoin has the server and the client on the standard streams end the two directions
// in every order. What was sent arrives completely, or Join's error says that it did not.
func TestJoin(t *testing.T) {
	nstest.Need(t, "ip", "nsenter")
	gate, visitor := nstest.Gate(t)
	l := gate.Listen("tcp", "192.0.2.1:22")
	// At this one the kernel buffers only a few kilobytes that nobody has read.
	var narrow net.Listener
	gate.Do(func() (err error) {
		narrow, err = (&net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		}}).Listen(t.Context(), "tcp", "192.0.2.1:23")
		return err
	})
	defer narrow.Close()
	ready := make(chan struct{}) // for the server to go on
	up, down := big(1), big(2)
	tests := []struct {
		name string
		// server has the gateway's end of the connection, and client that of the
		// standard streams, at the same time. They return what they received, and may
		// wait for each other.
		server func(*net.TCPConn) []byte
		client func(stdin io.WriteCloser, stdout io.Reader) []byte
		narrow bool
		up     []byte // what the server receives
		down   []byte // what standard output has
		err    string // its beginning, "" for none
	}{
		{
			name: "the server ends first, and reads on",
			server: func(c *net.TCPConn) []byte {
				c.Write([]byte("hello\n"))
				c.CloseWrite()
				b, _ := io.ReadAll(c)
				return b
			},
			client: func(stdin io.WriteCloser, stdout io.Reader) []byte {
				b, _ := io.ReadAll(stdout) // to its end, before anything is sent
				stdin.Write(up)
				stdin.Close()
				return b
			},
			up: up, down: []byte("hello\n"),
		},
		{
			name: "the visitor ends first, and reads on",
			server: func(c *net.TCPConn) []byte {
				b, _ := io.ReadAll(c)
				c.Write(down)
				c.CloseWrite()
				return b
			},
			client: func(stdin io.WriteCloser, stdout io.Reader) []byte {
				stdin.Write(up)
				stdin.Close()
				b, _ := io.ReadAll(stdout)
				return b
			},
			up: up, down: down,
		},
		{
			name: "both at once",
			server: func(c *net.TCPConn) []byte {
				go func() { c.Write(down); c.CloseWrite() }()
				b, _ := io.ReadAll(c)
				return b
			},
			client: func(stdin io.WriteCloser, stdout io.Reader) []byte {
				go func() { stdin.Write(up); stdin.Close() }()
				b, _ := io.ReadAll(stdout)
				return b
			},
			up: up, down: down,
		},
		{
			name: "the server resets in the midst of the upload",
			server: func(c *net.TCPConn) []byte {
				c.CloseWrite()
				io.CopyN(io.Discard, c, 1<<20)
				c.SetLinger(0)
				c.Close()
				return nil
			},
			client: func(stdin io.WriteCloser, stdout io.Reader) []byte {
				stdin.Write(up)
				stdin.Close()
				return nil
			},
			err: "send standard input to 192.0.2.1:22: ",
		},
		{
			name: "the server resets when all is sent and not all has come",
			server: func(c *net.TCPConn) []byte {
				c.CloseWrite()
				<-ready // until standard input has ended
				c.SetLinger(0)
				c.Close()
				return nil
			},
			client: func(stdin io.WriteCloser, stdout io.Reader) []byte {
				io.ReadAll(stdout)
				stdin.Write(up[:48<<10]) // less than a pipe holds
				stdin.Close()
				ready <- struct{}{}
				return nil
			},
			narrow: true, err: "send standard input to 192.0.2.1:23: ",
		},
		{
			name: "the server has gone when the last data is sent",
			server: func(c *net.TCPConn) []byte {
				c.Close()
				return nil
			},
			client: func(stdin io.WriteCloser, stdout io.Reader) []byte {
				io.ReadAll(stdout)
				stdin.Write([]byte("bye\n"))
				stdin.Close()
				return nil
			},
			err: "send standard input to 192.0.2.1:22: ",
		},
		{
			name: "the server resets while standard input is silent",
			server: func(c *net.TCPConn) []byte {
				c.CloseWrite()
				<-ready
				c.SetLinger(0)
				c.Close()
				return nil
			},
			client: func(_ io.WriteCloser, stdout io.Reader) []byte {
				io.ReadAll(stdout)
				ready <- struct{}{}
				return nil
			},
			err: "send standard input to 192.0.2.1:22: ",
		},
		{
			name: "the server resets in the midst of the download",
			server: func(c *net.TCPConn) []byte {
				c.Write([]byte("hello\n"))
				<-ready
				c.SetLinger(0)
				c.Close()
				return nil
			},
			client: func(_ io.WriteCloser, stdout io.Reader) []byte {
				b := make([]byte, 6)
				io.ReadFull(stdout, b)
				ready <- struct{}{}
				return b
			},
			down: []byte("hello\n"), err: "receive from 192.0.2.1:22: connection reset by peer",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in, stdin := pipe(t)
			stdout, out := pipe(t)
			l := l
			if tt.narrow {
				l = narrow
			}
			conn := visitor.Dial("tcp", l.Addr().String())
			server, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			received, ended := make(chan []byte, 1), make(chan error, 1)
			go func() { received <- tt.server(server.(*net.TCPConn)) }()
			go func() {
				ended <- Join(t.Context(), in, out, conn)
				in.Close() // as the end of the process does
				out.Close()
			}()
			got := tt.client(stdin, stdout)
			if up := <-received; sum(up) != sum(tt.up) {
				t.Errorf("the server received %s, want %s", sum(up), sum(tt.up))
			}
			if sum(got) != sum(tt.down) {
				t.Errorf("standard output had %s, want %s", sum(got), sum(tt.down))
			}
			err = <-ended
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

// pipe returns a pipe, as a shell would make for doorward's standard streams.
func pipe(t *testing.T) (from, to *os.File) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { to.Close(); from.Close() })
	return from, to
}
