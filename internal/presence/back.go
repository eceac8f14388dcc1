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

// mayBeLogin is the cheap look before a line is parsed.
func mayBeLogin(line []byte) bool { return bytes.Contains(line, []byte("Accepted ")) }

// mark is how far a file was read, and how to know that it is still the same:
// a growing file by the bytes before that place, a compressed one by size and
// by when its inode changed, which who mends a file cannot set back.
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

// inside says whether the mark is inside a line that is too long.
func (m *mark) inside() bool { return len(m.tail) > 0 && m.tail[len(m.tail)-1] != '\n' }

// backward reads a file that is not known, from its end, as far as needed.
func (l *logFile) backward() error {
	w := &walk{logFile: l}
	offset := int64(-1)
	err := linesBackward(l, l.size, func(line []byte, start int64, long bool) bool {
		if offset < 0 { // the unfinished line: its time comes when it is finished
			offset = start
			return true
		}
		if !w.on(line) {
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

// walk follows the stamps on the way back through a file.
type walk struct {
	*logFile
	hour []byte    // the beginning of the stamp before, to the hour or the day
	prev time.Time // the time of the stamp before
	fell time.Time // where prev was before it fell by a season
}

// season is a change between neighbouring lines that is no mere silence.
const season = 180 * 24 * time.Hour

// on says whether the way goes on past line. It keeps the file's floor.
func (w *walk) on(line []byte) bool {
	hour := line[:min(len(line), len("Nov  2 07:"))]
	if w.best == nil && bytes.Equal(hour, w.hour) {
		return true // nothing to compare with: once an hour is often enough
	}
	w.hour = append(w.hour[:0], hour...)
	t, _, ok := cutStamp(string(line[:min(len(line), 64)]), w.ref)
	if !ok {
		return true
	}
	if t.yearless && w.turned(t.Time) {
		return false
	}
	w.pr.floor = t.Time
	return !(w.best != nil && t.Before(w.best.Time.Add(-disorder)))
}

// turned says whether the line with stamp t is more than a year old, so that
// the year inferred for it is wrong: on the way back the stamps have fallen
// through a year and are suddenly high again. A machine without a clock's
// battery writes a few lines of 1 January at each start; back from those the
// stamps rise too, but not above where they fell from.
func (w *walk) turned(t time.Time) bool {
	switch {
	case w.prev.IsZero():
	case t.Before(w.prev.Add(-season)):
		w.fell = w.prev
	case t.After(w.prev.Add(season)):
		if w.fell.IsZero() || t.After(w.fell.Add(disorder)) {
			return true
		}
		w.fell = time.Time{}
	}
	w.prev = t
	return false
}
