// Package store keeps what must survive a restart, in one bbolt file of the
// state directory: the states of the doors, penalties, grants and on whose
// behalf they stand, the configuration in use, and the audit trail, which is
// bounded. A Commit is on the disk when it returns, whole or not at all.
//
// A file that is damaged is set aside under another name and a new one is
// begun: half a state is worse than none, because with none all doors are
// dark. A file is read through, by code that trusts nothing in it, before
// bbolt gets it: bbolt would panic on a damaged page, in a goroutine of its
// own too, or return what it does not notice to be garbled.
//
// The package decides nothing: it does not look at a grant's time, nor end it.
package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/doorward/doorward/internal/audit"
)

const fileName = "doorward.db"

// Store is the open state file. Its methods may be called from several
// goroutines; commits happen one after the other. Close it when done.
type Store struct {
	path  string
	db    *bolt.DB
	lock  *os.File
	limit AuditLimit
	log   *slog.Logger
	boot  string // id of this boot, "" if the kernel does not tell
	aside string
	// writing is held during a commit, and guards trail.
	writing sync.Mutex
	trail   trail
	// broken is set once the file turned out to be damaged while in use. bbolt
	// may then hold its locks for good, so that it must not be called again.
	broken atomic.Bool
}

// Open opens the state file in dir, making both if they are missing (dir with
// mode 0700). A file that is damaged is renamed first, to
// doorward.db.corrupt-STAMP, which is logged and told by SetAside.
//
// It returns ErrLocked if another daemon uses dir.
func Open(dir string, limit AuditLimit, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	s := &Store{path: filepath.Join(dir, fileName), limit: limit.orDefault(), log: log}
	var err error
	if s.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	if err := s.open(); err != nil {
		s.lock.Close()
		return nil, fullDisk(fmt.Errorf("open %q: %w", s.path, err))
	}
	return s, nil
}

func (s *Store) open() error {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		s.log.Warn("the kernel does not tell its boot; every start is taken for a reboot", "err", err)
	}
	s.boot = strings.TrimSpace(string(id))

	err = verifyFile(s.path)
	var d *damageError
	if errors.As(err, &d) {
		err = setAside(s.path, d, s.log)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if s.aside, err = lastAside(s.path); err != nil {
		return err
	}
	if _, err := os.Stat(s.path); errors.Is(err, os.ErrNotExist) {
		if err := create(s.path); err != nil {
			return err
		}
	}
	return guard(func() (err error) {
		s.db, err = bolt.Open(s.path, 0o600, s.options())
		if errors.Is(err, berrors.ErrTimeout) {
			return fmt.Errorf("%w by another program", ErrLocked)
		}
		if err != nil {
			return err
		}
		return s.db.View(func(tx *bolt.Tx) error {
			s.trail = readTrail(tx)
			return nil
		})
	})
}

// options maps more than the file can need: mapping anew waits for all
// readers, and a commit must not wait for somebody who reads a long trail.
func (s *Store) options() *bolt.Options {
	return &bolt.Options{
		Timeout:         time.Second,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: int(min(2*s.limit.Bytes+(64<<20), 1<<30)),
		NoStatistics:    true,
	}
}

// SetAside is the path of the latest damaged file that was set aside, now or at
// an earlier start, "" if there is none. It is told until the operator moves
// the file elsewhere.
func (s *Store) SetAside() string { return s.aside }

// Close ends the use of the file and lets another daemon have the directory. It
// waits for calls that are under way.
func (s *Store) Close() error {
	var err error
	if !s.broken.Load() {
		err = s.db.Close()
	}
	return errors.Join(err, s.lock.Close())
}

// Load returns what was kept.
func (s *Store) Load() (State, error) {
	var st State
	err := s.guarded("read", func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			st = State{}
			return s.load(tx, &st)
		})
	})
	return st, err
}

func (s *Store) load(tx *bolt.Tx, st *State) error {
	meta := tx.Bucket(metaBucket)
	st.BootID = string(meta.Get(bootKey))
	st.Rebooted = st.BootID != s.boot || s.boot == ""
	if v := meta.Get(appliedKey); v != nil {
		var err error
		if st.Applied, err = decodeApplied(v); err != nil {
			s.unreadable(st, metaBucket, appliedKey, err)
		}
	}
	var grants []Grant
	err := errors.Join(
		each(s, tx, st, doorBucket, decodeDoor, &st.Doors),
		each(s, tx, st, penaltyBucket, decodePenalty, &st.Penalties),
		each(s, tx, st, grantBucket, decodeGrant, &grants))
	st.Grants = slices.Values(grants)
	return err
}

// each decodes a bucket's entries into list.
func each[T any](s *Store, tx *bolt.Tx, st *State, bucket []byte,
	decode func(key, value []byte) (T, error), list *[]T,
) error {
	return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
		t, err := decode(k, v)
		if err != nil {
			s.unreadable(st, bucket, k, err)
			return nil
		}
		*list = append(*list, t)
		return nil
	})
}

func (s *Store) unreadable(st *State, bucket, key []byte, err error) {
	st.Unreadable++
	s.log.Error("a kept value cannot be read and is ignored", "file", s.path,
		"bucket", string(bucket), "key", string(key), "err", err)
}

// Commit makes the change in one transaction and returns its records with their
// IDs and with their times as Load and Records give them. When it returns nil,
// the change is on the disk. After an error (a full disk is named as such)
// nothing of the change is kept, and the next Commit may succeed; only if the
// disk failed in the very last step may the change be found at the next start.
// A Change that has nothing in it is not written.
func (s *Store) Commit(c Change) ([]audit.Record, error) {
	if c.empty() {
		return nil, nil
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	var records []audit.Record
	var at trail
	err := s.guarded("write", func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			t, err := begin(tx, s.trail)
			if err != nil {
				return err
			}
			if err := t.change(&c, s.boot); err != nil {
				return err
			}
			var refusals int
			if records, refusals, err = t.append(c.Records); err != nil {
				return err
			}
			if err := t.prune(s.limit, len(records), refusals); err != nil {
				return err
			}
			at = t.trail
			return t.finish()
		})
	})
	if err != nil {
		return nil, err
	}
	s.trail = at
	return records, nil
}

func (c *Change) empty() bool {
	return len(c.Doors)+len(c.EndDoors)+len(c.Penalties)+len(c.EndPenalties)+
		len(c.Grants)+len(c.EndGrants)+len(c.Records)+len(c.ClearGrants)+len(c.ClearPenalties) == 0 && c.Applied == nil
}

// change does all of the change but its records.
func (t *txn) change(c *Change, boot string) error {
	for _, name := range c.ClearGrants {
		if err := t.clear(grantBucket, name); err != nil {
			return err
		}
	}
	for _, name := range c.ClearPenalties {
		if err := t.clear(penaltyBucket, name); err != nil {
			return err
		}
	}
	err := errors.Join(
		delEach(t, doorBucket, c.EndDoors, doorKey),
		delEach(t, penaltyBucket, c.EndPenalties, penaltyKey),
		delEach(t, grantBucket, c.EndGrants, grantKey),
		putEach(t, doorBucket, c.Doors, encodeDoor),
		putEach(t, penaltyBucket, c.Penalties, encodePenalty),
		putEach(t, grantBucket, c.Grants, encodeGrant))
	if err != nil {
		return err
	}
	if c.Applied != nil {
		v, err := encodeApplied(*c.Applied)
		if err != nil {
			return err
		}
		if err := t.put(metaBucket, appliedKey, v); err != nil {
			return err
		}
	}
	if bytes.Equal(t.tx.Bucket(metaBucket).Get(bootKey), []byte(boot)) {
		return nil
	}
	return t.put(metaBucket, bootKey, []byte(boot))
}

// clear removes all that a bucket has of a door.
func (t *txn) clear(bucket []byte, door string) error {
	var keys [][]byte
	c := t.tx.Bucket(bucket).Cursor()
	prefix := append([]byte(door), 0)
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := t.del(bucket, k); err != nil {
			return err
		}
	}
	return nil
}

func putEach[T any](t *txn, bucket []byte, list []T, encode func(T) (k, v []byte, err error)) error {
	for _, e := range list {
		k, v, err := encode(e)
		if err == nil {
			err = t.put(bucket, k, v)
		}
		if err != nil {
			return fmt.Errorf("%s: %+v: %w", bucket, e, err)
		}
	}
	return nil
}

func delEach[K any](t *txn, bucket []byte, keys []K, encode func(K) ([]byte, error)) error {
	for _, key := range keys {
		k, err := encode(key)
		if err == nil {
			err = t.del(bucket, k)
		}
		if err != nil {
			return fmt.Errorf("%s: %+v: %w", bucket, key, err)
		}
	}
	return nil
}

// guarded runs f, which uses the file, and remembers if that found it damaged.
func (s *Store) guarded(what string, f func() error) error {
	if s.broken.Load() {
		return fmt.Errorf("%s %q: %w: restart the daemon, which sets the file aside",
			what, s.path, errDamagedInUse)
	}
	err := guard(f)
	if errors.Is(err, errDamagedInUse) && !s.broken.Swap(true) {
		s.log.Error("the state file was damaged while in use; nothing is kept until the daemon is restarted",
			"file", s.path, "err", err)
	}
	if err != nil {
		return fullDisk(fmt.Errorf("%s %q: %w", what, s.path, err))
	}
	return nil
}

var errDamagedInUse = errors.New("the file was damaged while in use")

// guard turns what bbolt does on a damaged file, a panic or a fault in the
// mapped memory (the file was truncated, or the disk cannot read it), into an
// error.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v\n%s", errDamagedInUse, p, debug.Stack())
		}
	}()
	return f()
}

// fullDisk says what to do if err comes from a full disk. The text is looked
// at because bbolt does not always wrap the cause.
func fullDisk(err error) error {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		if strings.Contains(err.Error(), full.Error()) {
			return fmt.Errorf("the disk is full, free some space: nothing of this change was kept: %w", err)
		}
	}
	return err
}
