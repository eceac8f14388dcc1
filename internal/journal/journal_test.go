//go:build linux

package journal

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A value makes one field and no more, whatever a stranger put into it.
func TestAnEntryIsOneLineAField(t *testing.T) {
	var e Entry
	e.Add("MESSAGE", "a\nPRIORITY=0\x1b[2J\u2028b")
	e.Add("DOORWARD_order unknown", "")
	e.Add("=\nX", strings.Repeat("é", mostValue))
	lines := strings.Split(string(e.Bytes()), "\n")
	long := "__X=" + strings.Repeat("é", (mostValue-len("…"))/2) + "…"
	want := []string{"MESSAGE=a\ufffdPRIORITY=0\ufffd[2J\ufffdb", "DOORWARD_ORDER_UNKNOWN=", long, ""}
	if len(lines) != len(want) {
		t.Fatalf("the entry has %d lines, want %d: %q", len(lines), len(want), lines)
	}
	for i := range want {
		if lines[i] != want[i] {
			t.Errorf("line %d is %.100q, want %.100q", i, lines[i], want[i])
		}
	}
}

func TestPriority(t *testing.T) {
	for level, want := range map[slog.Level]int{
		slog.LevelDebug: 7, slog.LevelInfo: 6, slog.LevelWarn: 4, slog.LevelError: 3, slog.LevelError + 4: 3,
	} {
		if got := Priority(level); got != want {
			t.Errorf("%s has priority %d, want %d", level, got, want)
		}
	}
}

// Entries reach a journal that is started after the sender, and restarted. Send does not
// wait for one that is not there, or does not read, or for which the entry is too long.
func TestSendDoesNotWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var e Entry
	e.Add("MESSAGE", "hello")
	if err := c.Send(&e); !errors.Is(err, unix.ENOENT) {
		t.Errorf("without a journal: %v, want ENOENT", err)
	}
	for range 2 {
		j, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Send(&e); err != nil {
			t.Errorf("with a journal: %v", err)
		}
		b := make([]byte, 64)
		if n, err := j.Read(b); string(b[:n]) != "MESSAGE=hello\n" {
			t.Errorf("the journal got %q, %v", b[:n], err)
		}
		var full error
		for range 1 << 20 { // far more than any queue has
			if full = c.Send(&e); full != nil {
				break
			}
		}
		if !errors.Is(full, unix.EAGAIN) {
			t.Errorf("to a journal that does not read: %v, want EAGAIN", full)
		}
		j.Close()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	var large Entry
	for range 1024 {
		large.Add("X", strings.Repeat("x", mostValue))
	}
	j, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if err := c.Send(&large); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("an entry that is too long: %v, want EMSGSIZE", err)
	}
}
