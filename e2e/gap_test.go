//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A daemon that is stopped in the middle of a knock, for longer than a knock may take,
// opens to whoever finishes it, and penalises them for nothing. Whoever does not finish
// is still wrong.
func TestStoppedInTheMiddleOfAKnock(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor("", strings.Replace(touchKnock, `within = "10s"`, `within = "2s"`, 1)))
	s.touch(s.stranger, gate4, "59000")
	c, err := s.dial(s.visitor, gate4, "59000", soon)
	s.must(err)
	defer c.Close()
	// The listener ends a connection when it has heard the touch.
	s.must(c.SetReadDeadline(time.Now().Add(soon)))
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("reading from a touched port: got %v, want %v", err, io.EOF)
	}
	s.must(s.gate.Signal(syscall.SIGSTOP))
	s.until("the daemon stopped", func() error { return stopped(s.gate.PID) })
	s.touch(s.visitor, gate4, "59002") // the kernel takes it meanwhile
	time.Sleep(5 * time.Second)        // longer than a knock may take
	s.must(s.gate.Signal(syscall.SIGCONT))
	s.admits(s.visitor, gate4, "8080")
	s.penalised("web", stranger4)
	for _, p := range s.door("web").Penalties {
		if p.Source != stranger4 {
			t.Errorf("%s has a penalty: %s", p.Source, p.Reason)
		}
	}
	s.refuses(s.stranger, gate4, "8080")
}

// stopped says which thread of a process still runs, nil if all are stopped: the
// state T in proc_pid_stat(5), which follows the name in brackets.
func stopped(pid int) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return fmt.Errorf("process %d has no threads: %v", pid, err)
	}
	for _, path := range threads {
		stat, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, state, _ := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(" "))
		if !bytes.HasPrefix(state, []byte("T")) {
			return fmt.Errorf("%s: its state is %.1q, want T", path, state)
		}
	}
	return nil
}
