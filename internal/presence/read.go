//go:build linux

package presence

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// maxLine bounds what is held of a line: shorter ones are looked at, longer
// ones may be passed over. No line of sshd's about a login comes near it.
const maxLine = 64 << 10

// linesBackward calls each with the lines of r before end, last one first,
// without their newlines, and with the offset at which each begins. The first
// call is for what follows the last newline: an unfinished line, or nothing.
// long says that the line is too long and was left out. It stops when each
// returns false, and reads blocks of maxLine bytes only as far as it must.
func linesBackward(r io.ReaderAt, end int64, each func(line []byte, start int64, long bool) bool) error {
	var buf []byte // a block, and behind it the beginning of the line that it cuts
	block, long := make([]byte, maxLine), false
	for pos := end; pos > 0; {
		n := min(pos, maxLine)
		pos -= n
		if _, err := r.ReadAt(block[:n], pos); err != nil {
			return noEOF(err)
		}
		buf = append(append(make([]byte, 0, int(n)+len(buf)), block[:n]...), buf...)
		for i := bytes.LastIndexByte(buf, '\n'); i >= 0; i = bytes.LastIndexByte(buf, '\n') {
			if !each(buf[i+1:], pos+int64(i)+1, long) {
				return nil
			}
			buf, long = buf[:i], false
		}
		if len(buf) > maxLine {
			buf, long = nil, true
		}
	}
	each(buf, 0, long)
	return nil
}

// noEOF names the end of a file that was longer a moment ago: it was truncated.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// linesForward calls each with the finished lines of r, without their
// newlines. inside says that r begins inside a line that is too long. It returns
// how many bytes are done with, also with an error; what follows them is an
// unfinished line, which is returned as well if r ended without an error.
func linesForward(r io.Reader, inside bool, each func(line []byte)) (done int64, rest []byte, err error) {
	b := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := b.ReadSlice('\n')
		switch {
		case err == nil:
			done += int64(len(line))
			if !inside {
				each(line[:len(line)-1])
			}
			inside = false
		case errors.Is(err, bufio.ErrBufferFull):
			done += int64(len(line))
			inside = true
		case errors.Is(err, io.EOF) && inside:
			return done + int64(len(line)), nil, nil
		case errors.Is(err, io.EOF):
			return done, line, nil
		default:
			return done, nil, err
		}
	}
}
