//go:build linux

package presence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"
)

// disorder is how far the order of a log's lines may differ from the order of their
// timestamps: whatever comes before a line that is older than a login by more than this
// is older than the login.
const disorder = 10 * time.Minute

// files reads a log and its rotations as one stream: first from the end back,
// newest file first, until a login is found and its time is sure to be the
// latest (see disorder); from then on only what is new. A file is known again
// by device and inode, whatever its name has become, and by the bytes before
// the place up to which it was read, so that one that was truncated, replaced
// or copied is read anew.
type files struct {
	paths []string
	most  int64 // how many bytes of text are read from an unknown file
	seen  map[fileID]*progress
	best  *Login // the latest login so far, never after now; nil for none
	fresh fresh  // how the timestamps of new lines agree with the clock
	recent
}

// fileID identifies a file, whatever its name.
type fileID struct{ dev, ino uint64 }

func newFiles(paths []string) *files {
	return &files{paths: paths, most: maxArchive, seen: map[fileID]*progress{}}
}

func (f *files) String() string { return strings.Join(f.paths, ", ") }

// passedOver lists what seems to be a rotation but is not read.
func (f *files) passedOver() []string {
	if len(f.paths) != 1 {
		return nil
	}
	_, over := rotations(f.paths[0])
	return over
}

// pass is one look at all files.
type pass struct {
	*files
	ctx  context.Context
	now  time.Time
	data bool // a file with data was found
	met  map[fileID]bool
	own  ownOfLook
	why  []string // for each file without data: why
	hint string   // what to do about the first that exists
	warn []string
}

func (f *files) last(ctx context.Context, now time.Time) (Login, bool, []string, error) {
	// A clock that was set back must not leave logins in the future.
	if f.best != nil && f.best.Time.After(now) {
		f.best.Time = now
	}
	p := &pass{files: f, ctx: ctx, now: now, met: map[fileID]bool{}}
	f.fresh.look(now)
	for _, path := range places(f.paths) {
		if err := ctx.Err(); err != nil {
			return Login{}, false, nil, err
		}
		err := p.visit(path)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = p.visit(path) // truncated while it was read
		}
		switch {
		case ctx.Err() != nil:
			return Login{}, false, nil, ctx.Err()
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errEmpty):
			p.why = append(p.why, err.Error())
		case err != nil:
			said, hint := err.Error(), fileHint(err)
			p.why = append(p.why, said)
			if hint != "" {
				said += "; " + hint
			}
			p.warn, p.hint = append(p.warn, said), cmp.Or(p.hint, hint)
		}
	}
	for id := range f.seen {
		if !p.met[id] {
			delete(f.seen, id)
		}
	}
	if !p.data {
		return Login{}, false, p.warn, &noData{why: strings.Join(p.why, "; "), hint: cmp.Or(p.hint, filesHint)}
	}
	if w := f.fresh.warning(); w != "" {
		p.warn = append(p.warn, fmt.Sprintf("%s: %s", f, w))
	}
	if f.best == nil {
		return Login{}, false, p.warn, nil
	}
	return *f.best, true, p.warn, nil
}

const filesHint = "name the log that sshd writes in presence.logins, and let doorward's user read it"

// fileHint returns what to do about a file that exists but cannot be read, "" if its
// error says that.
func fileHint(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "let doorward's user read it (`ls -l` tells the log's group, `usermod -aG GROUP doorward` joins it, " +
			"then `systemctl restart doorward`)"
	case errors.Is(err, syscall.EIO):
		return "the disk is failing (see `dmesg`): name another log in presence.logins"
	}
	return ""
}

// errEmpty means that a file exists but is empty.
var errEmpty = errors.New("is empty")

// enough says whether a file that was last written at ref can have no later login.
func (p *pass) enough(ref time.Time) bool {
	return p.best != nil && ref.Before(p.best.Time.Add(-disorder))
}

// visit reads what is new in one file. Its errors name the file.
func (p *pass) visit(path string) error {
	f, err := openLog(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || !st.Mode().IsRegular() {
		return fmt.Errorf("%s: is not a regular file", f.Name())
	}
	if st.Size() == 0 {
		return fmt.Errorf("%s: %w", f.Name(), errEmpty)
	}
	id := fileID{uint64(sys.Dev), sys.Ino}
	if p.met[id] {
		return nil // rotated between the opening of this name and the one before
	}
	p.met[id] = true
	l := &logFile{pass: p, file: f, size: st.Size(), ref: st.ModTime().In(p.now.Location())}
	if p.now.Before(l.ref) {
		l.late, l.ref = l.ref, p.now
	}
	l.settled = isRotated(p.paths, path) && l.ref.Before(p.now.Add(-settled))
	pr, err := l.read(p.seen[id], time.Unix(sys.Ctim.Unix()))
	if err != nil {
		delete(p.seen, id)
		delete(p.met, id)
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	if pr == nil {
		p.data = true // older than needed, but there
		return nil
	}
	p.seen[id] = pr
	switch {
	case pr.empty:
		return fmt.Errorf("%s: %w", f.Name(), errEmpty)
	case pr.broken != "":
		return fmt.Errorf("%s: %s", f.Name(), pr.broken)
	}
	p.data = true
	p.warn = append(p.warn, pr.warnings(f.Name(), p)...)
	if by := l.late.Sub(p.now); by > farOff {
		p.warn = append(p.warn, fmt.Sprintf("%s was last written at %s, which is in the future: the clock is "+
			"behind, so new logins cannot be recognised; set it (`timedatectl`)", f.Name(), l.late.Format(time.RFC3339)))
	}
	return nil
}

// openLog opens path or, if it does not exist, its compressed form. It never blocks, as
// it would on a named pipe.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, plain(err)
	}
	for _, a := range archives {
		z, zerr := os.OpenFile(path+a.ending, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if !errors.Is(zerr, fs.ErrNotExist) {
			return z, plain(zerr)
		}
	}
	return nil, plain(err)
}

// plain says "PATH: no such file or directory" without the system call.
func plain(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", pe.Path, pe.Err)
	}
	return err
}

// settled is the time after the last write to a rotated file when nobody writes to it any
// more: syslog daemons are told to reopen their files within a second or two.
const settled = time.Minute

// logFile is a file that is being read in a pass.
type logFile struct {
	*pass
	file    *os.File
	size    int64
	ref     time.Time // no timestamp of the file is later: now or the last write
	late    time.Time // the last write if it is later than now
	settled bool      // its last line is whole, also without a newline
	pr      *progress
}

// read brings old, what is remembered about the file, up to date and returns it. Old is
// nil for an unknown file; nil is returned for one that need neither be read nor be
// reported.
func (l *logFile) read(old *progress, changed time.Time) (*progress, error) {
	zipped := archiveOf(l.file.Name())
	known := old != nil && old.mark.holds(l.file, l.size, changed, zipped != nil)
	if known && zipped == nil {
		l.pr = old
		return old, l.forward()
	}
	if l.enough(l.ref) {
		return nil, nil
	}
	if known {
		return old, nil
	}
	l.pr = &progress{}
	if zipped != nil {
		l.pr.mark = mark{size: l.size, changed: changed}
		return l.pr, l.unzip(zipped)
	}
	return l.pr, l.backward()
}

// ReadAt reads the file until the context ends, so that every reader stops at the next
// block, however long a line is or however much an archive inflates to.
func (l *logFile) ReadAt(p []byte, at int64) (int, error) {
	if err := l.ctx.Err(); err != nil {
		return 0, err
	}
	return l.file.ReadAt(p, at)
}
