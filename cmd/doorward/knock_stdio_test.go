//go:build linux

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
)

// big is more than the buffers of a connection and two pipes take.
func big(seed byte) []byte {
	b := make([]byte, 6<<20)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// sum tells texts apart that are too long to be shown.
func sum(b []byte) string { return fmt.Sprintf("%d bytes, %x", len(b), sha256.Sum256(b)) }

// TestStdio has a server and what stands before doorward end the directions in every
// order. What was sent arrives whole, or the exit status says that it did not.
func TestStdio(t *testing.T) {
	nstest.Need(t, "ip", "nsenter")
	gate, visitor := nstest.Gate(t)
	l := gate.Listen("tcp", "192.0.2.1:22")
	// Behind this one the kernel takes a few kilobytes that nobody has read.
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
			name: "the server has gone, which the last words meet",
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
			name: "the server resets while standard input says nothing",
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
				ended <- join(t.Context(), &env{stdin: in, stdout: out}, conn)
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

// pipe is what stands before doorward in a shell's pipeline.
func pipe(t *testing.T) (from, to *os.File) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { to.Close(); from.Close() })
	return from, to
}

// wantFailure checks the status of a program that has ended.
func wantFailure(t *testing.T, err error, code int) {
	t.Helper()
	x, ok := err.(*exec.ExitError)
	if !ok || x.ExitCode() != code {
		t.Errorf("it ended with %v, want status %d", err, code)
	}
}

// TestStdioStreams: the standard streams can fail, and both can be one socket.
func TestStdioStreams(t *testing.T) {
	n := newKnockNet(t)
	n.serve(t, ":22", func(c net.Conn) {
		fmt.Fprintln(c, "hello")
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
	})
	start := func(t *testing.T, stdin, stdout *os.File) (wait func() (string, error)) {
		c := n.visitor.Command(t.Context(), "env", "-u", "XDG_RUNTIME_DIR", "HOME="+t.TempDir(),
			"doorward", "knock", "192.0.2.2", "--touch", "59000", "--wait", "22", "--stdio")
		var stderr bytes.Buffer
		c.Stdin, c.Stdout, c.Stderr = stdin, stdout, &stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return func() (string, error) { err := c.Wait(); return stderr.String(), err }
	}
	open := func(t *testing.T, path string, flag int) *os.File {
		f, err := os.OpenFile(path, flag, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	log, err := os.OpenFile(filepath.Join(t.TempDir(), "log"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	null := open(t, os.DevNull, os.O_RDWR)
	for _, tt := range []struct {
		name          string
		stdin, stdout *os.File
		want          string
	}{
		{"no reading", open(t, t.TempDir(), os.O_RDONLY), null, "doorward: error: read standard input: is a directory\n"},
		{"no room", null, open(t, "/dev/full", os.O_WRONLY), "doorward: error: write standard output: no space left on device\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			said, err := start(t, tt.stdin, tt.stdout)()
			wantFailure(t, err, 1)
			if !strings.HasSuffix(said, tt.want) {
				t.Errorf("it said %q, want %q", said, tt.want)
			}
		})
	}
	t.Run("appending", func(t *testing.T) {
		if said, err := start(t, null, log)(); err != nil {
			t.Errorf("%v: %s", err, said)
		}
		if got, err := os.ReadFile(log.Name()); string(got) != "hello\n" || err != nil {
			t.Errorf("the file has %q, %v; want hello", got, err)
		}
	})
	t.Run("one socket", func(t *testing.T) {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
		defer ours.Close()
		wait := start(t, theirs, theirs)
		theirs.Close()
		if got, err := io.ReadAll(ours); string(got) != "hello\n" || err != nil {
			t.Errorf("got %q, %v; want hello and the end", got, err)
		}
		if err := syscall.Shutdown(pair[0], syscall.SHUT_WR); err != nil {
			t.Fatal(err)
		}
		if said, err := wait(); err != nil {
			t.Errorf("%v: %s", err, said)
		}
	})
}

// TestKnockWithNoRoom: what was not said was not done, for whoever reads it.
func TestKnockWithNoRoom(t *testing.T) {
	n := newKnockNet(t)
	for _, more := range []string{"--wait=59002", "--json"} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer full.Close()
		c := n.visitor.Command(t.Context(), "env", "-u", "XDG_RUNTIME_DIR", "HOME="+t.TempDir(),
			"doorward", "knock", "192.0.2.2", "--touch", "59000", more)
		var stderr bytes.Buffer
		c.Stdout, c.Stderr = full, &stderr
		wantFailure(t, c.Run(), 1)
		if !strings.HasSuffix(stderr.String(), ": no space left on device\n") {
			t.Errorf("%s: it said %q", more, &stderr)
		}
	}
}

// TestInterruptedBySignal: whoever waits for doorward learns which signal ended it.
func TestInterruptedBySignal(t *testing.T) {
	n := newKnockNet(t)
	n.serve(t, ":22", func(c net.Conn) { io.Copy(io.Discard, c); c.Close() })
	for _, tt := range []struct {
		name   string
		args   []string
		signal syscall.Signal
		ready  string // what it says before
		said   string
	}{
		{"waiting", []string{"--wait", "59001"}, syscall.SIGINT, "knocked on", "error: interrupted "},
		{"waiting, by a quit", []string{"--wait", "59001"}, syscall.SIGQUIT, "knocked on", "error: interrupted "},
		{"before a command", []string{"--wait", "59001", "--", "true"}, syscall.SIGTERM, "knocked on", "error: interrupted "},
		{"joined", []string{"--wait", "22", "--stdio"}, syscall.SIGTERM, "open: ", "error: interrupted while the connection stood\n"},
		{"ssh hangs up", []string{"--wait", "22", "--stdio"}, syscall.SIGHUP, "open: ", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := n.visitor.Command(t.Context(), "env", append([]string{"-u", "XDG_RUNTIME_DIR", "HOME=" + t.TempDir(), "doorward", "knock", "192.0.2.2",
				"--touch", "59000", "--timeout", "30s"}, tt.args...)...)
			stdin, err := c.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			said, out, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer said.Close()
			c.Stdout, c.Stderr = out, out
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			out.Close()
			var text []byte
			for b := make([]byte, 256); !bytes.Contains(text, []byte(tt.ready)); {
				m, err := said.Read(b)
				if text = append(text, b[:m]...); err != nil {
					t.Fatalf("%v after %q", err, text)
				}
			}
			c.Process.Signal(tt.signal)
			rest, _ := io.ReadAll(said)
			err = c.Wait()
			status := c.ProcessState.Sys().(syscall.WaitStatus)
			quit := tt.signal == syscall.SIGQUIT && status.ExitStatus() == 128+int(syscall.SIGQUIT)
			if !quit && (!status.Signaled() || status.Signal() != tt.signal) {
				t.Errorf("it ended with %v, want %v", err, tt.signal)
			}
			if !strings.Contains(string(rest), tt.said) {
				t.Errorf("it said %q, want %q", rest, tt.said)
			}
		})
	}
}
