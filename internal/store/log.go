package store

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"syscall"
)

// A state file is a log, with all numbers in little-endian order:
//
//	header  magic [8]byte, form u32, generation u64, salt u64, base u64, CRC-32C
//	        of these u32; acknowledged u64, CRC-32C of it u32; zeros
//	frames  mark u32, length u32, CRC-32C u32, payload
//
// A frame is one commit, or a part of what was kept when the file was begun, which ends
// at base. Its sum covers the salt and the offset of the frame, so that only a frame that
// was written there counts as one, whatever text a payload contains.
//
// The header of a new file is written when everything else is on disk: a header of zeros
// belongs to a file that was never in use. It lies within one sector, which a disk writes
// whole or not at all.
//
// Behind the last frame there may be zeros, room for others, until the file is closed. What
// else a crash leaves there was never acknowledged, and is cut off with them;
// anything else that is not whole is damage. Two things distinguish them: the next frame
// is written only when the previous one is on disk, and then so is acknowledged, although
// without a sync of its own. So anything below it, or followed by a whole frame, was once
// whole. A commit that is damaged within the seconds in which the kernel has not yet
// written the header is taken for one that was cut short, if the power fails, too; the
// log says so.
const (
	headerSize = 64
	frameSize  = 12
	ackedAt    = 40
	form       = 1
	maxFrame   = 1 << 30
)

const magic = "doorward"

var (
	order      = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// file is what a log and a trail need of an *os.File. Sync makes everything that was
// written durable, and the length.
type file interface {
	io.ReaderAt
	io.WriterAt
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// osFile is a file on a disk.
type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Sync leaves out metadata that is not needed to read the file, such as its times,
// fdatasync(2).
func (f osFile) Sync() error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if !errors.Is(err, syscall.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// damageError says what is wrong with a damaged file.
type damageError struct{ what string }

func (e *damageError) Error() string { return e.what }

func damaged(format string, args ...any) error {
	return &damageError{fmt.Sprintf(format, args...)}
}

// errUnfinished is a file whose creation was cut short.
var errUnfinished = &damageError{"it has no header"}

// journal is an open state file.
type journal struct {
	f          file
	generation uint64
	salt       uint64
	base       int64 // where what was kept when it was begun ends
	end        int64 // where the next frame comes
	size       int64 // of the file: what is behind end is zeros
	cut        int64 // bytes after the last whole frame that were cut off, without the zeros behind them
	doubtful   bool  // a write failed: what comes after end must be cut off first
}

// openJournal reads the whole file. It returns a damageError if it is not whole, and nil
// if it is empty.
func openJournal(f file) (*journal, error) {
	size, err := f.Size()
	if err != nil || size == 0 {
		return nil, err
	}
	l := &journal{f: f}
	acknowledged, err := l.readHeader()
	if err != nil {
		return nil, err
	}
	l.end, l.size = size, size
	var tail *tailError
	err = l.read(headerSize, func(payload []byte) error {
		for len(payload) > 0 {
			if _, payload, err = parseEntry(payload); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case errors.As(err, &tail):
		l.end = tail.at
	case err != nil:
		return nil, err
	}
	if l.end < acknowledged || l.end < l.base {
		return nil, damaged("the frame at byte %d of %d is not whole, and %d were acknowledged", l.end, size, acknowledged)
	}
	if l.end == size {
		return l, nil
	}
	if size-l.end > frameSize+maxFrame {
		return nil, damaged("%d bytes behind byte %d are no frame: no commit leaves so many", size-l.end, l.end)
	}
	if l.frameBehind(size) {
		return nil, damaged("the frame at byte %d is not whole, and there are others behind it", l.end)
	}
	if err := l.measureCut(); err != nil {
		return nil, err
	}
	return l, l.trim()
}

// measureCut notes how much there is behind the last whole frame, up to the zeros that were
// room for other frames.
func (l *journal) measureCut() error {
	piece := make([]byte, 1<<18)
	for at := l.end; at < l.size; at += int64(len(piece)) {
		piece = piece[:min(int64(cap(piece)), l.size-at)]
		if _, err := l.f.ReadAt(piece, at); err != nil {
			return err
		}
		if n := len(bytes.TrimRight(piece, "\x00")); n > 0 {
			l.cut = at + int64(n) - l.end
		}
	}
	return nil
}

func (l *journal) readHeader() (acknowledged int64, err error) {
	var h [headerSize]byte
	if _, err := l.f.ReadAt(h[:], 0); err != nil && err != io.EOF {
		return 0, damaged("read its header: %v", err)
	}
	switch {
	case h == [headerSize]byte{}:
		return 0, errUnfinished
	case string(h[:8]) != magic:
		return 0, damaged("it is no state file")
	case order.Uint32(h[36:]) != crc32.Checksum(h[:36], castagnoli):
		return 0, damaged("the sum of its header does not match")
	case order.Uint32(h[8:]) != form:
		return 0, damaged("it has format %d, of a later version; this one knows format %d", order.Uint32(h[8:]), form)
	}
	l.generation, l.salt, l.base = order.Uint64(h[12:]), order.Uint64(h[20:]), int64(order.Uint64(h[28:]))
	// Without it less is known, but nothing is lost.
	if order.Uint32(h[ackedAt+8:]) == crc32.Checksum(h[ackedAt:ackedAt+8], castagnoli) {
		acknowledged = int64(order.Uint64(h[ackedAt:]))
	}
	return acknowledged, nil
}

// tailError says from which byte on there is no whole frame.
type tailError struct{ at int64 }

func (e *tailError) Error() string { return fmt.Sprintf("the frame at byte %d is not whole", e.at) }

// read calls f for the payload of each frame from a place on, which is valid until f
// returns.
func (l *journal) read(from int64, f func(payload []byte) error) error {
	r := bufio.NewReaderSize(io.NewSectionReader(l.f, from, l.end-from), 1<<18)
	var head [frameSize]byte
	var payload []byte
	for at := from; at < l.end; at += int64(frameSize + len(payload)) {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return tailOr(err, at)
		}
		size := int64(order.Uint32(head[4:]))
		if order.Uint32(head[:]) != l.mark() || size == 0 || size > l.end-at-frameSize {
			return &tailError{at}
		}
		if int64(cap(payload)) < size {
			payload = make([]byte, size)
		}
		payload = payload[:size]
		if _, err := io.ReadFull(r, payload); err != nil {
			return tailOr(err, at)
		}
		if !l.whole(head[:], payload, at) {
			return &tailError{at}
		}
		if err := f(payload); err != nil {
			return fmt.Errorf("frame at byte %d: %w", at, err)
		}
	}
	return nil
}

func tailOr(err error, at int64) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return &tailError{at}
	}
	return damaged("read the frame at byte %d: %v", at, err)
}

func (l *journal) mark() uint32 { return uint32(l.salt) }

func (l *journal) sum(payload []byte, at int64) uint32 {
	var b [20]byte
	order.PutUint64(b[:], l.salt)
	order.PutUint64(b[8:], uint64(at))
	order.PutUint32(b[16:], uint32(len(payload)))
	return crc32.Update(crc32.Checksum(b[:], castagnoli), castagnoli, payload)
}

func (l *journal) whole(head, payload []byte, at int64) bool {
	return order.Uint32(head) == l.mark() && order.Uint32(head[8:]) == l.sum(payload, at)
}

// frameBehind says whether a whole frame follows the incomplete one at end. The mark,
// which nobody can know, keeps the search short.
func (l *journal) frameBehind(size int64) bool {
	mark := order.AppendUint32(nil, l.mark())
	piece := make([]byte, 1<<18)
	for from := l.end + 1; size-from > frameSize; from += int64(len(piece)) - frameSize {
		piece = piece[:min(int64(cap(piece)), size-from)]
		if _, err := l.f.ReadAt(piece, from); err != nil && err != io.EOF {
			return true // it is not known
		}
		for at := 0; ; at++ {
			next := bytes.Index(piece[at:], mark)
			if at += next; next < 0 || at+frameSize > len(piece) {
				break
			}
			if l.wholeAt(piece[at:at+frameSize], from+int64(at), size) {
				return true
			}
		}
	}
	return false
}

// wholeAt says whether a head is that of a whole frame in a file of that size.
func (l *journal) wholeAt(head []byte, at, size int64) bool {
	n := int64(order.Uint32(head[4:]))
	if n == 0 || n > size-at-frameSize {
		return false
	}
	payload := make([]byte, n)
	_, err := l.f.ReadAt(payload, at+frameSize)
	return err == nil && l.whole(head, payload, at)
}

// room is how many zeros are written behind a frame that makes the file longer. Later ones
// are written over them: to sync a file whose length and blocks stay as they are takes no
// writing of metadata (fdatasync(2)), a quarter of the time or more; visitors wait for it whose
// knocks must be remembered first.
const room = 64 << 10

// append adds a frame, which is on disk when it returns nil. After an error nothing of it
// is kept, unless what it left cannot be cut off either: then nothing more is accepted
// until that succeeds. (A failed fdatasync leaves pages that look as if they were
// written; those after end are cut off, and the one that contains end is written again
// with the next frame, fsync(2).)
func (l *journal) append(payload []byte) error {
	if l.doubtful {
		if err := l.trim(); err != nil {
			return fmt.Errorf("cut off what a write that failed has left: %w", err)
		}
	}
	frame, err := l.frame(payload, l.end)
	if err != nil {
		return err
	}
	if l.end+int64(len(frame)) <= l.size {
		err = l.write(frame)
	} else if err = l.write(append(frame, make([]byte, room)...)); isFull(err) && !l.doubtful {
		err = l.write(frame) // for which there may be enough
	}
	if err != nil {
		return err
	}
	l.end += int64(len(frame))
	// It is a hint for detecting damage; if it fails, the next one makes up for it.
	_, _ = l.f.WriteAt(ackedField(l.end), ackedAt)
	return nil
}

// write writes what follows the last whole frame, to the disk. What an error leaves is cut
// off, or doubtful.
func (l *journal) write(b []byte) error {
	_, err := l.f.WriteAt(b, l.end)
	if err == nil {
		err = l.f.Sync()
	}
	if err != nil {
		l.doubtful = true
		return errors.Join(err, l.trim())
	}
	l.size = max(l.size, l.end+int64(len(b)))
	return nil
}

// trim cuts off what comes after the last whole frame.
func (l *journal) trim() error {
	if err := l.f.Truncate(l.end); err != nil {
		return err
	}
	if err := l.f.Sync(); err != nil {
		return err
	}
	l.size, l.doubtful = l.end, false
	return nil
}

func (l *journal) frame(payload []byte, at int64) ([]byte, error) {
	if len(payload) > maxFrame {
		return nil, fmt.Errorf("a change of %d bytes: allowed are %d: make several of it", len(payload), maxFrame)
	}
	b := make([]byte, 0, frameSize+len(payload))
	b = order.AppendUint32(b, l.mark())
	b = order.AppendUint32(b, uint32(len(payload)))
	b = order.AppendUint32(b, l.sum(payload, at))
	return append(b, payload...), nil
}

func ackedField(end int64) []byte {
	b := order.AppendUint64(nil, uint64(end))
	return order.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// beginJournal begins a new log in the file, with the entries that fill adds. It is on
// disk, and whole, when it returns nil.
func beginJournal(f file, generation uint64, fill func(add func(entry) error) error) (*journal, error) {
	// Old contents, if they could not be removed before, go first: no part of them may be
	// found beside parts of the new ones.
	if size, err := f.Size(); err != nil || size > 0 {
		if err := errors.Join(err, f.Truncate(0), f.Sync()); err != nil {
			return nil, err
		}
	}
	var salt [8]byte
	_, _ = rand.Read(salt[:]) // never fails, crypto/rand
	l := &journal{f: f, generation: generation, salt: order.Uint64(salt[:]), end: headerSize}
	const chunk = 1 << 18
	var payload []byte
	flush := func() error {
		if len(payload) == 0 {
			return nil
		}
		frame, err := l.frame(payload, l.end)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(frame, l.end)
		l.end += int64(len(frame))
		payload = payload[:0]
		return err
	}
	err := fill(func(e entry) error {
		if payload = appendEntry(payload, e); len(payload) < chunk {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, err
	}
	l.base, l.size = l.end, l.end
	h := append([]byte(magic), 0, 0, 0, 0)
	order.PutUint32(h[8:], form)
	h = order.AppendUint64(h, generation)
	h = order.AppendUint64(h, l.salt)
	h = order.AppendUint64(h, uint64(l.base))
	h = order.AppendUint32(h, crc32.Checksum(h, castagnoli))
	h = append(h, ackedField(l.end)...)
	if _, err := f.WriteAt(append(h, make([]byte, headerSize-len(h))...), 0); err != nil {
		return nil, err
	}
	return l, f.Sync()
}
