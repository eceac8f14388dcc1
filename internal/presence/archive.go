//go:build linux

package presence

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

// maxArchive bounds how much text is read of a compressed file: a week of four
// lines a second comes to less, and a slow machine inflates it within one look
// for presence.
const maxArchive = 256 << 20

// unzip reads a compressed file, up to l.most bytes of text. It never grows, so
// its last line counts even without a newline, if that is where it ends.
//
// What comes before a damaged place counts. That place, or where the text was
// cut, is remembered like the end of a whole file, so that not every look
// inflates the same again: a file that is still being written changes. What the
// disk could not read is tried again; only that is an error here.
func (l *logFile) unzip() error {
	first := true
	take := func(line []byte) {
		if first {
			t, _, _ := cutStamp(string(line[:min(len(line), 64)]), l.ref)
			l.pr.floor, first = t.Time, false // zero if it has none
		}
		l.take(line)
	}
	text := &io.LimitedReader{N: l.most + 1}
	var rest []byte
	z, err := gzip.NewReader(io.NewSectionReader(l, 0, l.size))
	if err == nil {
		text.R = z
		_, rest, err = linesForward(text, false, take)
	}
	var disk *fs.PathError
	switch {
	case l.ctx.Err() != nil:
		return l.ctx.Err()
	case errors.As(err, &disk):
		return err
	case err != nil:
		l.pr.broken = fmt.Sprintf("%v after %d bytes of text: logins after that do not count; "+
			"`gzip -t` tells whether the file is damaged", err, l.most+1-text.N)
	case text.N == 0:
		l.pr.cut = l.most
	case text.N > l.most:
		l.pr.empty = true
	case len(rest) > 0:
		take(rest)
	}
	return nil
}
