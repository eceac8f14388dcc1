//go:build linux

// Package presence finds out who is in: the latest login that sshd wrote to an auth log
// or the journal, and who has come in through a door's ports and is still there,
// according to the kernel's sockets (sock_diag) and connection tracking.
//
// It only reads. It decides nothing about doors, keeps nothing on disk, and believes no
// stranger: only a line that sshd itself wrote, and whose timestamp is known, counts as a
// login. In doubt, it reports less presence rather than more, and says why.
//
// A text log has no proof of who wrote a line: a local user who may write to /dev/log can
// write sshd's tag and number too, and a log that also receives other hosts' lines
// contains their logins. What sshd itself writes to a file (sshd -E) or to standard error
// (sshd -e), which journald passes on to a syslog daemon, has visitors' names with their
// line breaks, so that visitors can forge any line. The journal's trusted fields are
// reliable, which is why Auto prefers it.
package presence

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// ErrNoData says that there is no log data anywhere: no file of the list
// exists or all are empty or unreadable, or the journal has no entry or cannot
// be read. The error that wraps it says why for each place, and what to do.
var ErrNoData = errors.New("no log data")

// noData is ErrNoData with the reasons and what to do.
type noData struct {
	why, hint string
	slow      bool // there may be data: it is not ErrNoData
}

func (e *noData) Error() string {
	if e.slow {
		return e.why + "; " + e.hint
	}
	return ErrNoData.Error() + ": " + e.why + "; " + e.hint
}

func (e *noData) Unwrap() error {
	if e.slow {
		return nil
	}
	return ErrNoData
}

// Login is one accepted login, which did not come over loopback.
type Login struct {
	// Time is the line's timestamp, or the moment when the line was first read if the
	// timestamp is later: no login is later than now.
	Time   time.Time
	User   string     // as sshd wrote it
	Method string     // "password", "publickey", "keyboard-interactive/pam", ...
	Source netip.Addr // IPv4-mapped addresses as IPv4; the zero Addr if sshd did not know it
	Port   uint16     // at the other end
	Where  string     // the file that the line was read from, or "journal"
}

// Log is one place where logins are written. Its methods may be called from
// several goroutines; calls of Last wait for each other.
type Log struct {
	mu       sync.Mutex // guards all below
	src      source
	now      func() time.Time
	zone     zone
	warnings []string
}

// source is what a Log reads: files, the journal, or whichever is found.
type source interface {
	// last returns the latest login as of now, and what is odd, for people,
	// also with an error. An error that is errPart comes with what could be read,
	// and with a warning that says what could not.
	last(ctx context.Context, now time.Time) (Login, bool, []string, error)
	// newLogins returns the logins that were read since the previous call. It says how
	// many more there were than are kept.
	newLogins() (all []Login, lost int)
	String() string
}

// errPart says that a place has log data, some of which cannot be read.
var errPart = errors.New("can be read in part only")

// Last returns the latest login by time; false means that there is log data but no login
// in it. Each call reads only what is new since the previous one. The error is one that
// errors.Is ErrNoData, or ctx's, or says which program did not answer in time.
func (l *Log) Last(ctx context.Context) (Login, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, odd := l.zone.in(l.now())
	if w := unset(now); w != "" {
		odd = append(odd, w)
	}
	login, ok, warnings, err := l.src.last(ctx, now)
	l.warnings = append(odd, warnings...)
	if err != nil && !errors.Is(err, errPart) {
		return Login{}, false, err
	}
	return login, ok, nil
}

// Fresh returns the logins that were read since the previous call, in order of time: if
// there are very many, the last 1,000 read from each place, and how many were lost. It
// includes only some of those written before the first check. If a file was replaced, or
// two places have the same lines, a login may come again.
func (l *Log) Fresh() (all []Login, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all, lost = l.src.newLogins()
	slices.SortStableFunc(all, func(a, b Login) int { return a.Time.Compare(b.Time) })
	return all, lost
}

// Warnings returns what the last call of Last found that an operator should act on:
// logins under a header or timestamp of an unknown form, a timestamp from the future, a
// file or a journal that may not be read, a clock that was not set. It is empty when all
// is well.
func (l *Log) Warnings() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.warnings...)
}

// PassedOver lists the files that seem to be rotations of the log that is read, but are
// not read themselves: their names do not show which is newer, or they are compressed in
// an unknown way.
func (l *Log) PassedOver() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	src := l.src
	if a, ok := src.(*auto); ok {
		src = a.at()
	}
	if f, ok := src.(*files); ok {
		return f.passedOver()
	}
	return nil
}

// String names the place for people: "/var/log/auth.log", "the journal".
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.src.String()
}

// Files reads the files of paths, newest first, in the forms that syslog daemons write. A
// file that is missing but there with ".gz", ".zst" or ".bz2" added is read so. A list of
// one file stands for that file and its rotations beside it (path.0, path.1, path.2.gz,
// path-20261122, ...: the newest four of them); a longer list is taken as it is.
// Timestamps without a zone are in now's location; where that is time.Local, in that of
// /etc/localtime as it is at each Last, unless the environment has TZ.
func Files(paths []string, now func() time.Time) *Log { return newLog(newFiles(paths), now) }

// Journal reads the machine's journal through journalctl, by trusted fields.
func Journal(now func() time.Time) *Log { return newLog(newJournal(), now) }

// Auto reads what an SSH door's logins are written to: the journal if it has
// entries that may be read, else the first of /var/log/auth.log,
// /var/log/secure and /var/log/messages that has data, with its rotations. Where
// one that comes before it is broken, is there in part only or comes later, it is
// tried again, at growing intervals if that costs something. The error says what
// was looked for.
func Auto(now func() time.Time) *Log { return newLog(newAuto(), now) }

// maxRead limits the logins that are kept for Fresh.
const maxRead = 1000

// recent keeps logins for Fresh.
type recent struct {
	logins []Login
	lost   int // before them
}

func (r *recent) add(l Login) {
	if len(r.logins) >= maxRead {
		r.logins = r.logins[1:]
		r.lost++
	}
	r.logins = append(r.logins, l)
}

func (r *recent) newLogins() (all []Login, lost int) {
	all, lost = r.logins, r.lost
	*r = recent{}
	return all, lost
}

func newLog(src source, now func() time.Time) *Log {
	return &Log{src: src, now: now, zone: zone{path: localtime}}
}
