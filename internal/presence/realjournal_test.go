//go:build linux

package presence

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

const (
	devLog    = "/run/systemd/journal/dev-log"
	logStream = "/run/systemd/journal/stdout"
)

// logAs is what the test binary does when it is run as sshd: it writes its argument to the
// journal, as syslog(3) would, or, if there are two arguments, as a service's standard
// error, and runs until its input ends.
func logAs(args []string) int {
	network, address, format := "unixgram", devLog, "<38>Nov 24 07:50:01 sshd[%d]: %s"
	if len(args) > 1 {
		network, address, format = "unix", logStream, "sshd\nssh.service\n6\n1\n0\n0\n0\n[%d]\n%s\n"
	}
	c, err := net.Dial(network, address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, format, os.Getpid(), args[0]); err != nil {
		return 1
	}
	fmt.Println("logged")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// TestRealJournal runs itself again, with journald, in mount, process and network
// namespaces of their own: see insideJournal.
func TestRealJournal(t *testing.T) {
	const journald = "/lib/systemd/systemd-journald"
	nstest.Need(t, "journalctl", journald)
	if os.Getenv("PRESENCE_INSIDE") != "" {
		insideJournal(t, journald)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestRealJournal$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), "PRESENCE_INSIDE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestRealJournal") {
		t.Fatalf("inside: %v\n%s", err, out)
	}
}

func mount(t *testing.T, source, target, fstype string, flags uintptr) {
	t.Helper()
	if err := syscall.Mount(source, target, fstype, flags, ""); err != nil {
		t.Fatalf("mount %s: %v", target, err)
	}
}

func insideJournal(t *testing.T, journald string) {
	mount(t, "", "/", "", syscall.MS_REC|syscall.MS_PRIVATE)
	mount(t, "proc", "/proc", "proc", 0)
	mount(t, "tmpfs", "/run", "tmpfs", 0)
	mount(t, "tmpfs", "/var/log", "tmpfs", 0)
	conf := "/run/systemd/journald.conf.d/test.conf"
	if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte("[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l := Auto(time.Now)
	if _, _, err := l.Last(t.Context()); !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "journald does not run") {
		t.Fatalf("before journald runs: %v", err)
	}
	if _, _, err := Journal(time.Now).Last(t.Context()); !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "has no entry") {
		t.Fatalf("before journald runs: %v", err)
	}
	daemon := exec.CommandContext(t.Context(), journald)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer daemon.Wait()
	defer daemon.Process.Kill()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, ok, err := l.Last(t.Context()); err == nil && !ok && l.String() == "the journal" {
			break // journald's own first entry is there, and no login
		} else if time.Now().After(deadline) {
			t.Fatalf("journald has no entry: %v, %v", ok, err)
		}
	}
	user := func() string {
		t.Helper()
		login, ok, err := l.Last(t.Context())
		if err != nil || ok && time.Since(login.Time).Abs() > time.Minute {
			t.Fatalf("Last: %+v, %v", login, err)
		}
		return login.User
	}
	bin := t.TempDir()
	for p := bin; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sshd, session, evil := copySelf(t, bin, "sshd"), copySelf(t, bin, "sshd-session"), copySelf(t, bin, "evil")
	link := filepath.Join(t.TempDir(), "sshd")
	if err := os.Symlink(evil, link); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name, program string
		uid           uint32
		message, want string
	}{
		{"another program with sshd's tag", evil, 0, by("mallory"), ""},
		{"another user's sshd", sshd, 65534, by("mallory"), ""},
		{"a program called by a link named sshd", link, 0, by("mallory"), ""},
		{"sshd, no login", sshd, 0, "Invalid user " + by("mallory"), ""},
		{"another program between them", evil, 0, "hello", ""},
		{"sshd", sshd, 0, by("alice"), "alice"},
		{"sshd-session", session, 0, by("bob"), "bob"},
		{"another program again", evil, 0, by("mallory"), "bob"},
	} {
		logThrough(t, step.program, step.uid, step.message)
		if got := user(); got != step.want {
			t.Errorf("%s: the last login is %q, want %q", step.name, got, step.want)
		}
	}
	if got, ok, err := Journal(time.Now).Last(t.Context()); err != nil || !ok || got.User != "bob" {
		t.Errorf("read again: %+v, %v, %v, want bob", got, ok, err)
	}
	logThrough(t, sshd, 0, "Invalid user x\n"+by("mallory")+"\n from 192.0.2.7 port 7", "stderr")
	if got, w := user(), l.Warnings(); got != "bob" || len(w) != 1 || !strings.Contains(w[0], "sshd -e") {
		t.Errorf("sshd -e: the last login is %q, want bob; warnings %q, want one", got, w)
	}
	logThrough(t, sshd, 0, by("carol"))
	if got, w := user(), l.Warnings(); got != "carol" || len(w) != 0 {
		t.Errorf("sshd without -e: the last login is %q, want carol; warnings %q, want none", got, w)
	}
	insideDamagedJournal(t, l, sshd)
}

// insideDamagedJournal damages the journal's file, as a power cut or a bad block does: the
// auth log is used, journalctl's message is in the warning, and what is logged to a new
// file of the journal counts again.
func insideDamagedJournal(t *testing.T, l *Log, sshd string) {
	found, err := filepath.Glob("/run/log/journal/*/system.journal")
	if err != nil || len(found) != 1 {
		t.Fatalf("journald's files: %q, %v", found, err)
	}
	f, err := os.OpenFile(found[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 256), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, err = l.Last(t.Context())
	if !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "ignoring file") || !strings.Contains(err.Error(), "`journalctl --verify`") {
		t.Errorf("no other log: %v", err)
	}
	if err := os.WriteFile("/var/log/auth.log", []byte(time.Now().Format(time.RFC3339Nano)+" gate sshd[7]: "+by("carol")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, ok, err := l.Last(t.Context())
	if err != nil || !ok || got.User != "carol" || l.String() != "/var/log/auth.log" {
		t.Errorf("a damaged journal: %+v, %v, %v from %s, want carol from the auth log", got, ok, err, l)
	}
	if w := l.Warnings(); len(w) != 1 || !strings.Contains(w[0], "ignoring file; `journalctl --verify` tells") {
		t.Errorf("warnings %q", w)
	}
	logThrough(t, sshd, 0, by("dave")) // journald notices the damage, and begins a new file
	got, ok, err = Auto(time.Now).Last(t.Context())
	if err != nil || !ok || got.User != "dave" {
		t.Errorf("a new file: %+v, %v, %v, want dave", got, ok, err)
	}
}

// logThrough makes program log the message, and lives until journald has looked at the
// process. A message to a stream is logged again if journald read it before it asked for
// the sender's credentials (SO_PASSCRED in unix(7)), since that entry has no process.
func logThrough(t *testing.T, program string, uid uint32, message ...string) {
	t.Helper()
	for !logOnce(t, program, uid, message) {
	}
}

// logOnce logs the message, and reports whether journald knows which process sent it.
func logOnce(t *testing.T, program string, uid uint32, message []string) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, message...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("logged\n"))); err != nil {
		t.Fatalf("%s did not log: %v", program, err)
	}
	// journald handles messages in order, so once it has synced, it has looked at the
	// process.
	if out, err := exec.Command("journalctl", "--sync").CombinedOutput(); err != nil {
		t.Fatalf("journalctl --sync: %v: %s", err, out)
	}
	// It may read a stream only after that.
	end := message[0][strings.LastIndexByte(message[0], '\n')+1:]
	has := func(match ...string) bool {
		out, err := exec.Command("journalctl", append(match, "--output=cat")...).Output()
		if err != nil {
			t.Fatalf("journalctl: %v", err)
		}
		return strings.Contains(string(out), end)
	}
	known := len(message) == 1
	for !known && !has() {
	}
	known = known || has("_COMM="+filepath.Base(program))
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return known
}

// copySelf copies the test binary under another name.
func copySelf(t *testing.T, dir, name string) string {
	t.Helper()
	to := filepath.Join(dir, name)
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return to
}
