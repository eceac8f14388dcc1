//go:build linux

package presence

import (
	"bytes"
	"io"
	"time"
)

const (
	// maxLogin is the longest line that may be a login; sshd cuts names and
	// addresses to 100 and 200 characters, a certificate's identity follows.
	maxLogin = 8 << 10
	// maxQuote is how much of a line a warning shows.
	maxQuote = 160
	// markLen is how many bytes before the place read up to are remembered.
	markLen = 256
)

// mayBeLogin is a cheap check before a line is parsed.
func mayBeLogin(line []byte) bool { return bytes.Contains(line, []byte("Accepted ")) }

// mark is how far a file was read, and how to know that it is still the same: a growing
// file by the bytes before that place, a compressed one by size and by when its inode
// changed, which nobody who repairs a file can set back.
type mark struct {
	offset  int64
	tail    []byte // up to markLen bytes that end at offset
	size    int64
	changed time.Time
}

// set remembers offset and the bytes before it.
func (m *mark) set(r io.ReaderAt, offset int64) error {
	if offset == m.offset && m.tail != nil {
		return nil
	}
	tail := make([]byte, min(offset, markLen))
	if _, err := r.ReadAt(tail, offset-int64(len(tail))); err != nil {
		return noEOF(err)
	}
	m.offset, m.tail = offset, tail
	return nil
}

// holds says whether the file is the one that the mark was made in.
func (m *mark) holds(r io.ReaderAt, size int64, changed time.Time, zipped bool) bool {
	if zipped {
		return m.size == size && m.changed.Equal(changed)
	}
	if size < m.offset {
		return false
	}
	now := make([]byte, len(m.tail))
	_, err := r.ReadAt(now, m.offset-int64(len(now)))
	return err == nil && bytes.Equal(now, m.tail)
}

// inside says whether the mark is inside a line that is too long: no line begins
// there (see afterZeros).
func (m *mark) inside() bool {
	return len(m.tail) > 0 && m.tail[len(m.tail)-1] != '\n' && m.tail[len(m.tail)-1] != 0
}

// backward reads an unknown file, from its end, as far as needed.
func (l *logFile) backward() error {
	w := &walk{logFile: l, prev: l.ref.Add(ahead)}
	l.pr.asOf = l.now
	begin, offset := max(0, l.size-l.most), int64(-1)
	if begin > 0 {
		l.pr.short = l.most
	}
	err := linesBackward(l, begin, l.size, func(line []byte, long bool) bool {
		if offset < 0 { // the unfinished line: it is read when it is finished
			offset = l.size
			if !long {
				offset -= int64(len(afterZeros(line)))
			}
			if l.settled && !long {
				l.finish(line)
			}
			return true
		}
		if !w.on(line) {
			l.pr.short = 0
			return false
		}
		if !long {
			l.take(line)
		}
		return true
	})
	if err != nil {
		return err
	}
	return l.pr.mark.set(l.file, offset)
}

// walk follows the timestamps backwards through a file. They decrease; those that do not
// belong to lines from elsewhere, with clocks of their own, and are skipped, or the file
// is more than a year old, and the inferred years are wrong.
type walk struct {
	*logFile
	hour   []byte    // the beginning of the stamp before, to the hour or the day
	beyond bool      // that stamp was far beyond now
	prev   time.Time // the time of the stamp before; at first what none is later than
	older  int       // how many in a row were older than a later login's line can be

	fell   time.Time     // where prev was before it fell by a season
	strays int           // lines since then
	slid   time.Duration // how far prev has moved by small steps since then
}

const (
	// season is a change between neighbouring lines that is more than a pause.
	season = 180 * 24 * time.Hour
	// week is how far the timestamps of strays may move, and the limit of a small step: a
	// log that goes on for longer is not a stray, but older than the inferred years.
	week = 7 * 24 * time.Hour
	// maxStray is how many lines in a row may be strays.
	maxStray = 1000
	// aYear is how far back a log reaches in which the years inferred may be
	// wrong.
	aYear = 330 * 24 * time.Hour
)

// on says whether the walk continues past line.
func (w *walk) on(line []byte) bool {
	line = afterZeros(line)
	w.strays++
	hour := line[:min(len(line), len("Nov  2 07:"))]
	if w.best == nil && bytes.Equal(hour, w.hour) {
		if w.beyond {
			w.pr.beyond++
		}
		return true // nothing to compare with: once an hour is often enough
	}
	w.hour = append(w.hour[:0], hour...)
	t, _, ok := cutStamp(string(line[:min(len(line), 64)]), w.ref)
	if !ok {
		return true
	}
	w.beyond = t.After(w.now.Add(farOff)) && !t.yearless
	if w.beyond {
		w.pr.beyond++
	}
	if w.turned(t) {
		if !w.fell.IsZero() || w.prev.After(w.ref.Add(-aYear)) {
			w.pr.gaveUp = quote(line)
		}
		return false
	}
	if w.best == nil || !t.Before(w.best.Time.Add(-disorder)) {
		w.older = 0
		return true
	}
	w.older++
	return w.older < maxStray
}

// turned says whether the line with timestamp t is more than a year old, so that the year
// inferred for it is wrong: going backwards the timestamps have decreased through a year
// and are suddenly high again. Back from strays (a few lines of another host, or of 1
// January, as a machine without a clock's battery writes at each start) the stamps rise
// too, but not above where they fell from.
func (w *walk) turned(t stamp) bool {
	step := w.prev.Sub(t.Time)
	switch {
	case step.Abs() < week:
		w.slid += step.Abs()
	case step > season && w.fell.IsZero():
		w.fell, w.strays, w.slid = w.prev, 0, 0
	case step < -season:
		back := !w.fell.IsZero() && !t.After(w.fell.Add(disorder)) && w.strays <= maxStray && w.slid < week
		if !back && !t.yearless {
			return false // it has another clock; prev stays
		}
		if !back {
			return true
		}
		w.fell = time.Time{}
	}
	w.prev = t.Time
	return false
}
