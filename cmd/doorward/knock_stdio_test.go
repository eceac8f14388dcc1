//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

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
			c := n.visitor.Command(t.Context(), "env", append([]string{"--default-signal", "-u", "XDG_RUNTIME_DIR", "HOME=" + t.TempDir(), "doorward", "knock", "192.0.2.2",
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
