// Package store keeps what must survive a restart, in the state directory: the states of
// the doors, penalties, grants and on whose behalf they stand, what knocks remember, the
// configuration in use, and the audit trail, which is bounded. A Commit is on disk when
// it returns, whole or not at all.
//
// The state is one file, a log of commits. When it has grown, what is still current is
// written into another, and they change places; none of it is held in memory. The audit
// trail is in files of its own, which need not be read when they are opened. Its records
// go into the log first, with the rest of their commit, and into the trail afterwards;
// what the trail lacks after a crash is copied again.
//
// All files are opened at the start: the process may then confine itself so that it can
// neither create nor rename a file.
//
// A damaged state file is set aside under another name and a new one is begun: half a
// state is worse than none, because with none all doors are dark. This does not affect
// the trail, nor does damage to the trail affect the state.
//
// The package decides nothing: it neither looks at a grant's time nor ends the grant.
package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/doorward/doorward/internal/audit"
)

// Store is the open state. Load and Commit are called from one goroutine at a time;
// Records may be called from any. Close it when done.
type Store struct {
	dir   string
	lock  *os.File
	log   *slog.Logger
	boot  string // id of this boot, "" if the kernel does not tell
	aside string
	trail *trail
	reads chan struct{} // holds one for each search of the trail

	using sync.Mutex // guards what follows
	files [2]file    // used in turn
	at    int        // which of them is in use
	state *journal
	due   int64  // the length at which the log is written anew
	stale bool   // the other file may have one that is not in use
	last  uint64 // the highest ID of a record
	ends  audit.Ends
	wrote string // the boot in the log
	noted uint64 // the ID up to which, according to the log, the trail has all records
	said  bool   // it has been reported that the trail cannot be written
	lacks int64  // where in the log the records begin that the trail then lacks
}

// Load returns what was kept.
func (s *Store) Load() (State, error) {
	s.using.Lock()
	defer s.using.Unlock()
	st, err := s.load()
	if err != nil {
		return State{}, fmt.Errorf("read %q: %w", s.path(), err)
	}
	return st, nil
}

func (s *Store) load() (State, error) {
	st := State{}
	x, err := s.state.index()
	if err != nil {
		return st, err
	}
	err = s.state.each(func(n int, e entry) error {
		if e.class == classGrant || !x.stands(n, e) {
			return nil
		}
		if err := st.take(e); err != nil {
			st.Unreadable++
			s.unreadable(e, err)
		}
		return nil
	})
	st.Rebooted = st.BootID != s.boot || s.boot == ""
	state := *s.state
	st.Grants = func(yield func(Grant) bool) { s.grants(&state, x, yield) }
	return st, err
}

// take applies an entry.
func (st *State) take(e entry) (err error) {
	switch e.class {
	case classDoor:
		return add(&st.Doors, e, decodeDoor)
	case classPenalty:
		return add(&st.Penalties, e, decodePenalty)
	case classMark:
		return add(&st.Marks, e, decodeMark)
	case classShared:
		return add(&st.Marks, e, decodeShared)
	case classMeta:
		switch string(e.key) {
		case bootKey:
			st.BootID = string(e.value)
		case appliedKey:
			st.Applied, err = decodeApplied(e.value)
		}
		return err
	}
	return errors.New("it is of a later version")
}

func add[T any](list *[]T, e entry, decode func(key, value []byte) (T, error)) error {
	t, err := decode(e.key, e.value)
	if err == nil {
		*list = append(*list, t)
	}
	return err
}

var errEnough = errors.New("enough")

// grants yields the grants that stand in the log as it was when it was loaded.
func (s *Store) grants(state *journal, x *index, yield func(Grant) bool) {
	s.using.Lock()
	there := s.state.generation == state.generation
	s.using.Unlock()
	if !there {
		panic("store: internal error: grants are read after a commit")
	}
	err := state.each(func(n int, e entry) error {
		if e.class != classGrant || !x.stands(n, e) {
			return nil
		}
		g, err := decodeGrant(e.key, e.value)
		if err != nil {
			s.unreadable(e, err)
			return nil
		}
		if !yield(g) {
			return errEnough
		}
		return nil
	})
	if err != nil && err != errEnough {
		s.log.Error("stored grants cannot be read", "file", s.path(), "err", err)
	}
}

func (s *Store) unreadable(e entry, err error) {
	s.log.Error("a stored value cannot be read and is ignored", "file", s.path(),
		"class", e.class.String(), "key", string(e.key), "err", err)
}

// Commit makes the change at once and returns its records with their IDs and with their
// times as Load and Records give them. When it returns nil, the change is on disk. After
// an error (a full disk is named as such) nothing of the change is kept, and the next
// Commit may succeed; only if the disk failed in the very last step may the change be
// found at the next start. An empty Change is not written.
func (s *Store) Commit(c Change) ([]audit.Record, error) {
	s.using.Lock()
	defer s.using.Unlock()
	b, err := encodeChange(&c)
	if err != nil {
		return nil, fmt.Errorf("write %q: %w", s.path(), err)
	}
	records, lines, ends, err := numbered(c.Records, s.last, s.ends)
	if err != nil {
		return nil, fmt.Errorf("write %q: %w", s.path(), err)
	}
	size := 0
	for _, l := range lines {
		size += recordSize + len(l.text)
	}
	b = slices.Grow(b, size)
	for _, l := range lines {
		b = appendEntry(b, l.entry())
	}
	if len(b) == 0 {
		return nil, nil
	}
	if s.wrote != s.boot {
		b = appendEntry(b, entry{class: classMeta, key: []byte(bootKey), value: []byte(s.boot)})
	}
	synced, at := s.trail.synced, s.state.end
	if synced != s.noted {
		b = appendEntry(b, trailNote(synced))
	}
	if err := s.emptyStale(); err != nil {
		return nil, fullDisk(fmt.Errorf("write %q: remove what was begun in the other file: %w", s.path(), err))
	}
	if err := s.state.append(b); err != nil {
		return nil, fullDisk(fmt.Errorf("write %q: %w", s.path(), err))
	}
	s.wrote, s.noted = s.boot, synced
	s.last, s.ends = s.last+uint64(len(records)), ends
	s.copyToTrail(lines, at)
	if s.state.end >= s.due {
		s.renew()
	}
	return records, nil
}

// chainNote is where the chains of records end.
func chainNote(ends audit.Ends) entry {
	v, _ := json.Marshal(ends) // of numbers and text, which cannot fail
	return entry{class: classMeta, key: []byte(chainKey), value: v}
}

func trailNote(id uint64) entry {
	return entry{class: classMeta, key: []byte(trailKey), value: order.AppendUint64(nil, id)}
}

// entries are the encoded entries of a change.
type entries struct {
	b   []byte
	err error // the first
}

func (w *entries) add(o op, c class, key, value []byte, err error) {
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("%v: %w", c, err)
	}
	w.b = appendEntry(w.b, entry{op: o, class: c, key: key, value: value})
}

func puts[T any](w *entries, c class, list []T, encode func(T) (key, value []byte, err error)) {
	for _, e := range list {
		key, value, err := encode(e)
		w.add(opPut, c, key, value, err)
	}
}

func ends[K any](w *entries, o op, c class, list []K, encode func(K) ([]byte, error)) {
	for _, k := range list {
		key, err := encode(k)
		w.add(o, c, key, nil, err)
	}
}

// encodeChange encodes everything in a change except its records.
func encodeChange(c *Change) ([]byte, error) {
	var w entries
	ends(&w, opClear, classGrant, c.ClearGrants, doorsKey)
	ends(&w, opClear, classPenalty, c.ClearPenalties, doorsKey)
	ends(&w, opEnd, classDoor, c.EndDoors, doorKey)
	ends(&w, opClear, classMark, c.EndDoors, doorsKey)
	for _, k := range c.EndKnocks {
		key, err := k.encode()
		w.add(opClear, k.class(), key, nil, err)
	}
	ends(&w, opEnd, classPenalty, c.EndPenalties, PenaltyKey.encode)
	ends(&w, opEnd, classGrant, c.EndGrants, GrantKey.encode)
	puts(&w, classDoor, c.Doors, encodeDoor)
	puts(&w, classPenalty, c.Penalties, encodePenalty)
	puts(&w, classGrant, c.Grants, encodeGrant)
	for _, m := range c.Marks {
		key, value, err := encodeMark(m)
		o := opPut
		if m.Value == nil {
			o = opEnd
		}
		w.add(o, KnockKey{m.Door, m.Knock}.class(), key, value, err)
	}
	if c.Applied != nil {
		v, err := encodeApplied(*c.Applied)
		w.add(opPut, classMeta, []byte(appliedKey), v, err)
	}
	return w.b, w.err
}

// renewAt is the least length at which a log is written anew.
const renewAt = 4 << 20

// renew writes what is still current into the other file, which then is the one in use.
// If that fails, everything stays as it is.
func (s *Store) renew() {
	other := 1 - s.at
	fresh, err := s.rewrite(s.files[other])
	if err != nil {
		s.due = s.state.end + renewAt
		s.log.Warn("cannot rewrite the state file; trying again when it has grown", "file", s.path(),
			"bytes", s.state.end, "err", fullDisk(err))
		s.stale = true
		if err := s.emptyStale(); err != nil {
			s.log.Warn("cannot remove what that has left; nothing is saved until it can be removed", "file", filepath.Join(s.dir, stateName(other)), "err", err)
		}
		return
	}
	before := s.files[s.at]
	s.use(other, fresh)
	// Where both are whole, the later generation counts.
	if err := errors.Join(before.Truncate(0), before.Sync()); err != nil {
		s.log.Warn("cannot empty the previous state file", "err", err)
	}
}

// emptyStale empties the file that is not in use where a log that was begun in it may
// be whole: the next start would take it for the later one.
func (s *Store) emptyStale() error {
	if !s.stale {
		return nil
	}
	other := s.files[1-s.at]
	if err := errors.Join(other.Truncate(0), other.Sync()); err != nil {
		return err
	}
	s.stale = false
	return nil
}

func (s *Store) use(at int, state *journal) {
	s.at, s.state = at, state
	s.due = max(renewAt, 3*state.base)
}

// rewrite makes a log of what is current. By then the records are in the trail for good,
// or the trail could not be written for so long that the log has as many as the trail may
// have.
func (s *Store) rewrite(into file) (*journal, error) {
	lost := s.trail.sync()
	if s.said {
		lost = errors.New("cannot write the audit trail")
	}
	if lost != nil && s.state.end-s.state.base < s.trail.limit.Bytes {
		return nil, lost
	}
	x, err := s.state.index()
	if err != nil {
		return nil, err
	}
	fresh, err := beginJournal(into, s.state.generation+1, func(add func(entry) error) error {
		last := entry{class: classMeta, key: []byte(lastKey), value: order.AppendUint64(nil, s.last)}
		if err := errors.Join(add(last), add(chainNote(s.ends)), add(trailNote(s.trail.synced))); err != nil {
			return err
		}
		return s.state.each(func(n int, e entry) error {
			if !x.stands(n, e) || e.class == classMeta && slices.Contains([]string{lastKey, trailKey, chainKey}, string(e.key)) {
				return nil
			}
			return add(e)
		})
	})
	if err != nil {
		return nil, err
	}
	if lost != nil {
		s.log.Error("records of the audit trail are lost: it cannot be written, and they were too many to be kept with the state",
			"dir", s.dir, "after", s.trail.last, "until", s.last, "err", lost)
	}
	s.noted, s.lacks = s.trail.synced, headerSize
	return fresh, nil
}

// path returns the path of the state file in use.
func (s *Store) path() string { return filepath.Join(s.dir, stateName(s.at)) }

// fullDisk says what to do if err comes from a full disk.
func fullDisk(err error) error {
	if isFull(err) {
		return fmt.Errorf("the disk is full, free some space: nothing of this change was kept: %w", err)
	}
	return err
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// numbered gives records the IDs after last, chains them to the ends, and encodes them as
// lines.
func numbered(records []audit.Record, last uint64, ends audit.Ends) (kept []audit.Record, lines []line, after audit.Ends, err error) {
	kept, lines = make([]audit.Record, 0, len(records)), make([]line, 0, len(records))
	for _, r := range records {
		last++
		r = stamped(r)
		r.ID = last
		r, text, err := ends.Chain(r)
		if err != nil {
			return nil, nil, ends, fmt.Errorf("record %+v: %w", r, err)
		}
		kept = append(kept, r)
		lines = append(lines, line{id: r.ID, class: r.Class(), text: append(text, '\n')})
	}
	return kept, lines, ends, nil
}

// recordSize is how many bytes the entry of a record has at most besides its line: what it
// is, two lengths, and its key.
const recordSize = 1 + 2*binary.MaxVarintLen32 + 9

// entry returns the line as it is in the log: with its class in its key.
func (l line) entry() entry {
	key := order.AppendUint64(nil, l.id)
	if l.class > 0 {
		key = append(key, byte(l.class))
	}
	return entry{class: classRecord, key: key, value: l.text}
}

// recordClass is the class of a record, by its key. One of a later version counts as a
// refusal: strangers may have caused it.
func recordClass(key []byte) audit.Class {
	if len(key) <= 8 {
		return audit.Decided
	}
	if c := audit.Class(key[8]); slices.Contains(audit.Classes(), c) {
		return c
	}
	return audit.Refused
}

func recordID(key []byte) uint64 {
	if len(key) < 8 {
		return 0
	}
	return order.Uint64(key)
}

// copyToTrail adds a commit's records to the trail, with those that it still lacks. The
// commit is in the log already, and does not fail if this does.
func (s *Store) copyToTrail(lines []line, at int64) {
	var err error
	if s.said {
		err = s.catchUp()
	} else {
		s.lacks = at
		err = s.trail.append(lines)
	}
	s.trail.gave(s.last)
	if err == nil && s.trail.unsynced > syncTrailAt {
		err = s.trail.sync()
	}
	if err != nil {
		s.sayTrail(err)
	} else if s.said {
		s.said = false
		s.log.Info("the audit trail can be written again", "dir", s.dir)
	}
}

// sayTrail reports once that the trail cannot be written. What it lacks is in the log.
func (s *Store) sayTrail(err error) {
	if !s.said {
		s.log.Error("the audit trail cannot be written; its records are kept with the state until it can", "dir", s.dir, "err", err)
	}
	s.said = true
}

// catchUp copies to the trail the records of the log that it lacks. A trail that cannot
// be written costs a commit only the attempt to write the first.
func (s *Store) catchUp() error {
	const chunk = 100
	var lines []line
	err := s.state.eachFrom(s.lacks, func(_ int, e entry) error {
		if e.class != classRecord || e.op != opPut {
			return nil
		}
		lines = append(lines, line{id: recordID(e.key), class: recordClass(e.key), text: bytes.Clone(e.value)})
		if len(lines) < chunk {
			return nil
		}
		err := s.trail.append(lines)
		lines = lines[:0]
		return err
	})
	if err != nil {
		return err
	}
	return s.trail.append(lines)
}
