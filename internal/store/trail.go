package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"slices"
	"sync"

	"github.com/doorward/doorward/internal/audit"
)

// The audit trail is in segments, files of equal size that are used in turn. Each has
// records of one class, one JSON object a line, with increasing IDs. A full segment stays as
// it is until its space is needed; then all of it goes. So strangers, who can have as many
// refusals recorded as they like, push out nothing but refusals, visitors nothing but visits,
// and nobody searches or rewrites the trail.
const segments = 8

// rooms are how many segments each class has for itself. A class may have more where
// others leave room, but refusals have no more.
var rooms = [...]int{audit.Decided: segments / 4, audit.Refused: segments / 2, audit.Visits: segments / 4}

// unknown is the class of a segment of which no record can be read. It is not filled, and
// its space is the first to be used again.
const unknown audit.Class = 0xff

// readClasses are those that readers walk.
func readClasses() []audit.Class { return append(audit.Classes(), unknown) }

// syncTrailAt is how many bytes of the trail may be on their way to the disk: these are
// copied again after a crash.
const syncTrailAt = 1 << 20

// line is a record as it is written, and what needs to be known about it.
type line struct {
	id    uint64
	class audit.Class
	text  []byte // with its newline
}

// trail is the open audit trail. Records may be read while one goroutine appends.
type trail struct {
	limit    AuditLimit
	synced   uint64 // all records up to that ID are on disk
	unsynced int64  // bytes that were written since
	work     int    // writes and segments begun, for tests

	mu    sync.Mutex // guards what of the segments readers use
	all   []*segment
	last  uint64 // the highest ID
	whole uint64 // records up to this ID can be read: some of the later ones may not be there yet
	given uint64 // the highest ID of a record that was kept, here or with the state
}

type segment struct {
	f      file
	class  audit.Class
	first  uint64 // the first ID in it; 0 if none can be read
	before uint64 // ID of the one that this follows in its chain, 0 for none
	last   uint64
	size   int64 // 0: free
	count  int   // of records; known for a segment that is being filled
	begun  int   // how often it was reused
	dirty  bool
}

// openTrail reads where the segments begin and end, and all of those that are being
// filled. Records from ID again on are to be appended again, since they may be
// incomplete; 0 for none.
func openTrail(files []file, limit AuditLimit, again uint64) (*trail, error) {
	t := &trail{limit: limit}
	for _, f := range files {
		s := &segment{f: f}
		if err := s.look(); err != nil {
			return nil, err
		}
		if again > 0 && s.size > 0 && (s.first == 0 || s.first >= again) {
			if err := s.begin(audit.Decided); err != nil {
				return nil, err
			}
		}
		t.all = append(t.all, s)
	}
	for _, class := range readClasses() {
		if s := t.filling(class); s != nil {
			if err := s.resume(again); err != nil {
				return nil, err
			}
			t.last = max(t.last, s.last)
		}
	}
	t.whole = t.last
	return t, nil
}

// look gets the segment's class from its first readable line, which is the first unless
// that is damaged.
func (s *segment) look() (err error) {
	if s.size, err = s.f.Size(); err != nil {
		return err
	}
	s.class = unknown
	for _, n := range []int64{min(s.size, 1<<16), s.size} {
		b := make([]byte, n)
		if _, err := s.f.ReadAt(b, 0); err != nil && err != io.EOF {
			return err
		}
		for text := range bytes.Lines(b) {
			id := lineID(text)
			s.first = cmp.Or(s.first, id) // though the rest of the line may be damaged
			s.last = s.first
			var r audit.Record
			if id > 0 && json.Unmarshal(text, &r) == nil {
				s.class, s.before = r.Class(), before(r)
				return nil
			}
		}
	}
	return nil
}

// before is the ID of the record before in its chain.
func before(r audit.Record) uint64 {
	if r.Prev == nil {
		return 0
	}
	return r.Prev.ID
}

// resume reads a whole segment, counts its lines, and cuts off those that are to be
// appended again, with what cannot be read before them. Otherwise an unfinished line gets
// its newline, so that it is not taken for a part of the next line.
func (s *segment) resume(again uint64) error {
	b := make([]byte, s.size)
	if _, err := s.f.ReadAt(b, 0); err != nil && err != io.EOF {
		return err
	}
	s.dirty = true
	end, count := 0, 0 // of what can be read and stays
	at, lines := 0, 0
	for text := range bytes.Lines(b) {
		id := lineID(text)
		if again > 0 && id >= again {
			break
		}
		at, lines = at+len(text), lines+1
		if id > 0 && text[len(text)-1] == '\n' {
			end, count, s.last = at, lines, id
		}
	}
	if again > 0 {
		s.size, s.count = int64(end), count
		return s.f.Truncate(s.size)
	}
	s.count = lines
	if len(b) == 0 || b[len(b)-1] == '\n' {
		return nil
	}
	_, err := s.f.WriteAt([]byte{'\n'}, s.size)
	s.size++
	return err
}

// lineID returns the ID with which a line begins, 0 if there is none. A number that
// damage has cut short does not count: readers would take it for their position.
func lineID(text []byte) (id uint64) {
	digits, ok := bytes.CutPrefix(text, []byte(`{"id":`))
	n := bytes.IndexByte(digits[:min(len(digits), 20)], ',')
	if !ok || n < 1 {
		return 0
	}
	for _, d := range digits[:n] {
		if d < '0' || d > '9' {
			return 0
		}
		id = 10*id + uint64(d-'0')
	}
	return id
}

// of returns the segments of a class that have records, oldest first.
func (t *trail) of(class audit.Class) []*segment {
	var of []*segment
	for _, s := range t.all {
		if s.size > 0 && s.class == class {
			of = append(of, s)
		}
	}
	slices.SortStableFunc(of, func(a, b *segment) int { return cmp.Compare(a.first, b.first) })
	return of
}

// filling returns the segment of a class that is being filled, nil for none.
func (t *trail) filling(class audit.Class) *segment {
	if of := t.of(class); len(of) > 0 {
		return of[len(of)-1]
	}
	return nil
}

// append adds records to the trail, except those that it has. After an error it has some
// of them.
func (t *trail) append(lines []line) error {
	for _, class := range audit.Classes() {
		s := t.filling(class)
		size := 0
		for _, l := range lines {
			if l.class == class {
				size += len(l.text)
			}
		}
		buffer := make([]byte, 0, size)
		flush := func() error { b := buffer; buffer = buffer[len(buffer):]; return t.write(s, b) }
		from, bytes, count := uint64(0), int64(0), 0
		if s != nil {
			from, bytes, count = s.last, s.size, s.count
		}
		for _, l := range lines {
			if l.class != class || l.id <= from {
				continue
			}
			full := bytes+int64(len(l.text)) > t.limit.Bytes/segments || count >= max(1, t.limit.Records/segments)
			if s == nil || full && bytes > 0 {
				if err := flush(); err != nil {
					return err
				}
				var err error
				if s, err = t.next(s, class); err != nil {
					return err
				}
				bytes, count = 0, 0
			}
			buffer = append(buffer, l.text...)
			bytes, count = bytes+int64(len(l.text)), count+1
		}
		if err := flush(); err != nil {
			return err
		}
	}
	if len(lines) > 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.whole = max(t.whole, lines[len(lines)-1].id)
	}
	return nil
}

// gave notes that records up to an ID are kept, here or with the state.
func (t *trail) gave(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.given = max(t.given, id)
}

// write adds whole lines to a segment.
func (t *trail) write(s *segment, lines []byte) error {
	if len(lines) == 0 {
		return nil
	}
	t.work++
	s.dirty = true
	if _, err := s.f.WriteAt(lines, s.size); err != nil {
		return err
	}
	t.unsynced += int64(len(lines))
	newest := lines[bytes.LastIndexByte(lines[:len(lines)-1], '\n')+1:]
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.size == 0 {
		var r audit.Record
		_ = json.Unmarshal(lines[:bytes.IndexByte(lines, '\n')], &r) // as it was written
		s.first, s.before = r.ID, before(r)
	}
	s.last = lineID(newest)
	s.size += int64(len(lines))
	s.count += bytes.Count(lines, []byte{'\n'})
	t.last = max(t.last, s.last)
	return nil
}

// next begins a segment for a class: a free one, or one of which nothing can be read, or the
// oldest of its own. If there are none of the first two, a class that has less than its room
// takes the oldest of the one that has the most beyond its own: there is one, since the rooms
// are all segments together.
func (t *trail) next(full *segment, class audit.Class) (*segment, error) {
	if full != nil {
		if err := full.sync(); err != nil {
			return nil, err
		}
	}
	own, spare := t.of(class), t.of(unknown)
	if free := slices.IndexFunc(t.all, func(s *segment) bool { return s.size == 0 }); free >= 0 {
		spare = t.all[free : free+1]
	}
	var s *segment
	switch enough := len(own) >= rooms[class]; {
	case len(spare) > 0 && !(enough && class == audit.Refused):
		s = spare[0]
	case enough:
		s = own[0]
	default:
		beyond := func(c audit.Class) int { return len(t.of(c)) - rooms[c] }
		s = t.of(slices.MaxFunc(audit.Classes(), func(a, b audit.Class) int { return cmp.Compare(beyond(a), beyond(b)) }))[0]
	}
	t.work++
	t.mu.Lock()
	defer t.mu.Unlock()
	return s, s.begin(class)
}

// begin empties the segment for records of a class. Readers notice that by begun.
func (s *segment) begin(class audit.Class) error {
	s.begun++
	s.class, s.first, s.before, s.last, s.size, s.count, s.dirty = class, 0, 0, 0, 0, 0, true
	return s.f.Truncate(0)
}

func (s *segment) sync() error {
	if !s.dirty {
		return nil
	}
	if err := s.f.Sync(); err != nil {
		return err
	}
	s.dirty = false
	return nil
}

// sync syncs what was written to the disk.
func (t *trail) sync() error {
	for _, s := range t.all {
		if err := s.sync(); err != nil {
			return err
		}
	}
	t.unsynced, t.synced = 0, t.last
	return nil
}
