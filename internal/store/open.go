package store

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

func stateName(at int) string { return fmt.Sprintf("doorward.state.%d", at) }
func trailName(n int) string  { return fmt.Sprintf("doorward.audit.%02d", n) }

// Open opens the state in dir, creating what is missing (dir with mode 0700). A damaged
// state file is renamed first, with .corrupt-STAMP after its name, which is logged and
// reported by SetAside. A file of the previous format, doorward.db, is converted.
//
// It returns ErrLocked if another daemon uses dir.
func Open(dir string, limit AuditLimit, log *slog.Logger) (*Store, error) {
	return open(dir, limit, log, func(_ string, f file) file { return f })
}

// open is Open, with wrap applied to each file that stays open.
func open(dir string, limit AuditLimit, log *slog.Logger, wrap func(name string, f file) file) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	s := &Store{dir: dir, log: log, reads: make(chan struct{}, searches)}
	var err error
	if s.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	if err := s.open(limit.orDefault(), wrap); err != nil {
		s.closeFiles()
		return nil, fullDisk(fmt.Errorf("open the state in %q: %w", dir, err))
	}
	return s, nil
}

func (s *Store) open(limit AuditLimit, wrap func(name string, f file) file) error {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		s.log.Warn("cannot read the boot ID; every start is taken for a reboot", "err", err)
	}
	s.boot = strings.TrimSpace(string(id))
	if err := s.takeOver(limit); err != nil {
		return err
	}
	if err := s.openState(wrap); err != nil {
		return err
	}
	if err := s.openTrail(limit, wrap); err != nil {
		return err
	}
	s.aside, err = lastAside(s.dir)
	return err
}

// candidate is a state file as it is found.
type candidate struct {
	path   string
	there  bool
	f      file
	state  *journal // nil: it is empty, or not whole
	damage error    // what is wrong with it
}

// openState opens both state files and finds the one in use.
func (s *Store) openState(wrap func(name string, f file) file) error {
	var found [2]candidate
	for i := range found {
		c, err := look(filepath.Join(s.dir, stateName(i)), func(f file) file { return wrap(stateName(i), f) })
		s.files[i] = c.f
		if err != nil {
			return err
		}
		found[i] = c
	}
	at, damage := inUse(found)
	if damage != nil {
		for i, c := range found {
			if !c.there {
				continue
			}
			if s.files[i] != nil {
				s.files[i].Close()
				s.files[i] = nil
			}
			if err := setAside("the state", c.path, damage, s.log); err != nil {
				return err
			}
		}
	}
	if at < 0 {
		at = 0
		f, state, err := create(found[0].path, 1, func(func(entry) error) error { return nil })
		if err != nil {
			return err
		}
		s.files[0] = wrap(stateName(0), f)
		state.f = s.files[0]
		found[0].state = state
	}
	if err := s.emptyOther(1-at, wrap); err != nil {
		return err
	}
	s.use(at, found[at].state)
	if cut := s.state.cut; cut > 0 {
		s.log.Warn("the last change was only partly written, and is left out: it was never acknowledged",
			"file", s.path(), "bytes", cut)
	}
	return nil
}

// Doors returns the doors in a state directory, for callers that do not continue with
// them. Nobody may have the store open meanwhile.
func Doors(dir string) ([]Door, error) {
	var found [2]candidate
	for i := range found {
		c, err := look(filepath.Join(dir, stateName(i)), func(f file) file { return f })
		if c.f != nil {
			defer c.f.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("read the state in %q: %w", dir, err)
		}
		found[i] = c
	}
	at, damage := inUse(found)
	if at < 0 {
		return nil, damage
	}
	s := Store{dir: dir, at: at, state: found[at].state, log: slog.New(slog.DiscardHandler)}
	st, err := s.Load()
	return st.Doors, err
}

// look opens a state file and reads all of it.
func look(path string, wrap func(file) file) (candidate, error) {
	c := candidate{path: path}
	f, err := openFile(path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	c.there = true
	if err == nil {
		c.f = wrap(f)
		c.state, err = openJournal(c.f)
	}
	if d := (*damageError)(nil); errors.As(err, &d) {
		c.damage, err = err, nil
	}
	return c, err
}

// inUse returns the state file in use, -1 for none. It is the only one that is not empty,
// except after a crash between two steps of renew: then the other has no header yet, or
// both have the same contents. If neither is whole, the one in use was lost.
func inUse(found [2]candidate) (at int, damage error) {
	at = -1
	for i, c := range found {
		if c.state != nil && (at < 0 || c.state.generation > found[at].state.generation) {
			at = i
		}
	}
	for _, c := range found {
		if c.damage != nil && (at < 0 || c.damage != errUnfinished) {
			damage = errors.Join(damage, fmt.Errorf("%s: %w", filepath.Base(c.path), c.damage))
		}
	}
	if damage == nil && at < 0 && (found[0].there || found[1].there) {
		damage = errors.New("it is empty: what it had is lost")
	}
	if damage != nil {
		return -1, damage
	}
	return at, nil
}

// emptyOther makes sure that the state file that is not in use exists and is empty. Its
// name must be on disk before anything is in it.
func (s *Store) emptyOther(i int, wrap func(name string, f file) file) error {
	if s.files[i] != nil {
		if size, err := s.files[i].Size(); err != nil || size == 0 {
			return err
		}
		return errors.Join(s.files[i].Truncate(0), s.files[i].Sync())
	}
	f, err := openFile(filepath.Join(s.dir, stateName(i)), os.O_CREATE)
	if err != nil {
		return err
	}
	s.files[i] = wrap(stateName(i), f)
	return syncDir(s.dir)
}

// openTrail opens the audit trail, and copies to it the records that it lacks from the
// log.
func (s *Store) openTrail(limit AuditLimit, wrap func(name string, f file) file) error {
	first := uint64(0)             // of the records in the log, whose IDs rise by one
	var latest [len(s.ends)][]byte // of each chain
	err := s.state.each(func(_ int, e entry) error {
		switch {
		case e.class == classRecord:
			s.last = max(s.last, recordID(e.key))
			first = cmp.Or(first, s.last)
			chain := &latest[recordClass(e.key)]
			*chain = append((*chain)[:0], e.value...)
		case e.class != classMeta:
		case string(e.key) == bootKey:
			s.wrote = string(e.value)
		case string(e.key) == lastKey:
			s.last = max(s.last, recordID(e.value))
		case string(e.key) == trailKey:
			s.noted = recordID(e.value)
		case string(e.key) == chainKey:
			_ = json.Unmarshal(e.value, &s.ends) // or the trail's are taken
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, text := range latest {
		s.endWith(text)
	}
	again := max(first, s.noted+1)
	if s.last < again || first == 0 {
		again = 0
	}
	files, err := openSegments(s.dir, s.log, wrap)
	if err != nil {
		return err
	}
	if s.trail, err = openTrail(files, limit, again); err != nil {
		return err
	}
	s.last = max(s.last, s.trail.last)
	s.trail.synced, s.lacks = s.noted, headerSize
	if again > 0 {
		if err := s.catchUp(); err != nil {
			s.sayTrail(err)
		}
	}
	s.trail.gave(s.last)
	return s.checkEnds()
}

// endWith makes a record the end of its chain if it is a later one.
func (s *Store) endWith(text []byte) audit.Record {
	var r audit.Record
	if json.Unmarshal(text, &r) == nil && r.Hash != "" {
		s.ends.Extend(r)
	}
	return r
}

// checkEnds reports if the trail does not end as the state says that it did. If the state
// has been lost, only the trail knows.
func (s *Store) checkEnds() error {
	for i, known := range s.ends {
		last, err := s.lastOf(s.trail.backwards(audit.Class(i)))
		if err != nil {
			return err
		}
		switch {
		case known.ID == 0 || s.said || last.ID > known.ID:
		case last.ID < known.ID:
			s.log.Error("the end of the audit trail is missing: was it cut off?", "dir", s.dir, "after", last.ID, "until", known.ID)
		case last.Hash != known.Hash:
			s.log.Error("the last record of the audit trail is not the one that was written: was it changed?", "dir", s.dir, "id", known.ID)
		}
	}
	return nil
}

// lastOf is the last record that can be read.
func (s *Store) lastOf(r *backwards) (last audit.Record, err error) {
	for last.ID == 0 {
		if err = r.fill(); err != nil || r.text == nil {
			return last, err
		}
		last, r.text = s.endWith(r.text), nil
	}
	return last, nil
}

// largestSegment is more than any segment can have, and more than most machines can read
// at once.
const largestSegment = 256 << 20

// openSegment opens a file of the trail, if it is one.
func openSegment(path string) (file, error) {
	f, err := openFile(path, os.O_CREATE)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err == nil && size > largestSegment {
		err = damaged("it has %d bytes: a segment has at most %d", size, largestSegment)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openSegments opens the files of the trail. A file that is not a segment is set aside.
func openSegments(dir string, log *slog.Logger, wrap func(name string, f file) file) ([]file, error) {
	var files []file
	for n := range segments {
		path := filepath.Join(dir, trailName(n))
		f, err := openSegment(path)
		if d := (*damageError)(nil); errors.As(err, &d) {
			if err = setAside("the audit trail's", path, err, log); err == nil {
				f, err = openSegment(path)
			}
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, wrap(trailName(n), f))
	}
	return files, syncDir(dir)
}

// SetAside returns the path of the latest damaged file that was set aside, now or at an
// earlier start, "" if there is none. It is reported until the operator moves the file
// elsewhere.
func (s *Store) SetAside() string { return s.aside }

// Close closes the files and releases the directory for another daemon. It waits for a
// commit that is under way.
func (s *Store) Close() error {
	s.using.Lock()
	defer s.using.Unlock()
	// What this leaves undone is done at the next start. A trail that lacks records may
	// have later ones of the other class.
	if !s.said && s.trail.sync() == nil && s.trail.synced != s.noted {
		_ = s.state.append(appendEntry(nil, trailNote(s.trail.synced)))
	}
	if s.state.size > s.state.end {
		_ = s.state.trim()
	}
	return s.closeFiles()
}

func (s *Store) closeFiles() error {
	files := s.files[:]
	if s.trail != nil {
		for _, seg := range s.trail.all {
			files = append(files, seg.f)
		}
	}
	return errors.Join(closeAll(files), s.lock.Close())
}

func closeAll(files []file) (err error) {
	for _, f := range files {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// openFile opens a file for reading and writing. Anything else of that name is damage: a
// pipe would block, a link leads elsewhere.
func openFile(path string, flags int) (osFile, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		return osFile{}, damaged("%s: it is not a regular file", filepath.Base(path))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return osFile{}, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|flags, 0o600)
	return osFile{f}, err
}

// create creates a state file. It gets its name when it is whole, so that an incomplete
// file is always a damaged one.
func create(path string, generation uint64, fill func(add func(entry) error) error) (file, *journal, error) {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	f, err := openFile(tmp, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, nil, err
	}
	l, err := beginJournal(f, generation, fill)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, l, nil
}

const (
	asideInfix = ".corrupt-"
	stampForm  = "20060102T150405Z"
)

// setAside renames the damaged file.
func setAside(what, path string, why error, log *slog.Logger) error {
	to, err := moveAside(path, path+asideInfix+time.Now().UTC().Format(stampForm))
	if err != nil {
		return fmt.Errorf("set the damaged file aside: %w", err)
	}
	log.Error(what+" file is damaged: it was set aside and a new one is begun; what it has is nowhere else",
		"file", path, "aside", to, "err", why)
	return syncDir(filepath.Dir(path))
}

// moveAside renames a file, never over another one, and returns its new path.
func moveAside(path, base string) (to string, err error) {
	to = base
	for n := 2; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			return to, os.Rename(path, to)
		} else if err != nil {
			return "", err
		}
		to = fmt.Sprintf("%s-%d", base, n)
	}
}

// lastAside finds the latest file that was set aside.
func lastAside(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	last, stamp := "", ""
	for _, e := range entries {
		if _, s, ok := strings.Cut(e.Name(), asideInfix); ok && s >= stamp {
			last, stamp = filepath.Join(dir, e.Name()), s
		}
	}
	return last, nil
}

// syncDir makes a rename in dir durable (rename(2) alone is not on disk).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
