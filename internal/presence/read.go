//go:build linux

package presence

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// maxLine limits how much of a line is held: shorter ones are read, longer ones may be
// skipped. No line of sshd's about a login comes near it.
const maxLine = 64 << 10

// Zero bytes are where a block was never written: because of a power cut, or a writer
// that continues at its old offset in a file that was truncated. However many there are,
// a line begins after them (see afterZeros).

// linesBackward calls each with the lines of r from begin to end, last one first, without
// their newlines. The first call is for what follows the last newline: an unfinished
// line, or nothing. long says that the line is too long or begins before begin, and was
// left out. What comes before zeros in a line may be left out too. It stops when each
// returns false, and reads blocks of maxLine bytes only as far as it must.
func linesBackward(r io.ReaderAt, begin, end int64, each func(line []byte, long bool) bool) error {
	var buf []byte // a block, and behind it the beginning of the line that it cuts
	block, long := make([]byte, maxLine), false
	for pos := end; pos > begin; {
		n := min(pos-begin, maxLine)
		pos -= n
		if _, err := r.ReadAt(block[:n], pos); err != nil {
			return noEOF(err)
		}
		buf = append(append(make([]byte, 0, int(n)+len(buf)), block[:n]...), buf...)
		for i := bytes.LastIndexByte(buf, '\n'); i >= 0; i = bytes.LastIndexByte(buf, '\n') {
			if !each(buf[i+1:], long) {
				return nil
			}
			buf, long = buf[:i], false
		}
		if i := bytes.LastIndexByte(buf, 0); i >= 0 {
			buf = buf[i:]
		}
		if len(buf) > maxLine {
			buf, long = nil, true
		}
	}
	if begin > 0 && bytes.IndexByte(buf, 0) < 0 {
		buf, long = nil, true
	}
	each(buf, long)
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
	var held []byte // the beginning of a line, after zeros
	for {
		line, err := b.ReadSlice('\n')
		if len(held) > 0 {
			line, held = append(held, line...), nil
		}
		zeros := bytes.LastIndexByte(line, 0) + 1
		inside = inside && zeros == 0
		switch {
		case err == nil:
			done += int64(len(line))
			if !inside {
				each(line[:len(line)-1])
			}
			inside = false
		case errors.Is(err, bufio.ErrBufferFull) && zeros > 0:
			done += int64(zeros)
			held = bytes.Clone(line[zeros:])
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
