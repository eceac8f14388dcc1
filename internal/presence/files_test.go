//go:build linux

package presence

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// logDir is a directory of logs whose writer and reader use the same clock.
type logDir struct {
	t   testing.TB
	dir string
	now time.Time
}

func newLogDir(t testing.TB) *logDir { return &logDir{t, t.TempDir(), eight} }

func (d *logDir) path(name string) string { return filepath.Join(d.dir, name) }

func (d *logDir) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// write appends text to a file, written at the time of the clock.
func (d *logDir) write(name, text string) {
	d.t.Helper()
	f, err := os.OpenFile(d.path(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	d.must(err)
	_, err = f.WriteString(text)
	d.must(err)
	d.must(f.Close())
	d.must(os.Chtimes(d.path(name), d.now, d.now))
}

func (d *logDir) rename(from, to string) {
	d.t.Helper()
	d.must(os.Rename(d.path(from), d.path(to)))
}

// copytruncate rotates like logrotate's option: it copies the file and empties it in place.
func (d *logDir) copytruncate(from, to string) {
	d.t.Helper()
	text, err := os.ReadFile(d.path(from))
	d.must(err)
	d.write(to, string(text))
	d.must(os.Truncate(d.path(from), 0))
}

// compress compresses like gzip: to a file with another name and the same time.
func (d *logDir) compress(name string) {
	d.t.Helper()
	text, err := os.ReadFile(d.path(name))
	d.must(err)
	st, err := os.Stat(d.path(name))
	d.must(err)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err = z.Write(text)
	d.must(err)
	d.must(z.Close())
	d.must(os.WriteFile(d.path(name+".gz"), b.Bytes(), 0o600))
	d.must(os.Chtimes(d.path(name+".gz"), st.ModTime(), st.ModTime()))
	d.must(os.Remove(d.path(name)))
}

func (d *logDir) log(names ...string) *Log {
	var paths []string
	for _, n := range names {
		paths = append(paths, d.path(n))
	}
	return Files(paths, func() time.Time { return d.now })
}

// at returns the time hhmm on the day of eight.
func at(hhmm string) time.Time {
	t, err := time.Parse("15:04", hhmm)
	if err != nil {
		panic(err)
	}
	return time.Date(eight.Year(), eight.Month(), eight.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
}

// in returns a line with user's login at hhmm; noise returns another line of that time.
func in(hhmm, user string) string { return inAt(at(hhmm), user) }

func inAt(t time.Time, user string) string {
	return t.Format(time.Stamp) + " gate sshd[7]: Accepted password for " + user + " from 192.0.2.7 port 51122 ssh2\n"
}

func noise(hhmm string) string { return noiseAt(at(hhmm)) }

func noiseAt(t time.Time) string {
	return t.Format(time.Stamp) + " gate CRON[8]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)\n"
}

// last checks which login is the last one: user's at hhmm, or none if user is "".
func last(t testing.TB, l *Log, user, hhmm string) {
	t.Helper()
	got, ok, err := l.Last(t.Context())
	switch {
	case err != nil:
		t.Fatalf("Last: %v", err)
	case !ok && user != "":
		t.Fatalf("Last: no login, want %s at %s", user, hhmm)
	case ok && user == "":
		t.Fatalf("Last: %s at %s, want no login", got.User, got.Time)
	case ok && (got.User != user || !got.Time.Equal(at(hhmm))):
		t.Fatalf("Last: %s at %s, want %s at %s", got.User, got.Time, user, hhmm)
	}
}

func quiet(t testing.TB, l *Log) {
	t.Helper()
	if w := l.Warnings(); len(w) != 0 {
		t.Errorf("warnings %q, want none", w)
	}
}

func TestNewLinesAreRead(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", noise("05:00"))
	l := d.log("auth.log")
	last(t, l, "", "")
	d.write("auth.log", in("07:40", "alice"))
	last(t, l, "alice", "07:40")
	last(t, l, "alice", "07:40")
	d.write("auth.log", noise("07:41")+in("07:50", "bob")+noise("07:51"))
	last(t, l, "bob", "07:50")
	quiet(t, l)
}

// The latest by time is not always the last line.
func TestLatestByTime(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", in("07:50", "alice")+noise("07:44")+in("07:45", "bob")+noise("07:46"))
	l := d.log("auth.log")
	last(t, l, "alice", "07:50")
	d.write("auth.log", in("07:48", "carol"))
	last(t, l, "alice", "07:50")
}

func TestHalfWrittenLine(t *testing.T) {
	d := newLogDir(t)
	line := in("07:50", "alice")
	d.write("auth.log", noise("07:00"))
	l := d.log("auth.log")
	last(t, l, "", "")
	for i := range len(line) {
		d.write("auth.log", line[i:i+1])
		if i < len(line)-1 {
			last(t, l, "", "")
			last(t, d.log("auth.log"), "", "") // nor does a new reader count it
		}
	}
	last(t, l, "alice", "07:50")
	last(t, d.log("auth.log"), "alice", "07:50")
}

// A line that is written in two halves is one name, not the shorter one.
func TestHalfOfANameIsNoName(t *testing.T) {
	d := newLogDir(t)
	line := at("07:50").Format(time.Stamp) + " gate sshd[7]: Accepted password for a from 203.0.113.1 port 22 ssh2"
	d.write("auth.log", noise("07:00")+line)
	l := d.log("auth.log")
	last(t, l, "", "")
	d.write("auth.log", " from 192.0.2.7 port 22 ssh2\n")
	last(t, l, "a from 203.0.113.1 port 22 ssh2", "07:50")
}

func TestLongLines(t *testing.T) {
	d := newLogDir(t)
	long := at("07:45").Format(time.Stamp) + " gate evil[1]: " + strings.Repeat("x", 3*maxLine)
	d.write("auth.log", in("07:40", "alice")+long+"\n"+noise("07:46"))
	l := d.log("auth.log")
	last(t, l, "alice", "07:40")
	d.write("auth.log", long)
	last(t, l, "alice", "07:40")
	last(t, d.log("auth.log"), "alice", "07:40")
	// The end of a line that is too long may look like a login, but is not one.
	d.write("auth.log", in("07:50", "mallory"))
	last(t, l, "alice", "07:40")
	last(t, d.log("auth.log"), "alice", "07:40")
	d.write("auth.log", in("07:51", "bob"))
	last(t, l, "bob", "07:51")
	last(t, d.log("auth.log"), "bob", "07:51")
}

func TestNoData(t *testing.T) {
	d := newLogDir(t)
	l := d.log("secure", "secure.1")
	_, ok, err := l.Last(t.Context())
	want := fmt.Sprintf("no log data: %s: no such file or directory; %s: no such file or directory; ",
		d.path("secure"), d.path("secure.1"))
	if !errors.Is(err, ErrNoData) || ok || !strings.HasPrefix(err.Error(), want) {
		t.Fatalf("no files: %v, want %q...", err, want)
	}
	d.write("secure", "")
	if _, _, err = l.Last(t.Context()); !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "secure: is empty") {
		t.Fatalf("an empty file: %v", err)
	}
	d.write("secure", in("07:50", "alice"))
	last(t, l, "alice", "07:50")
	// What was read before is no substitute for a log that has disappeared.
	d.must(os.Remove(d.path("secure")))
	if _, _, err = l.Last(t.Context()); !errors.Is(err, ErrNoData) {
		t.Fatalf("removed: %v, want no data", err)
	}
	d.write("secure", noise("07:55"))
	last(t, l, "alice", "07:50")
	if _, _, err := Files(nil, time.Now).Last(t.Context()); !errors.Is(err, ErrNoData) {
		t.Errorf("an empty list: %v, want no data", err)
	}
}

func TestNothingInACompressedFile(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log.1", "")
	d.compress("auth.log.1")
	l := d.log("auth.log", "auth.log.1")
	for range 2 {
		if _, _, err := l.Last(t.Context()); !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "auth.log.1.gz: is empty") {
			t.Fatalf("a compressed file without text: %v", err)
		}
	}
}

// asNobody runs f on a thread that may read only what everybody may.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan error, 1)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		// setfsuid(2) also takes the capabilities that override file modes.
		if err := syscall.Setfsuid(65534); err != nil {
			done <- err
			return
		}
		f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestUnreadable(t *testing.T) {
	d := newLogDir(t)
	for p := d.dir; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		d.must(os.Chmod(p, 0o755))
	}
	d.write("secure", in("07:50", "alice"))
	d.must(os.Chmod(d.path("secure"), 0))
	l := d.log("secure", "secure.1")
	var err error
	asNobody(t, func() { _, _, err = l.Last(t.Context()) })
	if !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), d.path("secure")+": permission denied; ") ||
		!strings.Contains(err.Error(), "usermod -aG GROUP doorward") {
		t.Fatalf("without permission to read: %v", err)
	}
	// If older data can be read, there is data, but also a warning.
	d.write("secure.1", noise("07:00"))
	d.must(os.Chmod(d.path("secure.1"), 0o644))
	var ok bool
	asNobody(t, func() { _, ok, err = l.Last(t.Context()) })
	if err != nil || ok {
		t.Fatalf("older data: %v, %v, want no login", ok, err)
	}
	if w := l.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], d.path("secure")+": permission denied; let doorward's user read it") {
		t.Errorf("warnings %q", w)
	}
	d.must(os.Chmod(d.path("secure"), 0o644))
	asNobody(t, func() { last(t, l, "alice", "07:50") })
	quiet(t, l)
}

func TestNotALog(t *testing.T) {
	d := newLogDir(t)
	d.must(os.Mkdir(d.path("dir"), 0o755))
	d.must(syscall.Mkfifo(d.path("pipe"), 0o600))
	d.write("file", noise("07:00"))
	d.write("broken.gz", "this is no gzip")
	for name, want := range map[string]string{
		"dir":       "is not a regular file",
		"pipe":      "is not a regular file", // and opening it must not block
		"file/x":    "not a directory",
		"broken.gz": "invalid header",
	} {
		_, _, err := d.log(name, name).Last(t.Context())
		if !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestUnknownStampIsReported(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", noise("07:00")+"2026-11-24 07:50:01 gate sshd[7]: "+accepted+"\n")
	l := d.log("auth.log")
	last(t, l, "", "")
	w := l.Warnings()
	if len(w) != 1 || !strings.Contains(w[0], "auth.log: logins do not count") || !strings.Contains(w[0], "2026-11-24 07:50:01 gate") {
		t.Fatalf("warnings %q", w)
	}
	// The file has two names, as when it is being rotated.
	d.must(os.Link(d.path("auth.log"), d.path("auth.log.1")))
	d.write("auth.log", "yesterday gate sshd[7]: "+accepted+"\n")
	last(t, l, "", "")
	if again := l.Warnings(); len(again) != 1 || again[0] != w[0] {
		t.Errorf("warnings %q, want %q as before", again, w)
	}
}

// A stamp from the future, or a clock that is set back, does not keep a door open.
func TestClocks(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", in("09:30", "alice"))
	l := d.log("auth.log")
	last(t, l, "alice", "08:00")
	if w := l.Warnings(); len(w) != 1 || !strings.Contains(w[0], "1h30m0s from now") {
		t.Errorf("warnings %q", w)
	}
	d.now = at("08:45")
	last(t, l, "alice", "08:00")
	d.now = at("09:31")
	last(t, l, "alice", "08:00")
	quiet(t, l)
	d.now = at("07:00")
	last(t, l, "alice", "07:00")
	d.write("auth.log", in("07:05", "bob"))
	d.now = at("07:06")
	last(t, l, "bob", "07:05")
}

// A log of more than a year, in a form without years, is read correctly.
func TestYears(t *testing.T) {
	days := func(n int) time.Time { return eight.AddDate(0, 0, -n) }
	var log strings.Builder
	for n := 730; n > 0; n -= 5 {
		log.WriteString(noiseAt(days(n)))
	}
	year := log.String()
	anniversary := inAt(at("07:30").AddDate(-1, 0, 0), "alice") // without a year, this reads as half an hour ago
	for _, test := range []struct{ name, text, user, hhmm string }{
		{"a login a year ago to the hour", strings.Replace(year, noiseAt(days(365)), anniversary, 1), "", ""},
		{"and one of today", strings.Replace(year, noiseAt(days(365)), anniversary, 1) + in("06:00", "bob"), "bob", "06:00"},
		{"a clock that forgets the date at each start", in("07:30", "alice") + "Jan  1 00:00:09 gate systemd[1]: Starting\n" + noise("07:50"), "alice", "07:30"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newLogDir(t)
			d.write("auth.log", test.text)
			last(t, d.log("auth.log"), test.user, test.hhmm)
		})
	}
	if !strings.Contains(year, noiseAt(days(365))) {
		t.Fatal("the log has no line from a year ago to replace")
	}
}

func TestStopsWhenAsked(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", in("07:30", "alice"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := d.log("auth.log").Last(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoData) {
		t.Errorf("Last of an ended context: %v", err)
	}
}
