//go:build linux

package presence

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// logDir is a directory of logs whose writer and reader have one clock.
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

// copytruncate is logrotate's: a copy, and the file emptied in place.
func (d *logDir) copytruncate(from, to string) {
	d.t.Helper()
	text, err := os.ReadFile(d.path(from))
	d.must(err)
	d.write(to, string(text))
	d.must(os.Truncate(d.path(from), 0))
}

// compress is gzip's: a file of another name with the same time.
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

// at is the instant of eight's day that reads as hhmm.
func at(hhmm string) time.Time {
	t, err := time.Parse("15:04", hhmm)
	if err != nil {
		panic(err)
	}
	return time.Date(eight.Year(), eight.Month(), eight.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
}

// in is user's login at hhmm; noise is another line of that time.
func in(hhmm, user string) string { return inAt(at(hhmm), user) }

func inAt(t time.Time, user string) string {
	return t.Format(time.Stamp) + " gate sshd[7]: Accepted password for " + user + " from 192.0.2.7 port 51122 ssh2\n"
}

func noise(hhmm string) string { return noiseAt(at(hhmm)) }

func noiseAt(t time.Time) string {
	return t.Format(time.Stamp) + " gate CRON[8]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)\n"
}

// last checks what the log says: user at hhmm, or "" for no login.
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
			last(t, d.log("auth.log"), "", "") // nor is it read by one who starts here
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
	// The end of a line that is too long looks like one, and is none.
	d.write("auth.log", in("07:50", "mallory"))
	last(t, l, "alice", "07:40")
	last(t, d.log("auth.log"), "alice", "07:40")
	d.write("auth.log", in("07:51", "bob"))
	last(t, l, "bob", "07:51")
	last(t, d.log("auth.log"), "bob", "07:51")
}

// The article's list, rotated at 8:00: the login of 7:50 is in secure.1.
func TestRotationByRenaming(t *testing.T) {
	for _, names := range [][]string{{"secure", "secure.1", "secure.2", "secure.3", "secure.4"}, {"secure"}} {
		t.Run(strconv.Itoa(len(names)), func(t *testing.T) {
			d := newLogDir(t)
			d.write("secure", noise("05:00")+in("07:40", "alice"))
			l := d.log(names...)
			last(t, l, "alice", "07:40")
			d.write("secure", in("07:50", "bob"))
			d.rename("secure", "secure.1")
			last(t, l, "bob", "07:50")
			d.write("secure", noise("07:55"))
			last(t, l, "bob", "07:50")
			last(t, d.log(names...), "bob", "07:50")
			// The daemon that writes has not yet been told to reopen its file.
			d.write("secure.1", in("07:56", "carol"))
			last(t, l, "carol", "07:56")
			d.rename("secure.1", "secure.2")
			d.rename("secure", "secure.1")
			d.write("secure", in("07:58", "dave"))
			last(t, l, "dave", "07:58")
			quiet(t, l)
		})
	}
}

func TestRotationByCopying(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", strings.Repeat(noise("05:00"), 20)+in("07:40", "alice"))
	l := d.log("auth.log")
	last(t, l, "alice", "07:40")
	d.write("auth.log", in("07:50", "bob"))
	d.copytruncate("auth.log", "auth.log.1")
	last(t, l, "bob", "07:50")
	d.write("auth.log", noise("07:52"))
	last(t, l, "bob", "07:50")
	// Grown past where it was read to before anybody looked again.
	d.copytruncate("auth.log", "auth.log.1")
	d.write("auth.log", in("07:55", "carol")+strings.Repeat(noise("07:56"), 40))
	last(t, l, "carol", "07:55")
	quiet(t, l)
}

func TestCompressedRotations(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", noise("05:00")+in("07:50", "alice"))
	d.compress("auth.log")
	d.rename("auth.log.gz", "auth.log.2.gz")
	d.write("auth.log.1", noise("07:52"))
	d.write("auth.log", "")
	last(t, d.log("auth.log"), "alice", "07:50")
	// A list from before the files were compressed.
	l := d.log("auth.log", "auth.log.1", "auth.log.2", "auth.log.3")
	last(t, l, "alice", "07:50")
	last(t, l, "alice", "07:50")
	quiet(t, l)
	d.must(os.Remove(d.path("auth.log.1")))
	last(t, l, "alice", "07:50")
	if got, _, _ := l.Last(t.Context()); got.Where != d.path("auth.log.2.gz") {
		t.Errorf("found in %q, want the compressed file", got.Where)
	}
}

// Files older than what is needed are there, and are not read.
func TestOlderFilesAreLeftAlone(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log.2.gz", "this is no gzip")
	d.write("auth.log.1", noise("05:00")+in("07:40", "alice"))
	d.write("auth.log", noise("07:50"))
	l := d.log("auth.log")
	for range 2 {
		last(t, l, "alice", "07:40")
		quiet(t, l)
	}
}

func TestDatedRotations(t *testing.T) {
	d := newLogDir(t)
	d.write("secure", noise("07:55"))
	d.write("secure-20261122", in("07:50", "alice"))
	d.write("secure-20261115", in("06:00", "bob"))
	d.compress("secure-20261115")
	d.write("secure-latest", in("07:59", "mallory"))
	d.write("secure.1.swp", in("07:59", "mallory"))
	last(t, d.log("secure"), "alice", "07:50")
	d.must(os.Remove(d.path("secure-20261122")))
	last(t, d.log("secure"), "bob", "06:00")
}

func TestRotations(t *testing.T) {
	d := newLogDir(t)
	for _, n := range []string{"a.log", "a.log.10", "a.log.2.gz", "a.log.1", "a.log.1.gz", "a.log.3.gz", "a.log.x",
		"a.log-20261122", "a.log-20261115.gz", "a.log.bak", "a.log.0", "xa.log.1", "a.log.1.xz"} {
		d.write(n, "x\n")
	}
	var got []string
	for _, p := range places([]string{d.path("a.log")}) {
		got = append(got, filepath.Base(p))
	}
	if want := "a.log a.log.1 a.log.2.gz a.log.3.gz a.log.10"; strings.Join(got, " ") != want {
		t.Errorf("places = %q, want %q", got, want)
	}
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
	// What was read once does not stand in for a log that is gone.
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
			t.Fatalf("a compressed file of nothing: %v", err)
		}
	}
}

// asNobody runs f on a thread that may read what everybody may.
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
		t.Fatalf("no leave to read: %v", err)
	}
	// With older data there is data, but not without a word.
	d.write("secure.1", noise("07:00"))
	d.must(os.Chmod(d.path("secure.1"), 0o644))
	var ok bool
	asNobody(t, func() { _, ok, err = l.Last(t.Context()) })
	if err != nil || ok {
		t.Fatalf("older data: %v, %v, want no login", ok, err)
	}
	if w := l.Warnings(); len(w) != 1 || w[0] != d.path("secure")+": permission denied" {
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
		"pipe":      "is not a regular file", // and nobody waits for its writer
		"file/x":    "not a directory",
		"broken.gz": "invalid header",
	} {
		_, _, err := d.log(name, name).Last(t.Context())
		if !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// A compressed file that is still being written is read as far as it goes, and
// again when it is whole.
func TestHalfCompressed(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log.1", in("07:50", "alice"))
	d.compress("auth.log.1")
	whole, err := os.ReadFile(d.path("auth.log.1.gz"))
	d.must(err)
	d.must(os.WriteFile(d.path("auth.log.1.gz"), whole[:15], 0o600))
	d.write("auth.log", noise("07:55"))
	l := d.log("auth.log")
	last(t, l, "", "")
	if w := l.Warnings(); len(w) != 1 || !strings.Contains(w[0], "auth.log.1.gz: unexpected EOF") {
		t.Errorf("warnings %q", w)
	}
	d.must(os.WriteFile(d.path("auth.log.1.gz"), whole, 0o600))
	last(t, l, "alice", "07:50")
	quiet(t, l)
}

func TestUnknownStampIsSaid(t *testing.T) {
	d := newLogDir(t)
	d.write("auth.log", noise("07:00")+"2026-11-24 07:50:01 gate sshd[7]: "+accepted+"\n")
	l := d.log("auth.log")
	last(t, l, "", "")
	w := l.Warnings()
	if len(w) != 1 || !strings.Contains(w[0], "auth.log: 1 logins do not count") || !strings.Contains(w[0], "2026-11-24 07:50:01 gate") {
		t.Fatalf("warnings %q", w)
	}
	// The same file under two names, as when it is rotated at that moment.
	d.must(os.Link(d.path("auth.log"), d.path("auth.log.1")))
	d.write("auth.log", "yesterday gate sshd[7]: "+accepted+"\n")
	last(t, l, "", "")
	if w := l.Warnings(); len(w) != 1 || !strings.Contains(w[0], "2 logins do not count") {
		t.Errorf("warnings %q", w)
	}
}

// A stamp from the future, or a clock that is put back, keeps no door open.
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

// Logs of more than a year, in a form without years.
func TestYears(t *testing.T) {
	days := func(n int) time.Time { return eight.AddDate(0, 0, -n) }
	var log strings.Builder
	for n := 730; n > 0; n -= 5 {
		log.WriteString(noiseAt(days(n)))
	}
	year := log.String()
	anniversary := inAt(at("07:30").AddDate(-1, 0, 0), "alice") // reads as half an hour ago
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
		t.Fatal("the log has no line of a year ago to replace")
	}
}

// A rotated file's stamps are no later than its last writing.
func TestAnOldFileIsOld(t *testing.T) {
	d := newLogDir(t)
	d.now = at("07:31").AddDate(-1, 0, 0)
	d.write("auth.log.1", inAt(at("07:30").AddDate(-1, 0, 0), "alice"))
	d.now = eight
	d.write("auth.log", noise("07:50"))
	got, ok, err := d.log("auth.log").Last(t.Context())
	if err != nil || !ok || !got.Time.Equal(at("07:30").AddDate(-1, 0, 0)) {
		t.Errorf("Last = %+v, %v, %v, want the login of a year ago", got, ok, err)
	}
}

// bytesRead is how much this process has read, by proc(5)'s io.
func bytesRead(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if s, ok := strings.CutPrefix(line, "rchar: "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("/proc/self/io has no rchar")
	return 0
}

func TestBigLogIsCheap(t *testing.T) {
	d := newLogDir(t)
	f, err := os.Create(d.path("auth.log"))
	d.must(err)
	old := strings.Repeat(noise("03:00"), 1000)
	for n := 0; n < 50<<20; n += len(old) {
		_, err := io.WriteString(f, old)
		d.must(err)
	}
	d.must(f.Close())
	d.write("auth.log", in("07:30", "alice")+strings.Repeat(noise("07:40"), 1000))
	l := d.log("auth.log")
	read := func() int64 {
		before := bytesRead(t)
		last(t, l, "alice", "07:30")
		return bytesRead(t) - before
	}
	if n := read(); n > 512<<10 {
		t.Errorf("the first look read %d bytes", n)
	}
	if n := read(); n > 8<<10 {
		t.Errorf("a look at nothing new read %d bytes", n)
	}
	d.write("auth.log", strings.Repeat(noise("07:45"), 100))
	if n := read(); n > 32<<10 {
		t.Errorf("a look at 100 new lines read %d bytes", n)
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

// Lines read backwards are the lines read forwards.
func TestLinesBothWays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		for range rapid.IntRange(0, 30).Draw(t, "lines") {
			n := rapid.OneOf(rapid.IntRange(0, 80), rapid.IntRange(maxLine-3, maxLine+3),
				rapid.IntRange(maxLine, 3*maxLine)).Draw(t, "length")
			b.WriteString(strings.Repeat(string(rune('a'+b.Len()%26)), n) + "\n")
		}
		b.WriteString(rapid.StringN(0, 20, 20).Filter(func(s string) bool { return !strings.Contains(s, "\n") }).Draw(t, "rest"))
		text := b.String()
		var back, want []string
		first := true
		err := linesBackward(strings.NewReader(text), int64(len(text)), func(line []byte, start int64, long bool) bool {
			if first { // what follows the last newline
				if int(start) != strings.LastIndexByte(text, '\n')+1 {
					t.Fatalf("the unfinished line begins at %d", start)
				}
			} else if !long && len(line) < maxLine {
				back = append(back, string(line))
			}
			first = false
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(text, "\n")
		for i := len(lines) - 2; i >= 0; i-- {
			if len(lines[i]) < maxLine {
				want = append(want, lines[i])
			}
		}
		if strings.Join(back, "\n") != strings.Join(want, "\n") {
			t.Fatalf("backward: %d lines, want %d", len(back), len(want))
		}
		var forth []string
		done, _, err := linesForward(strings.NewReader(text), false, func(line []byte) bool {
			forth = append(forth, string(line))
			return true
		})
		if err != nil || int(done) != strings.LastIndexByte(text, '\n')+1 {
			t.Fatalf("forward: done with %d of %d bytes, %v", done, len(text), err)
		}
		slices.Reverse(forth)
		if strings.Join(forth, "\n") != strings.Join(want, "\n") {
			t.Fatalf("forward: %d lines, want %d", len(forth), len(want))
		}
	})
}

// Whatever is appended, rotated, copied or compressed between two looks, one
// who looks now and then knows the same last login as one who reads it all.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := newLogDir(t)
		d.dir, _ = os.MkdirTemp(d.dir, "")
		d.now = at("00:00")
		names := []string{"l", "l.1", "l.2", "l.3", "l.4", "l.5", "l.6"}
		l := d.log(names...)
		user, when := "", time.Time{}
		lines := 0
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			d.now = d.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(rt, "minutes")) * time.Minute)
			switch rapid.SampledFrom([]string{"login", "login", "noise", "noise", "look", "look", "rename", "copy", "compress"}).Draw(rt, "step") {
			case "login":
				user, when = fmt.Sprintf("u%d", lines), d.now
				d.write("l", inAt(d.now, user))
				lines++
			case "noise":
				d.write("l", strings.Repeat(noiseAt(d.now), rapid.IntRange(1, 20).Draw(rt, "lines")))
				lines++
			case "rename", "copy":
				if _, err := os.Stat(d.path("l.6")); err == nil {
					continue
				} else if _, err := os.Stat(d.path("l.6.gz")); err == nil {
					continue
				}
				st, err := os.Stat(d.path("l"))
				if err != nil || st.Size() == 0 {
					continue
				}
				for i := 5; i >= 1; i-- {
					for _, z := range []string{"", ".gz"} {
						from, to := fmt.Sprintf("l.%d%s", i, z), fmt.Sprintf("l.%d%s", i+1, z)
						if _, err := os.Stat(d.path(from)); err == nil {
							d.rename(from, to)
						}
					}
				}
				if rapid.Bool().Draw(rt, "renames") {
					d.rename("l", "l.1")
				} else {
					d.copytruncate("l", "l.1")
				}
			case "compress":
				if _, err := os.Stat(d.path("l.2")); err == nil {
					d.compress("l.2")
				}
			case "look":
				d.agree(rt, l, lines, user, when)
			}
		}
		d.agree(rt, l, lines, user, when)
		d.agree(rt, d.log(names...), lines, user, when)
	})
}

func (d *logDir) agree(t *rapid.T, l *Log, lines int, user string, when time.Time) {
	got, ok, err := l.Last(context.Background())
	if lines == 0 {
		if !errors.Is(err, ErrNoData) {
			t.Fatalf("nothing written: %v", err)
		}
		return
	}
	if err != nil || ok != (user != "") || got.User != user || ok && !got.Time.Equal(when.Truncate(time.Second)) {
		t.Fatalf("Last = %s at %s, %v, %v, want %q at %s", got.User, got.Time, ok, err, user, when)
	}
}
