//go:build linux

package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeJournal is a journal that the stand-in for journalctl reads.
type fakeJournal struct {
	*logDir
	entries int
}

// standIn builds the stand-in for journalctl, once. It is a program of its own, since it is
// started often, and a test binary with the race detector starts slowly.
func standIn(t *testing.T) string {
	t.Helper()
	program, err := builtStandIn()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// buildDir is where the stand-in is built; TestMain makes and removes it.
var buildDir string

var builtStandIn = sync.OnceValues(func() (string, error) {
	program := filepath.Join(buildDir, "journalctl")
	c := exec.Command("go", "build", "-o", program, "./testdata/journalctl")
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build journalctl's stand-in: %w\n%s", err, out)
	}
	return program, nil
})

func newFakeJournal(t *testing.T) *fakeJournal {
	j := &fakeJournal{logDir: newLogDir(t)}
	j.must(os.Symlink(standIn(t), j.path("journalctl")))
	return j
}

func (j *fakeJournal) log() *Log {
	return &Log{src: &journal{programs: []string{j.path("missing"), j.path("journalctl")}, patience: time.Minute}, now: func() time.Time { return j.now }}
}

// add logs a message of sshd at hhmm.
func (j *fakeJournal) add(hhmm, message string) {
	j.t.Helper()
	j.entries++
	text, err := json.Marshal(message)
	j.must(err)
	j.write("entries", fmt.Sprintf(`{"__CURSOR":"c%d","__REALTIME_TIMESTAMP":"%d",%s"MESSAGE":%s}`+"\n",
		j.entries, at(hhmm).UnixMicro(), trusted, text))
}

// calls returns the arguments with which journalctl was called since the last time,
// without those that are always there.
func (j *fakeJournal) calls() []string {
	j.t.Helper()
	text, err := os.ReadFile(j.path("calls"))
	j.must(err)
	j.must(os.Remove(j.path("calls")))
	var calls []string
	for line := range strings.Lines(string(text)) {
		own, ok := strings.CutPrefix(strings.TrimSpace(line), "--system --no-pager --output=json --output-fields=MESSAGE,_UID,_COMM,_EXE,_TRANSPORT ")
		if !ok {
			j.t.Errorf("called with %q", line)
		}
		calls = append(calls, own)
	}
	return calls
}

func by(user string) string {
	return "Accepted password for " + user + " from 192.0.2.7 port 51122 ssh2"
}

func TestJournal(t *testing.T) {
	j := newFakeJournal(t)
	j.add("07:00", "Server listening on 0.0.0.0 port 22.")
	l := j.log()
	const newest, sshd = "--lines=1", "_UID=0 _COMM=sshd _COMM=sshd-session " +
		"_COMM=sshd.pam _COMM=sshd-session.pa _COMM=sshd.krb5 _COMM=sshd-session.kr "
	for _, step := range []struct {
		name, hhmm, add string
		user, at        string
		calls           []string
	}{
		{"no login", "", "", "", "", []string{newest, sshd + "--reverse"}},
		{"nothing new", "", "", "", "", []string{newest}},
		{"a login", "07:40", by("alice"), "alice", "07:40", []string{newest, sshd + "--cursor=c1"}},
		{"noise", "07:45", "Connection closed", "alice", "07:40", []string{newest, sshd + "--cursor=c2"}},
		{"another", "07:50", by("bob"), "bob", "07:50", []string{newest, sshd + "--cursor=c3"}},
		{"an earlier one", "07:48", by("carol"), "bob", "07:50", []string{newest, sshd + "--cursor=c4"}},
		{"one from the future", "09:00", by("dave"), "dave", "08:00", []string{newest, sshd + "--cursor=c5"}},
	} {
		if step.add != "" {
			j.add(step.hhmm, step.add)
		}
		last(t, l, step.user, step.at)
		if got := j.calls(); !slices.Equal(got, step.calls) {
			t.Errorf("%s: journalctl was called with %q, want %q", step.name, got, step.calls)
		}
	}
	want := "the journal: a login is stamped 2026-11-24T09:00:00Z, which was 1h0m0s from now: "
	if w := l.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], want) {
		t.Errorf("warnings %q, want %q...", w, want)
	}
	j.now = at("07:55") // the clock is set back
	last(t, l, "dave", "07:55")
}

// There is a warning about logins whose ends sshd cut off, until a login counts.
func TestJournalReportsCutLogins(t *testing.T) {
	j := newFakeJournal(t)
	j.add("06:00", by("alice"))
	j.add("06:10", long(500))
	l := j.log()
	for range 2 {
		last(t, l, "alice", "06:00")
		if w := l.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], "the journal: logins do not count, since sshd cut") {
			t.Errorf("warnings %q, want one that says so", w)
		}
	}
	j.add("06:20", long(499))
	last(t, l, "root", "06:20")
	quiet(t, l)
}

func TestJournalStopsReadingBack(t *testing.T) {
	j := newFakeJournal(t)
	j.write("endless", "")
	j.add("07:00", "old, and repeated for ever")
	j.add("07:42", by("bob"))
	j.add("07:40", by("alice"))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got, ok, err := j.log().Last(ctx)
	if err != nil || !ok || got.User != "bob" {
		t.Errorf("Last = %+v, %v, %v, want bob", got, ok, err)
	}
	if ctx.Err() != nil {
		t.Error("journalctl was not ended but waited for")
	}
}

func TestJournalAfterABadCursor(t *testing.T) {
	j := newFakeJournal(t)
	j.add("07:40", by("alice"))
	l := j.log()
	l.src.(*journal).cursor = "bad"
	last(t, l, "alice", "07:40")
}

func TestJournalWithoutData(t *testing.T) {
	j := newFakeJournal(t)
	l := j.log()
	check := func(want, hint string) {
		t.Helper()
		_, _, err := l.Last(t.Context())
		if !errors.Is(err, ErrNoData) || !strings.HasPrefix(err.Error(), "no log data: the journal: "+want) ||
			!strings.Contains(err.Error(), hint) {
			t.Errorf("Last: %v, want %q, hint %q", err, want, hint)
		}
	}
	check("has no entry; ", "Storage=")
	j.add("07:40", by("alice"))
	last(t, l, "alice", "07:40")
	j.write("fail", "No journal files were opened\n due to insufficient permissions.\n")
	check(j.path("journalctl")+": exit status 1: No journal files were opened due to insufficient permissions; ",
		"`usermod -aG systemd-journal doorward`")
	for _, complaint := range []string{"Failed to iterate through journal: Bad message", "Failed to open files: Input/output error"} {
		j.must(os.Remove(j.path("fail")))
		j.write("fail", complaint+"\n")
		check(j.path("journalctl")+": exit status 1: "+complaint+"; ", "`journalctl --rotate`")
	}
	j.must(os.Remove(j.path("fail")))
	j.must(os.Remove(j.path("entries")))
	check("has no entry; ", "Storage=") // entries that were read before do not count as data
	j.must(os.Remove(j.path("journalctl")))
	check("journalctl is not installed (looked for ", "install journalctl")
	j.write("journalctl", "no program") // which is not executable
	check(fmt.Sprintf("run %q: ", j.path("journalctl")), "execute it")
}

// What journalctl has printed before it failed counts, and there is a warning with the
// reason. Reading back is tried again, but not at each look.
func TestJournalInPart(t *testing.T) {
	j := newFakeJournal(t)
	j.add("07:00", "older, and damaged")
	j.add("07:30", by("alice"))
	j.write("break", "Failed to iterate through journal: Bad message\n")
	l := j.log()
	last(t, l, "alice", "07:30")
	want := "the journal: can be read in part only: " + j.path("journalctl") + ": exit status 1: Failed to iterate through journal: " +
		"Bad message; `journalctl --verify` tells "
	if w := l.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], want) {
		t.Errorf("warnings %q, want %q...", w, want)
	}
	walks := func(calls []string) (n int) {
		for _, c := range calls {
			if strings.HasSuffix(c, "--reverse") {
				n++
			}
		}
		return n
	}
	j.add("07:40", by("bob")) // new entries can be read
	j.calls()
	for range 6 {
		j.now = j.now.Add(5 * time.Second)
		last(t, l, "bob", "07:40")
		if len(l.Warnings()) != 1 {
			t.Fatalf("warnings %q", l.Warnings())
		}
	}
	if n := walks(j.calls()); n > 2 { // after 5 seconds, and 10 more
		t.Errorf("journalctl read back %d times in half a minute, want at most 2", n)
	}
	j.must(os.Remove(j.path("break")))
	j.now = j.now.Add(walkAtMost)
	last(t, l, "bob", "07:40")
	quiet(t, l)
	if n := walks(j.calls()); n != 1 {
		t.Errorf("journalctl read back %d times after the journal was repaired, want once", n)
	}
	last(t, l, "bob", "07:40")
	if n := walks(j.calls()); n != 0 {
		t.Errorf("journalctl read back %d times in a sound journal with nothing new, want never", n)
	}
}

// If journalctl ignores a damaged file, its message is in the warning.
func TestJournalOfWhichAFileIsDamaged(t *testing.T) {
	j := newFakeJournal(t)
	j.write("grumble", "Journal file /var/log/journal/x/system.journal corrupted, ignoring file.\n")
	l := j.log()
	_, _, err := l.Last(t.Context())
	if !errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "corrupted, ignoring file; `journalctl --verify`") {
		t.Errorf("no other file: %v", err)
	}
	j.add("07:30", by("alice"))
	for range 2 {
		last(t, l, "alice", "07:30")
		if w := l.Warnings(); len(w) != 1 || !strings.Contains(w[0], "can be read in part only") || !strings.Contains(w[0], "corrupted, ignoring file; `journalctl --verify`") {
			t.Errorf("warnings %q", w)
		}
	}
	j.calls()
	last(t, l, "alice", "07:30")
	if n := len(j.calls()); n != 1 {
		t.Errorf("a look at nothing new called journalctl %d times", n)
	}
	j.must(os.Remove(j.path("grumble")))
	last(t, l, "alice", "07:30")
	quiet(t, l)
}

// A journalctl that hangs does not mean an empty journal, and leaves time for the other
// sources.
func TestJournalHangs(t *testing.T) {
	j := newFakeJournal(t)
	j.write("hang", "")
	l := j.log()
	l.src.(*journal).patience = 50 * time.Millisecond
	_, _, err := l.Last(t.Context())
	if err == nil || errors.Is(err, ErrNoData) || !strings.Contains(err.Error(), "did not answer within") {
		t.Errorf("Last: %v", err)
	}
	j.write("socket", "")
	j.write("auth.log", in("07:40", "bob"))
	l = newAutoFor(j)
	l.src.(*auto).places[0].source.(*journal).patience = 50 * time.Millisecond
	last(t, l, "bob", "07:40")
	want := "logins are read from " + j.path("auth.log") + ", because the journal: " + j.path("journalctl") + " did not answer within "
	if w := l.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], want) {
		t.Errorf("warnings %q, want %q...", w, want)
	}
	j.must(os.Remove(j.path("auth.log")))
	if _, _, err := l.Last(t.Context()); err == nil || errors.Is(err, ErrNoData) {
		t.Errorf("Auto, nothing else there: %v", err)
	}
	// A part of a look's half minute is left for the other sources.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if d := newJournal().waits(ctx); d > 20*time.Second || d < 10*time.Second {
		t.Errorf("journalctl may take %s of 30s", d)
	}
}

func TestJournalStopsWhenAsked(t *testing.T) {
	j := newFakeJournal(t)
	j.add("07:00", "noise for ever")
	j.write("endless", "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := j.log().Last(ctx)
		done <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if text, _ := os.ReadFile(j.path("calls")); strings.Contains(string(text), "--reverse") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("journalctl was not asked to read back")
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoData) {
		t.Errorf("Last of an ended context: %v", err)
	}
}

func TestLongEntriesArePassedOver(t *testing.T) {
	good := `{` + realtime + trusted + says + "}"
	long := `{"X":"` + strings.Repeat("x", 2*maxEntry) + `",` + realtime + trusted + says + "}"
	n := 0
	whole, err := eachEntry(strings.NewReader(long+"\n"+good+"\n"+long), func(entry) bool { n++; return true })
	if n != 1 || !whole || err != nil {
		t.Errorf("%d entries, %v, %v, want the one between the long ones", n, whole, err)
	}
	broken := errors.New("broken")
	if _, err := eachEntry(io.MultiReader(strings.NewReader(good), errReader{broken}), func(entry) bool { return true }); !errors.Is(err, broken) {
		t.Errorf("a broken pipe: %v", err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }
