//go:build linux

package presence

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	// journalPatience limits one reading: a journalctl that hangs must not keep a door
	// open.
	journalPatience = 2 * time.Minute
	// maxEntry is the longest entry that is looked at.
	maxEntry = 256 << 10
	// maxComplaint is how much of journalctl's error output is kept.
	maxComplaint = 2 << 10
	// walkAtMost is how long a failed walk backwards is not retried.
	walkAtMost = 5 * time.Minute
)

// journal reads the machine's journal through journalctl, the one reader that systemd
// promises to keep. Each reading asks for the newest entry of all, which shows whether
// there is any data and whether anything is new; if so it reads sshd's entries: at first
// backwards until a login is found and its time is sure to be the latest (see disorder),
// later forwards from the cursor.
//
// If journalctl fails after it has printed entries, these count, and the walk backwards
// is retried only after a while, since it may be expensive.
type journal struct {
	programs []string // where journalctl may be, absolute
	args     []string // come first; for tests
	patience time.Duration
	cursor   string // of the newest entry when sshd's were last read
	best     *Login // the latest login so far, never after now; nil for none

	again  retry     // of the walk backwards, once that has failed
	part   error     // why the walk backwards could not be completed; nil if it could
	blind  bool      // the newest entry could not be read
	heard  string    // what journalctl complains about without failing
	newest time.Time // the newest entry's
	ahead  time.Time // the latest time of a login beyond now
	by     time.Duration
	own    ownOfLook
	odd    oddities // logins that do not count, since the latest that does
	recent
}

func newJournal() *journal { return &journal{programs: JournalPrograms(), patience: journalPatience} }

// JournalPrograms are the absolute paths at which journalctl is looked for: what
// a confined process must be able to execute to read the journal.
func JournalPrograms() []string {
	return []string{"/usr/bin/journalctl", "/bin/journalctl", "/run/current-system/sw/bin/journalctl"}
}

func (j *journal) String() string { return "the journal" }

var (
	// errNoEntry means that the journal can be read but is empty.
	errNoEntry = errors.New("has no entry")
	// errNoProgram means that the machine has no journalctl.
	errNoProgram = errors.New("journalctl is not installed")
	// errSlow means that journalctl did not answer in time.
	errSlow = errors.New("did not answer")
)

func (j *journal) last(ctx context.Context, now time.Time) (Login, bool, []string, error) {
	if j.best != nil && j.best.Time.After(now) {
		j.best.Time = now // the clock was set back
	}
	patient, cancel := context.WithTimeout(ctx, j.waits(ctx))
	defer cancel()
	err := j.read(patient, now)
	if ctx.Err() != nil {
		return Login{}, false, nil, ctx.Err()
	}
	var warn []string
	why, hint := "", ""
	if err != nil {
		why, hint = "the journal: "+err.Error(), journalHint(err)
	}
	switch {
	case errors.Is(err, errPart):
		warn = append(warn, why+"; "+hint)
	case errors.Is(err, errSlow):
		return Login{}, false, []string{why + "; " + hint}, &noData{why: why, hint: hint, slow: true}
	case errors.Is(err, errNoEntry):
		return Login{}, false, nil, &noData{why: why, hint: hint}
	case err != nil:
		return Login{}, false, []string{why + "; " + hint}, &noData{why: why, hint: hint}
	}
	warn = append(warn, append(j.clockWarnings(now), j.odd.warnings(j.String())...)...)
	if j.best == nil {
		return Login{}, false, warn, err
	}
	return *j.best, true, warn, err
}

// waits returns how long journalctl may take, so that the caller can still look
// elsewhere.
func (j *journal) waits(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return min(j.patience, time.Until(end)*2/3)
	}
	return j.patience
}

func (j *journal) clockWarnings(now time.Time) (warn []string) {
	if j.newest.Sub(now) > farOff {
		warn = append(warn, fmt.Sprintf("the journal's newest entry is of %s, which is in the future: the clock is "+
			"behind, so new logins cannot be recognised; set it (`timedatectl`)", j.newest.Format(time.RFC3339)))
	}
	if j.ahead.Sub(now) > time.Minute {
		warn = append(warn, fmt.Sprintf("the journal: a login is stamped %s, which was %s from now: it counts as of when it was "+
			"read; check the clock", j.ahead.Format(time.RFC3339), j.by.Round(time.Second)))
	}
	return warn
}

// journalHint returns what to do about a journal that cannot be read.
func journalHint(err error) string {
	const group = "join doorward's user to the group systemd-journal (`usermod -aG systemd-journal doorward`, then " +
		"`systemctl restart doorward`)"
	const files = "name sshd's log file in presence.logins"
	says := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(err.Error(), w) })
	}
	switch {
	case errors.Is(err, errNoProgram):
		return "install journalctl (of systemd), or " + files
	case errors.Is(err, errNoEntry):
		return "have journald keep its entries (Storage= in journald.conf(5)), or " + group + ", or " + files
	case errors.Is(err, errSlow):
		return "check whether `journalctl -n 1` answers, or " + files
	case errors.Is(err, fs.ErrPermission): // it was not even run
		return "let doorward's user execute it, or " + files
	case says("permission", "Permission", "not seeing messages"): // of journalctl(1)
		return group + ", or " + files
	case says("corrupt", "truncated", "Bad message", "Input/output error", "unsupported feature"):
		return "`journalctl --verify` tells which of its files is damaged, `journalctl --rotate` begins new ones; then move the " +
			"damaged one away, or " + files
	}
	return "check what `journalctl -n 1` says as doorward's user, or " + files
}

// read brings the journal's best up to date. An error that is errPart says that
// some of it could not be read.
func (j *journal) read(ctx context.Context, now time.Time) error {
	j.heard, j.own = "", ownOfLook{}
	newest, err := j.tail(ctx)
	var exit *exec.ExitError
	switch {
	case newest == "" && err != nil && !errors.As(err, &exit):
		return err
	case newest == "" && err == nil && j.heard != "":
		return errors.New(j.heard)
	case newest == "" && err == nil:
		return errNoEntry
	}
	if err == nil && j.blind {
		j.again = retry{} // something has changed
	}
	j.blind = err != nil
	due := j.again.due(now)
	if j.cursor != "" && err == nil && (j.part == nil || !due) {
		if err = j.forward(ctx, now, newest); err == nil {
			return j.inPart(nil)
		}
	}
	if ctx.Err() != nil || !due {
		return j.inPart(err)
	}
	return j.back(ctx, now, newest, err)
}

// inPart returns the error for a reading that ended with err.
func (j *journal) inPart(err error) error {
	err = cmp.Or(err, j.part)
	if err == nil && j.heard != "" {
		err = errors.New(j.heard)
	}
	switch {
	case err == nil:
		return nil
	case j.blind && j.part == nil:
		return err // not even the newest entry
	}
	return fmt.Errorf("%w: %w", errPart, err)
}

// tail returns the cursor of the newest entry of all, "" if there is none.
func (j *journal) tail(ctx context.Context) (cursor string, err error) {
	_, err = j.run(ctx, []string{"--lines=1"}, func(e entry) bool {
		cursor, j.newest = e.cursor, e.time
		return true
	})
	return cursor, err
}

// sshds match sshd's entries: two matches of one field are alternatives, those of
// different fields must all hold (journalctl(1)).
var sshds = func() []string {
	all := []string{"_UID=0"}
	for _, name := range sshdNames {
		all = append(all, "_COMM="+comm(name))
	}
	return all
}()

// forward reads what is new up to newest.
func (j *journal) forward(ctx context.Context, now time.Time, newest string) error {
	if newest == j.cursor {
		return nil
	}
	// Not --after-cursor: that passes over two entries and takes the first for the
	// cursor's, which is lost where the cursor's is not among those that match
	// (systemd 252, journalctl.c).
	_, err := j.run(ctx, append(slices.Clone(sshds), "--cursor="+j.cursor), func(e entry) bool {
		if e.cursor != j.cursor {
			j.take(e, now)
		}
		return true
	})
	if err == nil {
		j.cursor = newest
	}
	return err
}

// back reads backwards from the end as far as needed. Err is what went wrong before.
func (j *journal) back(ctx context.Context, now time.Time, newest string, err error) error {
	n, failed := j.run(ctx, append(slices.Clone(sshds), "--reverse"), func(e entry) bool {
		j.take(e, now)
		return j.best == nil || !e.time.Before(j.best.Time.Add(-disorder))
	})
	if failed == nil && newest != "" {
		j.cursor, j.part, j.again = newest, nil, retry{}
		return j.inPart(nil)
	}
	j.again.failed(now, walkAtMost)
	err = cmp.Or(failed, err)
	if n == 0 && newest == "" {
		return err
	}
	j.cursor, j.part = newest, err
	return j.inPart(nil)
}

// take makes the entry's login the latest if it is.
func (j *journal) take(e entry, now time.Time) {
	login, what := e.login()
	switch {
	case what == noLogin, what == isLogin && j.own.has(login.Source):
		return
	case what != isLogin:
		j.odd.add(what, []byte(e.cursor))
		return
	case j.cursor != "":
		j.odd = oddities{} // the next counts
	}
	login.Time = login.Time.In(now.Location())
	if login.Time.After(now) {
		if login.Time.After(j.ahead) {
			j.ahead, j.by = login.Time, login.Time.Sub(now)
		}
		login.Time = now
	}
	j.recent.add(login)
	if j.best == nil || login.Time.After(j.best.Time) {
		j.best = &login
	}
}

// run calls each with the entries that journalctl prints, until it returns
// false. It waits for the program's end, and tells how many entries there were,
// also with an error.
func (j *journal) run(ctx context.Context, args []string, each func(entry) bool) (n int, err error) {
	program, err := j.program()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	// Only this machine's system journal; what other users' programs log is
	// in journals of their own where journald splits them.
	args = append(append([]string{}, j.args...), append([]string{
		"--system", "--no-pager", "--output=json", "--output-fields=MESSAGE,_UID,_COMM,_EXE,_TRANSPORT",
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
		return 0, fmt.Errorf("run %q: %w", program, err)
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("run %q: %w", program, err)
	}
	whole, readErr := eachEntry(out, func(e entry) bool {
		n++
		return each(e)
	})
	if !whole {
		stop() // there may be gigabytes more
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil && whole:
		return n, fmt.Errorf("%s %w within %s", program, errSlow, time.Since(begun).Round(time.Second))
	case readErr != nil:
		return n, fmt.Errorf("read from %q: %w", program, readErr)
	case whole && err != nil:
		return n, fmt.Errorf("%s: %w: %s", program, err, complaint)
	case whole && len(complaint.b) > 0:
		j.heard = program + ": " + complaint.String()
	}
	return n, nil
}

// program finds journalctl. It does not use PATH, which is controlled by the environment.
func (j *journal) program() (string, error) {
	for _, p := range j.programs {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w (looked for %s)", errNoProgram, strings.Join(j.programs, ", "))
}

// eachEntry calls each with the entries that r has, a line each, until it returns false,
// which is the false that is returned. Anything that is not an entry, or too long, is
// skipped: journalctl also prints "-- No entries --".
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
		if e, ok := parseEntry(line); ok && !inside && !each(e) {
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
