//go:build linux

package store

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/race"
)

// nth returns a change all of whose parts differ from those of any other.
func nth(n int) Change {
	at := time.Unix(int64(n), int64(n)).UTC()
	source := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n % 3)}), 32)
	by := strconv.Itoa(n)
	c := Change{
		Marks:     []Mark{{Door: "ssh", Knock: "touch", Key: strconv.Itoa(n % 4), Value: []byte(by)}},
		Doors:     []Door{{Name: "ssh", Reason: by, Since: at}},
		Penalties: []Penalty{{Door: "ssh", Source: source, Until: at, For: time.Minute, Reason: by}},
		Grants:    []Grant{{Door: "ssh", Source: source, By: by, Until: at}},
		Applied:   &Applied{Confirmed: []byte(by), Deadline: at},
		Records:   []audit.Record{{Time: at, By: by, Until: &at}, {Time: at, By: by}, {Time: at, By: by}},
	}
	if n >= 5 {
		old := nth(n - 5).Grants[0]
		c.EndGrants = []GrantKey{{old.Door, old.Source, old.By}}
	}
	return c
}

// childDir, if set in the environment, makes the test's program a daemon, which commits
// one change after the other in that directory, and prints the number of each when it
// has been committed.
const childDir = "DOORWARD_TEST_STORE"

func daemon(dir string) error {
	s, err := Open(dir, AuditLimit{}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	st, err := s.Load()
	if err != nil {
		return err
	}
	n := 0
	if len(st.Doors) > 0 {
		if n, err = strconv.Atoi(st.Doors[0].Reason); err != nil {
			return err
		}
	}
	for fmt.Println("open"); ; {
		n++
		if _, err := s.Commit(nth(n)); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// child starts that daemon, whose output ends when it does.
func child(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// TestKilled kills a process that commits, at any moment, again and again.
func TestKilled(t *testing.T) {
	race.Skip(t)
	dir := t.TempDir()
	m, last := newModel(), 0
	for round := range 12 {
		cmd, out := child(t, dir)
		acknowledged := last
		most := rand.IntN(60)
		for n := 0; out.Scan(); n++ {
			if n == most {
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond) // to any point of a commit
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if line := out.Text(); line != "open" {
				v, err := strconv.Atoi(line)
				if err != nil {
					t.Fatalf("round %d: %s", round, line)
				}
				acknowledged = v
			}
		}
		_ = cmd.Wait() // it was killed

		s := mustOpen(t, dir, AuditLimit{})
		if s.SetAside() != "" {
			t.Fatalf("round %d: the file was set aside", round)
		}
		got := mustLoad(t, s)
		done, _ := strconv.Atoi(string(got.Applied.Confirmed))
		if done < acknowledged || done > acknowledged+1 {
			t.Fatalf("round %d: commit %d is the last one kept, but %d were acknowledged", round, done, acknowledged)
		}
		for ; last < done; last++ {
			m.commit(nth(last + 1))
		}
		got.BootID, got.Rebooted = "", false
		if d := diff(sorted(m.state()), sorted(got)); d != "" {
			t.Fatalf("round %d: state after commit %d (-want +got):\n%s", round, done, d)
		}
		if d := diff(m.trail, mustRecords(t, s, "", "", 0, 100_000)); d != "" {
			t.Fatalf("round %d: records after commit %d (-want +got):\n%s", round, done, d)
		}
		verify(t, s)
		mustClose(t, s)
	}
	t.Logf("%d commits", last)
}

// If a daemon is killed while it starts a program, that has a copy of the lock until it
// is executed. The next daemon waits for it.
func TestLockThatIsReleasedLater(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir, AuditLimit{})
	held, err := unix.Dup(int(s.lock.Fd())) // such as a forked child has
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	time.AfterFunc(50*time.Millisecond, func() { _ = unix.Close(held) })
	mustClose(t, mustOpen(t, dir, AuditLimit{}))
}

func TestSecondDaemon(t *testing.T) {
	dir := t.TempDir()
	cmd, out := child(t, dir)
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if !out.Scan() || out.Text() != "open" {
		t.Fatalf("the first daemon says %q", out.Text())
	}
	_, err := Open(dir, AuditLimit{}, slog.New(slog.DiscardHandler))
	want := fmt.Sprintf("%q: the state is in use by another doorwardd (process %d): stop that one first, "+
		"or give this one paths of its own with state and control in [gateway]", filepath.Join(dir, "doorward.lock"), cmd.Process.Pid)
	if !errors.Is(err, ErrLocked) || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
	_ = cmd.Process.Kill()
	for out.Scan() { // until the daemon has ended
	}
	_ = cmd.Wait()
	mustClose(t, mustOpen(t, dir, AuditLimit{}))
}

// TestDiskFull uses a disk of 1 MiB, in a mount namespace of its own.
func TestDiskFull(t *testing.T) {
	nstest.Need(t)
	dir := t.TempDir()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: thread and namespace end with the goroutine
		if err := errors.Join(
			unix.Unshare(unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"),
		); err != nil {
			t.Error(err)
			return
		}
		onFullDisk(t, dir)
	}()
	<-done
}

func onFullDisk(t *testing.T, dir string) {
	b := &book{}
	s, err := Open(dir, AuditLimit{}, b.log())
	if err != nil {
		t.Error(err)
		return
	}
	ballast := filepath.Join(dir, "ballast")
	for round := range 3 {
		if _, err := s.Commit(nth(round)); err != nil {
			t.Errorf("round %d, before: %v", round, err)
		}
		before, err1 := load(s)
		trail, err2 := records(s, Query{})
		if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("the disk is not full: %v", err)
		}
		big := nth(9)
		big.Records[0].Reason = strings.Repeat("x", 100_000)
		_, err := s.Commit(big)
		if want := "the disk is full, free some space: nothing of this change was kept: write "; err == nil ||
			!strings.HasPrefix(err.Error(), want) || !strings.HasSuffix(err.Error(), ": no space left on device") {
			t.Errorf("round %d: error %v\nwant one that begins with %s", round, err, want)
		}
		after, err3 := load(s)
		trail2, err4 := records(s, Query{})
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		if d := diff(before, after) + diff(trail, trail2); d != "" {
			t.Errorf("round %d: the failed commit has changed the state:\n%s", round, d)
		}
		if err := os.Remove(ballast); err != nil {
			t.Error(err)
		}
		if _, err := s.Commit(nth(10 + round)); err != nil {
			t.Errorf("round %d, with room again: %v", round, err)
		}
	}
	last, _ := load(s)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if s, err = Open(dir, AuditLimit{}, b.log()); err != nil {
		t.Error(err)
		return
	}
	defer s.Close()
	got, err := load(s)
	if d := diff(last, got); err != nil || d != "" || s.SetAside() != "" {
		t.Errorf("after opening again: %v, aside %q\n%s", err, s.SetAside(), d)
	}
}

func records(s *Store, q Query) ([]audit.Record, error) {
	p, err := s.Records(q)
	return p.Records, err
}

// load returns what is kept, in a form that can be compared.
func load(s *Store) (any, error) {
	st, err := s.Load()
	if err != nil {
		return nil, err
	}
	return sorted(st), nil
}
