package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
)

// screen is a pseudo-terminal on which a command runs in-process.
type screen struct {
	t     *testing.T
	user  *os.File // where keys go in and the picture comes out
	ended chan int
	errs  strings.Builder // the command's, to be read after its end

	mu   sync.Mutex // guards what follows
	seen string     // all that was written
}

// onScreen starts a command line on a terminal of 100 by 30.
func onScreen(t *testing.T, args ...string) *screen {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { user.Close() })
	fd := int(user.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 100})
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, user: user, ended: make(chan int, 1)}
	go func() { // ends when tty is closed
		buf := make([]byte, 4096)
		for {
			n, err := user.Read(buf)
			s.mu.Lock()
			s.seen += string(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	e := &env{stdin: tty, stdout: tty, stderr: &s.errs, getenv: func(string) string { return "" }}
	go func() {
		defer tty.Close()
		s.ended <- run(t.Context(), e, args)
	}()
	return s
}

// await waits until text has been written.
func (s *screen) await(text string) {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		s.mu.Lock()
		found := strings.Contains(s.seen, text)
		s.mu.Unlock()
		if found {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.t.Fatalf("%q did not come up; on the screen: %q", text, s.seen)
}

// press sends keys.
func (s *screen) press(keys string) {
	s.t.Helper()
	if _, err := s.user.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// end waits for the command's exit status and what it wrote to stderr.
func (s *screen) end() (int, string) {
	s.t.Helper()
	select {
	case code := <-s.ended:
		return code, s.errs.String()
	case <-time.After(20 * time.Second):
		s.t.Fatalf("the command does not end; on the screen: %q", s.seen)
		return 0, ""
	}
}

// TestStatusOnScreen watches changes, the daemon's going, and q.
func TestStatusOnScreen(t *testing.T) {
	b := controltest.New(guarded())
	path, stop := controltest.Serve(t, b)
	s := onScreen(t, "--control", path, "status", "--watch")
	s.await("\x1b[?1049h") // the alternate screen
	s.await("2001:db8:1::/64")
	b.Change(func(s *control.Status) { s.Warnings = []string{"the clock has stepped back"} })
	s.await("the clock has stepped back")
	stop()
	s.await("closed the connection: trying again")
	s.press("q")
	if code, errs := s.end(); code != 0 || errs != "" {
		t.Errorf("got %d %q, want 0", code, errs)
	}
	s.await("\x1b[?1049l")
}

// TestApplyOnScreen has each way in which the question is settled.
func TestApplyOnScreen(t *testing.T) {
	for _, tt := range []struct {
		name   string
		act    func(s *screen, b *controltest.Backend)
		orders []string // the actions after "apply"
		code   int
		stderr string
	}{
		{"enter keeps", func(s *screen, _ *controltest.Backend) { s.press("\r") }, []string{"keep"}, 0, ""},
		{"ctrl-c goes back", func(s *screen, _ *controltest.Backend) { s.press("\x03") }, []string{"undo"}, 1,
			"doorward: error: not kept: carried out undo\n"},
		{"kept elsewhere", func(_ *screen, b *controltest.Backend) { settled(b, bob, control.EndKept) }, nil, 0, ""},
		{"undone elsewhere", func(_ *screen, b *controltest.Backend) { settled(b, bob, control.EndUndone) }, nil, 1,
			"doorward: error: not kept: operator bob (uid 1001) undid it\n"},
		{"nobody answers", func(_ *screen, b *controltest.Backend) { settled(b, "", control.EndExpired) }, nil, 1,
			"doorward: error: not kept: nobody confirmed it in time, and the previous configuration is in use again\n"},
		{"a reboot", func(_ *screen, b *controltest.Backend) { settled(b, "", control.EndRebooted) }, nil, 1,
			"doorward: error: not kept: the machine rebooted before it was confirmed, and the previous configuration is in use again\n"},
		{"replaced by one that waits", func(_ *screen, b *controltest.Backend) {
			b.Change(func(s *control.Status) {
				s.Pending = &control.Pending{ID: 8, Until: time.Now().Add(time.Hour), By: bob}
				s.Ended = []control.Settled{{ID: 7, Time: time.Now(), By: bob, End: control.EndReplaced}}
			})
		}, nil, 1, "doorward: error: not kept: operator bob (uid 1001) replaced it\n"},
		{"another one was kept since", func(_ *screen, b *controltest.Backend) {
			b.Change(func(s *control.Status) {
				s.Pending, s.Settled = nil, &control.Settled{ID: 8, Time: time.Now(), By: bob, Kept: true, End: control.EndKept}
				s.Ended = []control.Settled{*s.Settled, {ID: 7, Time: time.Now(), End: control.EndExpired}}
			})
		}, nil, 1, "doorward: error: not kept: nobody confirmed it in time, and the previous configuration is in use again\n"},
		{"forgotten", func(_ *screen, b *controltest.Backend) {
			b.Change(func(s *control.Status) { s.Pending = nil })
		}, nil, 1, "doorward: error: not known whether it is kept: the daemon does not remember it\n" +
			"doorward: hint: doorward log, and doorward diff\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := controltest.New(guarded())
			until := time.Now().Add(time.Hour)
			b.OnDo(func(_ context.Context, g controltest.Given) (control.Reply, error) {
				o := g.Order.(control.ApplyRequest)
				if o.Action == "apply" {
					b.Change(func(s *control.Status) { s.Pending = &control.Pending{ID: 7, Until: until, By: g.By} })
					return control.Reply{Message: "in use", Until: &until, Pending: 7}, nil
				}
				return control.Reply{Message: "carried out " + o.Action}, nil
			})
			path, _ := controltest.Serve(t, b)
			s := onScreen(t, "--control", path, "apply", "--confirm", "1h")
			s.await("Without an answer it goes back in")
			tt.act(s, b)
			if code, errs := s.end(); code != tt.code || errs != tt.stderr {
				t.Errorf("got %d %q, want %d %q", code, errs, tt.code, tt.stderr)
			}
			var orders []string
			for _, g := range b.Given()[1:] {
				o := g.Order.(control.ApplyRequest)
				orders = append(orders, o.Action)
				if o.ID != 7 {
					t.Errorf("%s is about %d, want 7", o.Action, o.ID)
				}
			}
			if strings.Join(orders, " ") != strings.Join(tt.orders, " ") {
				t.Errorf("ordered %q, want %q", orders, tt.orders)
			}
		})
	}
}
