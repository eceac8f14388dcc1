//go:build linux

package presence

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// progress is what is remembered about a file.
type progress struct {
	mark  mark
	ended int64 // the size up to which an unfinished last line was taken for whole

	odd    oddities      // logins that do not count
	ahead  time.Time     // the latest timestamp of a login beyond now
	by     time.Duration // how far it was when it was read
	beyond int           // timestamps far beyond now on the walk backwards
	gaveUp string        // the line beyond which the file was not searched
	short  int64         // how many bytes at its end were searched; 0 for all
	asOf   time.Time     // when it was searched

	// Of a compressed file:
	empty  bool   // there is nothing in it
	cut    int64  // how many bytes of its text were read; 0 for all
	broken string // why its end could not be read, for people
}

// warnings returns the oddities of a file, for people. Each keeps its text as long as it
// is the same thing, since new ones are written to doorward's log.
func (pr *progress) warnings(name string, p *pass) []string {
	w := pr.odd.warnings(name)
	say := func(format string, args ...any) { w = append(w, name+": "+fmt.Sprintf(format, args...)) }
	if pr.cut > 0 {
		say("only the first %d bytes of its text are read: logins after that do not "+
			"count; let logrotate begin a new file sooner (maxsize 100M)", pr.cut)
	}
	if pr.ahead.Sub(p.now) > time.Minute {
		say("a login is stamped %s, which was %s from now: it counts as of when it was "+
			"read; check the clock and the time zone of the log's writer", pr.ahead.Format(time.RFC3339), pr.by.Round(time.Second))
	}
	if pr.beyond >= manyBeyond {
		say("has lines from after now: the clock is behind, so new logins cannot be recognised; set it (`timedatectl`)")
	}
	if p.best == nil || p.best.Time.Before(pr.asOf) {
		if pr.gaveUp != "" {
			say("is not searched for logins before the line %q, since its stamp is far after those that follow; "+
				"logins count again from now on", pr.gaveUp)
		}
		if pr.short > 0 {
			say("only the last %d bytes of it were searched for a login; let logrotate begin a new file sooner (maxsize 100M)", pr.short)
		}
	}
	return w
}

// forward reads the lines that were finished since the last time.
func (l *logFile) forward() error {
	at := l.pr.mark.offset
	if at == l.size || l.pr.ended == l.size {
		return nil
	}
	done, rest, err := linesForward(io.NewSectionReader(l, at, l.size-at), l.pr.mark.inside(), func(line []byte) {
		l.files.fresh.line(line, l.now)
		l.take(line)
	})
	if err == nil && l.settled {
		l.finish(rest)
	}
	if err != nil && l.ctx.Err() == nil {
		return err
	}
	return l.pr.mark.set(l.file, at+done)
}

// finish processes the last line of a file that nobody writes any more.
func (l *logFile) finish(line []byte) {
	if len(line) > 0 {
		l.take(line)
	}
	l.pr.ended = l.size
}

// take makes the line's login the latest if it is, and notes oddities.
func (l *logFile) take(line []byte) {
	line = afterZeros(line)
	if len(line) > maxLogin || !mayBeLogin(line) {
		return
	}
	login, what := parseLine(string(line), l.ref)
	switch what {
	default:
		l.pr.odd.add(what, line)
	case noLogin:
	case isLogin:
		if l.own.has(login.Source) {
			return // the host itself did not come in through a door
		}
		if login.Time.After(l.now) {
			if login.Time.After(l.pr.ahead) {
				l.pr.ahead, l.pr.by = login.Time, login.Time.Sub(l.now)
			}
			login.Time = l.now
		}
		login.Where = l.file.Name()
		l.files.recent.add(login)
		if l.best == nil || login.Time.After(l.best.Time) {
			l.best = &login
		}
	}
}

// quote returns as much of a line as a warning shows.
func quote(line []byte) string { return string(line[:min(len(line), maxQuote)]) }

// afterZeros returns the part of a line that was really written: a power cut can leave
// zeros in place of a block, and the end of another line before them.
func afterZeros(line []byte) []byte {
	return line[bytes.LastIndexByte(line, 0)+1:]
}
