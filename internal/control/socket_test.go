package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
	"github.com/doorward/doorward/internal/nstest"
)

var discard = slog.New(slog.NewTextHandler(io.Discard, nil))

// fetch gets target from h and returns the body.
func fetch(t *testing.T, h http.Handler, target string, code int) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://127.0.0.1:9472"+target, nil))
	if w.Code != code {
		t.Errorf("%s: got status %d, want %d", target, w.Code, code)
	}
	return w.Body.String()
}

// TestListen covers every state that the path can be in.
func TestListen(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	live, err := net.Listen("unix", at("live"))
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: at("stale"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if err := os.WriteFile(at("file"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(at("stale"), at("link")); err != nil {
		t.Fatal(err)
	}
	long := at(strings.Repeat("x", 120))
	for _, tt := range []struct{ path, want string }{
		{at("new"), ""},
		{at("stale"), ""},
		{at("live"), "another doorwardd answers on " + at("live")},
		{at("file"), fmt.Sprintf("control socket %q: a file that is not a socket is in the way: move it away", at("file"))},
		{at("link"), fmt.Sprintf("control socket %q: a file that is not a socket is in the way: move it away", at("link"))},
		{at("no/s"), fmt.Sprintf("control socket %q: the directory %q does not exist: make it, or set control in [gateway]", at("no/s"), at("no"))},
		{long, fmt.Sprintf("control socket %q: the path has %d bytes: allowed are 107", long, len(long))},
	} {
		l, err := control.Listen(tt.path, "")
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			l.Close()
		}
		if got != tt.want {
			t.Errorf("Listen(%q): got %q, want %q", tt.path, got, tt.want)
		}
	}
	if b, _ := os.ReadFile(at("file")); string(b) != "precious" {
		t.Error("Listen harmed a file that is not its own")
	}
}

// TestListenMode checks who may connect. The umask must not matter; it is 0 here, as
// that would show a socket that everybody may connect to for a moment.
func TestListenMode(t *testing.T) {
	nstest.Need(t) // only root may give a file to any group
	defer syscall.Umask(syscall.Umask(0))
	g, err := user.LookupGroupId("1")
	if err != nil {
		t.Skip("group 1 is not on this machine")
	}
	for _, tt := range []struct {
		group string
		mode  fs.FileMode
		gid   uint32
	}{
		{"", 0o600, uint32(os.Getgid())},
		{"no-such-group", 0o600, uint32(os.Getgid())},
		{g.Name, 0o660, 1},
	} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := control.Listen(path, tt.group)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if gid := fi.Sys().(*syscall.Stat_t).Gid; fi.Mode().Perm() != tt.mode || gid != tt.gid {
			t.Errorf("group %q: got mode %o of group %d, want %o of %d", tt.group, fi.Mode().Perm(), gid, tt.mode, tt.gid)
		}
		l.Close()
	}
}

// TestNoDaemon checks the client's errors when nobody, or something else, answers.
func TestNoDaemon(t *testing.T) {
	dir := t.TempDir()
	missing, stale, foreign := filepath.Join(dir, "m"), filepath.Join(dir, "s"), filepath.Join(dir, "f")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	other, err := net.Listen("unix", foreign)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.Server{Listener: other, Config: &http.Server{Handler: http.NotFoundHandler()}}
	srv.Start()
	defer srv.Close()
	const hint = "systemctl status doorward, or --control SOCKET if it listens elsewhere"
	for _, tt := range []struct {
		path string
		want control.Error
	}{
		{missing, control.Error{Code: control.CodeDown, Message: "no daemon answers at " + missing + ": there is no such socket",
			Hint: "systemctl restart doorward (grants and sessions stay), or --control SOCKET if it listens elsewhere"}},
		{stale, control.Error{Code: control.CodeDown, Message: "no daemon answers at " + stale + ": connect: connection refused", Hint: hint}},
		{foreign, control.Error{
			Code:    control.CodeDown,
			Message: "what answers at " + foreign + " is not doorwardd: it says \"404 Not Found\"", Hint: "--control SOCKET",
		}},
	} {
		_, err := control.NewClient(tt.path).Status(t.Context())
		if d := cmp.Diff(error(&tt.want), err); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
}

// TestOtherUsers has other users' processes connect to the socket: one that may not, and
// some that may, whose names the backend learns.
func TestOtherUsers(t *testing.T) {
	nstest.Need(t)
	b := controltest.New(sample())
	path, _ := controltest.Serve(t, b)
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	want := "permission: permission denied at " + path + ": run as root, or join the group doorward\n" +
		"sudo usermod -aG doorward $USER, and log in again\n"
	if got := runAs(t, 65534, path); got != want {
		t.Errorf("without permission: got %q, want %q", got, want)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	nobody, err := user.LookupId("65534")
	if err != nil {
		t.Fatal(err)
	}
	const nameless = 3_999_999_999
	const some = 1234567
	for _, tt := range []struct {
		uid         uint32
		login, sudo string
		by          string
		want        audit.Operator
	}{
		{uid: uidOf(t, nobody.Uid), by: "operator " + nobody.Username + " (uid 65534)", want: audit.Operator{UID: 65534}},
		{uid: nameless, by: "operator uid 3999999999", want: audit.Operator{UID: nameless}},
		{uid: some, login: "1234567", by: "operator uid 1234567", want: audit.Operator{UID: some, LoginUID: new(uint32(some))}},
		{uid: nameless, login: "65534", sudo: "somebody\x1b[31m", // a client may send anything
			by:   "operator uid 3999999999, logged in as " + nobody.Username + " (uid 65534)",
			want: audit.Operator{UID: nameless, LoginUID: new(uint32(65534)), SudoUser: "somebody\uFFFD[31m"}},
		{uid: nameless, sudo: strings.Repeat("x", 1000), by: "operator uid 3999999999",
			want: audit.Operator{UID: nameless, SudoUser: strings.Repeat("x", 256)}},
	} {
		if tt.want.LoginUID != nil && !knowsPeers() {
			continue // without SO_PEERPIDFD, logins are not known
		}
		if got := runAs(t, tt.uid, path, "LOGIN="+tt.login, "SUDO_USER="+tt.sudo); got != "done\n" {
			t.Errorf("with permission: got %q, want done", got)
		}
		given := b.Given()[len(b.Given())-1]
		if given.By != tt.by {
			t.Errorf("given by %q, want by %q", given.By, tt.by)
		}
		tt.want.PID = given.Operator.PID
		if d := cmp.Diff(&tt.want, given.Operator); d != "" || tt.want.PID <= 1 {
			t.Errorf("uid %d (-want +got):\n%s", tt.uid, d)
		}
	}
}

// knowsPeers reports whether the kernel has pidfds of peers (SO_PEERPIDFD).
func knowsPeers() bool {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	fd, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// runAs runs this test binary as another user, to do what openAs does, with LOGIN in env
// as its login uid. The shell sets that, since only a process with one thread can.
func runAs(t *testing.T, uid uint32, path string, env ...string) string {
	t.Helper()
	// The copy is where every user can reach it.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(filepath.Dir(path), "client")
	if err := os.WriteFile(exe, bin, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `test -z "$LOGIN" || echo "$LOGIN" > /proc/self/loginuid; exec "$0"`, exe)
	cmd.Dir = "/"
	cmd.Env = append(env, "DOORWARD_TEST_OPEN="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("as uid %d: %v: %s", uid, err, out)
	}
	return string(out)
}

// openAs is the process that runAs starts: it gives one order and prints the
// answer, or the error and its hint.
func openAs(path string) int {
	c := control.NewClient(path)
	c.SudoUser = os.Getenv("SUDO_USER")
	r, err := c.Open(context.Background(), control.OpenRequest{Door: "ssh", Source: "any"})
	var e *control.Error
	if errors.As(err, &e) {
		fmt.Printf("%s: %s\n%s\n", e.Code, e.Message, e.Hint)
		return 0
	}
	fmt.Println(r.Message)
	return 0
}
