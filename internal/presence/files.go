//go:build linux

package presence

import (
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

// disorder is how far the order of a log's lines is trusted to be the order
// of their stamps: what stands before a line that is older than a login by
// more than this is older than the login.
const disorder = 10 * time.Minute

// files reads a log and its rotations as one stream: first from the end back,
// newest file first, until a login is found and its time is sure to be the
// latest (see disorder); from then on only what is new. A file is known again
// by device and inode, whatever its name has become, and by the bytes before
// the place up to which it was read, so that one that was truncated, replaced
// or copied is read anew.
type files struct {
	paths []string
	most  int64 // how many bytes of text are read of a compressed file
	seen  map[fileID]*progress
	best  *Login // the latest login so far, never after now; nil for none
}

// fileID is a file whatever its name.
type fileID struct{ dev, ino uint64 }

// progress is what is remembered of a file.
type progress struct {
	mark  mark
	floor time.Time // no line that was passed over is later than this and disorder
	odd   oddities  // logins that do not count
	ahead time.Time // the furthest stamp of a login beyond now

	// Of a compressed file:
	empty  bool   // there is nothing in it
	cut    int64  // only so many bytes of its text were read; 0 for all
	broken string // why its end could not be read, for people
}

func newFiles(paths []string) *files {
	return &files{paths: paths, most: maxArchive, seen: map[fileID]*progress{}}
}

func (f *files) String() string { return strings.Join(f.paths, ", ") }

// pass is one look at all files.
type pass struct {
	*files
	ctx   context.Context
	now   time.Time
	data  bool // a file with data was met
	met   map[fileID]bool
	floor time.Time // the earliest of the files' floors, zero before the first
	why   []string  // for each file without data: why
	warn  []string
}

func (f *files) last(ctx context.Context, now time.Time) (Login, bool, []string, error) {
	// A clock that was put back must not keep logins in the future.
	if f.best != nil && f.best.Time.After(now) {
		f.best.Time = now
	}
	p := &pass{files: f, ctx: ctx, now: now, met: map[fileID]bool{}}
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
			p.why = append(p.why, err.Error())
			p.warn = append(p.warn, err.Error())
		}
	}
	for id := range f.seen {
		if !p.met[id] {
			delete(f.seen, id)
		}
	}
	if !p.data {
		return Login{}, false, p.warn, &noData{strings.Join(p.why, "; "), filesHint}
	}
	if f.best == nil {
		return Login{}, false, p.warn, nil
	}
	return *f.best, true, p.warn, nil
}

const filesHint = "name the log that sshd writes in presence.logins, and let doorward's user read it " +
	"(`ls -l` tells the log's group, `usermod -aG GROUP doorward` joins it)"

// errEmpty is a file that is there and has nothing in it.
var errEmpty = errors.New("is empty")

// enough says whether no file older than those met can have a later login.
func (p *pass) enough() bool {
	return p.best != nil && !p.floor.IsZero() && p.floor.Before(p.best.Time.Add(-disorder))
}

// visit reads what is new of one file. Its errors name the file.
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
		l.ref = p.now
	}
	pr, err := l.read(p.seen[id], time.Unix(sys.Ctim.Unix()))
	if err != nil {
		delete(p.seen, id)
		delete(p.met, id)
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	if pr == nil {
		p.data = true // older than what is needed, but there
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
	if !pr.floor.IsZero() && (p.floor.IsZero() || pr.floor.Before(p.floor)) {
		p.floor = pr.floor
	}
	p.warn = append(p.warn, pr.warnings(f.Name(), p.now)...)
	return nil
}

// openLog opens path or, if it is not there, path.gz. It never waits, as it
// would for a named pipe.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, plain(err)
	}
	if z, zerr := os.OpenFile(path+".gz", os.O_RDONLY|syscall.O_NONBLOCK, 0); !errors.Is(zerr, fs.ErrNotExist) {
		return z, plain(zerr)
	}
	return nil, plain(err)
}

// plain says "PATH: no such file or directory" without the system call.
func plain(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", pe.Path, pe.Err)
	}
	return err
}

// warnings says what is odd about a file, for people.
func (pr *progress) warnings(name string, now time.Time) []string {
	w := pr.odd.warnings(name)
	if pr.cut > 0 {
		w = append(w, fmt.Sprintf("%s: only the first %d bytes of its text are read: logins after that do not "+
			"count; let logrotate begin a new file sooner (maxsize 100M)", name, pr.cut))
	}
	if by := pr.ahead.Sub(now); by > time.Minute {
		w = append(w, fmt.Sprintf("%s: a login is stamped %s, which is %s from now: it counts as of when it was "+
			"read; check the clock and the time zone of the log's writer",
			name, pr.ahead.Format(time.RFC3339), by.Round(time.Second)))
	}
	return w
}

// logFile is a file that is being read in a pass.
type logFile struct {
	*pass
	file *os.File
	size int64
	ref  time.Time // no stamp of the file is later: now or the last write
	pr   *progress
}

// read brings old, what is remembered of the file, up to date and returns it.
// Old is nil for a file that is not known; nil is returned for one that need
// not be read, nor be complained about.
func (l *logFile) read(old *progress, changed time.Time) (*progress, error) {
	zipped := strings.HasSuffix(l.file.Name(), ".gz")
	known := old != nil && old.mark.holds(l.file, l.size, changed, zipped)
	if known && !zipped {
		l.pr = old
		return old, l.forward()
	}
	if l.enough() {
		return nil, nil
	}
	if known {
		return old, nil
	}
	l.pr = &progress{}
	if zipped {
		l.pr.mark = mark{size: l.size, changed: changed}
		return l.pr, l.unzip()
	}
	return l.pr, l.backward()
}

// ReadAt is the file's until the context ends, so that every reader stops at the
// next block, however long a line is or whatever an archive inflates to.
func (l *logFile) ReadAt(p []byte, at int64) (int, error) {
	if err := l.ctx.Err(); err != nil {
		return 0, err
	}
	return l.file.ReadAt(p, at)
}

// forward reads the lines that were finished since the last time.
func (l *logFile) forward() error {
	at := l.pr.mark.offset
	if at == l.size {
		return nil
	}
	done, _, err := linesForward(io.NewSectionReader(l, at, l.size-at), l.pr.mark.inside(), l.take)
	if err != nil && l.ctx.Err() == nil {
		return err
	}
	return l.pr.mark.set(l.file, at+done)
}

// take makes the line's login the latest if it is, and notes what is odd.
func (l *logFile) take(line []byte) {
	if len(line) > maxLogin || !mayBeLogin(line) {
		return
	}
	login, what := parseLine(string(line), l.ref)
	switch what {
	default:
		l.pr.odd.add(what, line)
	case noLogin:
	case isLogin:
		if login.Time.After(l.now) {
			if login.Time.After(l.pr.ahead) {
				l.pr.ahead = login.Time
			}
			login.Time = l.now
		}
		login.Where = l.file.Name()
		if l.best == nil || login.Time.After(l.best.Time) {
			l.best = &login
		}
	}
}
