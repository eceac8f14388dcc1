//go:build linux

package presence

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	// journalPatience bounds one reading: a journalctl that hangs must not
	// keep a door open.
	journalPatience = 2 * time.Minute
	// maxEntry is the longest entry that is looked at.
	maxEntry = 256 << 10
	// maxComplaint is how much of journalctl's error output is kept.
	maxComplaint = 2 << 10
)

// journal reads the machine's journal through journalctl, the one reader that
// systemd promises to keep. Each reading asks for the newest entry of all,
// which tells whether there is any data and whether anything is new; if so it
// reads sshd's entries: at first backwards until a login is found and its time
// is sure to be the latest (see disorder), later forwards from the cursor.
type journal struct {
	programs []string // where journalctl may be, absolute
	args     []string // come first; for tests
	cursor   string   // of the newest entry when sshd's were last read
	best     *Login   // the latest login so far, never after now; nil for none
}

func newJournal() *journal { return &journal{programs: JournalPrograms()} }

// JournalPrograms are the absolute paths at which journalctl is looked for: what
// a confined process must be able to execute to read the journal.
func JournalPrograms() []string {
	return []string{"/usr/bin/journalctl", "/bin/journalctl", "/run/current-system/sw/bin/journalctl"}
}

func (j *journal) String() string { return "the journal" }

// errNoEntry is a journal that may be read and is empty.
var errNoEntry = errors.New("has no entry")

const journalHint = `join doorward's user to the group systemd-journal, or name sshd's log file in presence.logins`

func (j *journal) last(ctx context.Context, now time.Time) (Login, bool, []string, error) {
	if j.best != nil && j.best.Time.After(now) {
		j.best.Time = now // the clock was put back
	}
	patient, cancel := context.WithTimeout(ctx, journalPatience)
	defer cancel()
	err := j.read(patient, now)
	if err != nil && j.cursor != "" && patient.Err() == nil {
		j.cursor = "" // it may have been the cursor's fault
		err = j.read(patient, now)
	}
	if err != nil {
		if ctx.Err() != nil {
			return Login{}, false, nil, ctx.Err()
		}
		why := "the journal: " + err.Error()
		var warn []string
		if !errors.Is(err, errNoEntry) {
			warn = []string{why}
		}
		return Login{}, false, warn, &noData{why, journalHint}
	}
	if j.best == nil {
		return Login{}, false, nil, nil
	}
	return *j.best, true, nil, nil
}

func (j *journal) read(ctx context.Context, now time.Time) error {
	newest := ""
	err := j.run(ctx, []string{"--lines=1"}, func(e entry) bool {
		newest = e.cursor
		return true
	})
	switch {
	case err != nil:
		return err
	case newest == "":
		return errNoEntry
	case newest == j.cursor:
		return nil
	}
	// Two matches of one field are alternatives, those of different fields
	// must all hold (journalctl(1)).
	args := []string{"_UID=0", "_COMM=sshd", "_COMM=sshd-session"}
	if j.cursor == "" {
		args = append(args, "--reverse")
	} else {
		args = append(args, "--after-cursor="+j.cursor)
	}
	if err := j.run(ctx, args, func(e entry) bool { return j.take(e, now) }); err != nil {
		return err
	}
	j.cursor = newest
	return nil
}

// take makes the entry's login the latest if it is; false means that what
// follows on the way back cannot be later.
func (j *journal) take(e entry, now time.Time) bool {
	login, ok := e.login()
	if ok {
		login.Time = login.Time.In(now.Location())
		if login.Time.After(now) {
			login.Time = now
		}
		if j.best == nil || login.Time.After(j.best.Time) {
			j.best = &login
		}
	}
	return j.cursor != "" || j.best == nil || !e.time.Before(j.best.Time.Add(-disorder))
}

// run calls each with the entries that journalctl prints, until it returns
// false. It waits for the program's end.
func (j *journal) run(ctx context.Context, args []string, each func(entry) bool) error {
	program, err := j.program()
	if err != nil {
		return err
	}
	// Only this machine's system journal; what other users' programs log is
	// in journals of their own where journald splits them.
	args = append(append([]string{}, j.args...), append([]string{
		"--system", "--no-pager", "--output=json", "--output-fields=MESSAGE,_UID,_COMM,_EXE",
	}, args...)...)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}
	cmd.WaitDelay = time.Second
	complaint := &head{}
	cmd.Stderr = complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run %q: %w", program, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run %q: %w", program, err)
	}
	whole, readErr := eachEntry(out, each)
	if !whole {
		stop() // there may be gigabytes more
	}
	err = cmd.Wait()
	switch {
	case readErr != nil:
		return fmt.Errorf("read from %q: %w", program, readErr)
	case whole && err != nil:
		return fmt.Errorf("%s: %w: %s", program, err, complaint)
	}
	return nil
}

// program finds journalctl. PATH is not asked: it is the environment's word.
func (j *journal) program() (string, error) {
	for _, p := range j.programs {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("journalctl is not installed (looked for %s)", strings.Join(j.programs, ", "))
}

// eachEntry calls each with the entries that r has, a line each, until it
// returns false, which is the false that is returned. What is no entry, or
// too long, is passed over: journalctl also prints "-- No entries --".
func eachEntry(r io.Reader, each func(entry) bool) (whole bool, err error) {
	b := bufio.NewReaderSize(r, maxEntry)
	inside := false
	for {
		line, err := b.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			inside = true
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if e, ok := parseEntry(bytes.TrimSpace(line)); ok && !inside && !each(e) {
			return false, nil
		}
		if err != nil {
			return true, nil
		}
		inside = false
	}
}

// head keeps the beginning of what is written to it.
type head struct{ b []byte }

func (h *head) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), maxComplaint-len(h.b))]...)
	return len(p), nil
}

// String is one line of it, without the full stop at its end.
func (h *head) String() string {
	return strings.TrimSuffix(strings.Join(strings.Fields(string(h.b)), " "), ".")
}
