//go:build linux

package listen

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/nstest"
)

// TestClients runs the programs that people knock with: each makes one touch, gets no
// byte, and reports no error.
func TestClients(t *testing.T) {
	nstest.Need(t, "telnet", "nc", "nmap", "bash", "sh")
	s := newScene(t, 59000)
	for _, c := range []struct {
		name   string
		argv   []string
		prints string // anything else is a byte from the gateway
		status int
	}{
		{"telnet", []string{"telnet", "GATEWAY", "59000"},
			"Trying GATEWAY...\nConnected to GATEWAY.\nEscape character is '^]'.\n" +
				"Connection closed by foreign host.\n", 0},
		{"nc", []string{"nc", "GATEWAY", "59000"}, "", 0},
		{"nc that sends", []string{"sh", "-c", "exec nc -q1 GATEWAY 59000 </etc/hostname"}, "", 0},
		{"nc -z", []string{"nc", "-z", "GATEWAY", "59000"}, "", 0},
		{"bash", []string{"bash", "-c", "exec 3<>/dev/tcp/GATEWAY/59000 && cat <&3"}, "", 0},
	} {
		for _, gateway := range []string{gateway4, gateway6} {
			t.Run(c.name+" "+gateway, func(t *testing.T) {
				before := len(s.heard.all())
				out, status := s.run(t, c.argv, gateway)
				want := strings.ReplaceAll(c.prints, "GATEWAY", gateway)
				if out != want || status != c.status {
					t.Errorf("printed %q, status %d\nwant    %q, status %d", out, status, want, c.status)
				}
				s.oneTouch(t, before)
			})
		}
	}
	t.Run("nmap -sT", func(t *testing.T) {
		before := len(s.heard.all())
		out, status := s.run(t, []string{"nmap", "-n", "-Pn", "-sT", "--max-retries=0", "-p59000", "GATEWAY"}, gateway4)
		if status != 0 || !strings.Contains(out, "59000/tcp open") {
			t.Errorf("status %d, printed %s", status, out)
		}
		s.oneTouch(t, before)
	})
	t.Run("nmap -sS", func(t *testing.T) {
		// The handshake is begun and not completed: nobody has proved anything.
		before := len(s.heard.all())
		out, status := s.run(t, []string{"nmap", "-n", "-Pn", "-sS", "-p59000", "GATEWAY"}, gateway4)
		if status != 0 || !strings.Contains(out, "59000/tcp open") {
			t.Errorf("status %d, printed %s", status, out)
		}
		s.oneTouchOf(t, before, func() { s.touch(t, gateway4+":59000") })
	})
}

// run runs a visitor's program and returns all that it printed.
func (s *scene) run(t *testing.T, argv []string, gateway string) (out string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	argv = slices.Clone(argv)
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], "GATEWAY", gateway)
	}
	cmd := s.visitor.Command(ctx, argv[0], argv[1:]...)
	stdin, err := cmd.StdinPipe() // stays open: it is the gateway who hangs up
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	b, err := cmd.CombinedOutput()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%v did not end", argv)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// oneTouch waits for a touch after the first before ones. Then it makes one itself to
// show that there was no second one: touches come in order.
func (s *scene) oneTouch(t *testing.T, before int) {
	t.Helper()
	s.heard.wait(t, "a touch", count(before+1))
	s.oneTouchOf(t, before+1, func() { s.touch(t, gateway4+":59000") })
}

func (s *scene) oneTouchOf(t *testing.T, before int, act func()) {
	t.Helper()
	act()
	if got := s.heard.wait(t, "a touch", count(before+1)); len(got) != before+1 {
		t.Errorf("%d touches too many: %v", len(got)-before-1, brief(got[before:]))
	}
}

// TestLittleIsLeft looks at what the kernel keeps of connections that were
// ended: a bounded number of entries, however many there were.
func TestLittleIsLeft(t *testing.T) {
	s := newScene(t, 59000)
	began := time.Now()
	const n = 2000
	s.visitor.Do(func() error {
		for range n {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			// A reset may come before connect has returned.
			_ = unix.Connect(fd, &unix.SockaddrInet4{Port: 59000, Addr: netip.MustParseAddr(gateway4).As4()})
			unix.Close(fd)
		}
		return nil
	})
	s.heard.wait(t, "all", count(n))
	left := strings.Count(s.gateway.Run("ss", "-Hant", "state", "connected"), "\n")
	if most := maxFINPerSecond * (1 + int(time.Since(began)/time.Second)); left > most {
		t.Errorf("%d of %d connections are left, want at most %d", left, n, most)
	}
}

// TestSilentVisitors complete the handshake and then acknowledge nothing more.
func TestSilentVisitors(t *testing.T) {
	nstest.Need(t, "nft")
	s := newScene(t, 59000)
	s.visitor.Run("nft", "add table inet t; add chain inet t in { type filter hook input priority 0; }; "+
		"add rule inet t in tcp flags & fin == fin drop")
	s.visitor.Do(func() error {
		for range 20 {
			c, err := dial(t.Context(), gateway4+":59000")
			if err != nil {
				return err
			}
			defer c.Close()
		}
		return nil
	})
	s.heard.wait(t, "all", count(20))
	s.eventually(t, func() string { return s.gateway.Run("ss", "-Hant", "state", "connected") }, "")
}

func (s *scene) eventually(t *testing.T, look func() string, want string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	got := look()
	for ; got != want && time.Now().Before(deadline); got = look() {
		time.Sleep(50 * time.Millisecond)
	}
	if got != want {
		t.Errorf("got %q after %v, want %q", got, patience, want)
	}
}

// TestTenThousandAtOnce lets ten thousand visitors begin before any is answered.
func TestTenThousandAtOnce(t *testing.T) {
	const n = 10_000
	s := newScene(t, 59000, 59001, 59002)
	began := time.Now()
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	s.visitor.Do(func() error {
		for i := range n {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("socket %d: %w", i, err)
			}
			fds = append(fds, fd)
			to := &unix.SockaddrInet4{Port: 59000 + i%3, Addr: netip.MustParseAddr(gateway4).As4()}
			if err := unix.Connect(fd, to); err != unix.EINPROGRESS {
				return fmt.Errorf("connect %d: %w", i, err)
			}
		}
		return nil
	})
	all := s.heard.wait(t, "all of them", func(got []knock.Heard) bool {
		return len(got)+int(s.listener.Dropped()) >= n
	})
	t.Logf("%d heard, %d dropped, %v after the first connect; resident %s",
		len(all), s.listener.Dropped(), time.Since(began).Round(time.Millisecond), resident(t))
	if len(all)+int(s.listener.Dropped()) != n {
		t.Errorf("%d heard and %d dropped, want %d together", len(all), s.listener.Dropped(), n)
	}
	s.oneTouchOf(t, len(all), func() { s.visitor.Run("sh", "-c", "nc -z "+gateway4+" 59001; :") })
}

func resident(t *testing.T) string {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	line, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(line)
}
