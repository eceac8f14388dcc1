package store

import (
	"bytes"
	"cmp"
	"io"

	"github.com/doorward/doorward/internal/audit"
)

// field checks the text of a field of a record as it is written; name is how it begins.
// The name cannot occur within a text: there, quotes are escaped. A field that is not
// found or has escapes is left to the decoder.
func field(text []byte, name string, ask func(string) bool) bool {
	_, rest, ok := bytes.Cut(text, []byte(name))
	n := bytes.IndexByte(rest, '"')
	if !ok || n < 0 || bytes.IndexByte(rest[:n], '\\') >= 0 {
		return true
	}
	return ask(string(rest[:n]))
}

// view is a segment as it was when a reader began.
type view struct {
	*segment
	size  int64
	begun int
}

// read reads n bytes at a place. It returns nil if the segment has been reused. It holds
// up nobody.
func (v view) read(t *trail, at int64, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := v.f.ReadAt(b, at)
	t.mu.Lock()
	gone := v.segment.begun != v.begun
	t.mu.Unlock()
	switch {
	case gone:
		return nil, nil
	case err != nil && err != io.EOF:
		return nil, err
	}
	return b, nil
}

// backwards walks the records of a class from the newest to the oldest. Records that it
// has not read when their segment is reused are gone.
type backwards struct {
	t    *trail
	of   []view
	at   int64  // where what is in b begins in the last of them
	b    []byte // of which all later lines are done
	id   uint64 // of text
	text []byte // the line that is next; nil: none yet, or none any more
}

// backwards is called with mu held, or while nobody appends.
func (t *trail) backwards(class audit.Class) *backwards {
	r := &backwards{t: t, id: t.last + 1}
	for _, s := range t.of(class) {
		r.of = append(r.of, view{s, s.size, s.begun})
	}
	if n := len(r.of); n > 0 {
		r.at = r.of[n-1].size
	}
	return r
}

// fill puts the next line into text, if there is one.
func (r *backwards) fill() error {
	for r.text == nil && len(r.of) > 0 {
		if len(r.b) > 0 {
			from := bytes.LastIndexByte(r.b[:len(r.b)-1], '\n') + 1
			if from > 0 || r.at == 0 {
				r.text, r.b = r.b[from:], r.b[:from]
				r.id = cmp.Or(lineID(r.text), max(r.id, 2)-1) // without one, it lies somewhere between its neighbours
				continue
			}
		}
		if r.at > 0 {
			if err := r.more(); err != nil {
				return err
			}
			continue
		}
		r.of, r.b = r.of[:len(r.of)-1], nil
		if n := len(r.of); n > 0 {
			r.at = r.of[n-1].size
		}
	}
	return nil
}

// chunk is how much is read at once. It is doubled for a line that is longer, so that
// reading one costs its length.
const chunk = 1 << 16

// more reads what comes before b.
func (r *backwards) more() error {
	n := min(r.at, max(chunk, int64(len(r.b))))
	b, err := r.of[len(r.of)-1].read(r.t, r.at-n, int(n))
	if err != nil {
		return err
	}
	if b == nil {
		r.of, r.at, r.b = nil, 0, nil
		return nil
	}
	r.at -= n
	r.b = append(b, r.b...)
	return nil
}

// forwards walks the records of a class after a given one, from the oldest to the newest.
// Records that it has not read when their segment is reused are gone, and it continues
// after them.
type forwards struct {
	t     *trail
	class audit.Class
	whole uint64 // the last that is read
	after uint64 // the last that is done
	gone  uint64 // the last that is gone
	of    []view // not read yet, or not all of the first
	at    int64  // where what is read next of the first begins
	b     []byte // what has been read, and is not done
	id    uint64 // of text, or of the line before
	text  []byte // the line that is next; nil: none yet, or none any more
	bad   bool   // the line before could not be read; more of those are left out
}

// open is called with mu held.
func (r *forwards) open() {
	of := r.t.of(r.class)
	if len(of) > 0 && of[0].before > r.after {
		r.gone = of[0].before
	}
	for len(of) > 1 && of[1].first > 0 && of[1].first-1 <= r.after {
		of = of[1:]
	}
	r.of, r.at, r.b, r.id, r.bad = nil, -1, nil, 0, false
	if len(of) > 0 {
		r.id = max(of[0].first, 2) - 2 // so that what is in front of its first has an ID below that
	}
	for _, s := range of {
		r.of = append(r.of, view{s, s.size, s.begun})
	}
}

// done lets go of text. The ID of a line that cannot be read is a guess, and the line
// whose own it is may be next.
func (r *forwards) done() {
	if r.text = nil; !r.bad {
		r.after = r.id
	}
}

// fill puts the next line into text, if there is one.
func (r *forwards) fill() error {
	for r.text == nil && len(r.of) > 0 {
		if n := bytes.IndexByte(r.b, '\n') + 1; n > 0 {
			r.next(n)
			continue
		}
		if r.at < 0 {
			r.at = 0
			if err := r.seek(); err != nil {
				return err
			}
			continue
		}
		if seg := r.of[0]; r.at >= seg.size {
			r.of, r.at, r.b = r.of[1:], 0, nil // what is left of b has no end
			continue
		}
		if err := r.more(); err != nil {
			return err
		}
	}
	return nil
}

// next puts the line of n bytes at the beginning of b into text, if it is wanted.
func (r *forwards) next(n int) {
	line := r.b[:n]
	r.b = r.b[n:]
	id, before := lineID(line), r.bad
	r.bad = id == 0
	switch {
	case r.bad && before || id > r.whole:
		return
	case r.bad:
		id = min(r.id+1, r.whole) // it lies somewhere between its neighbours
	}
	if r.id = id; id > r.after {
		r.text = line
	}
}

// more reads what comes after b.
func (r *forwards) more() error {
	seg := r.of[0]
	n := min(seg.size-r.at, max(chunk, int64(len(r.b))))
	b, err := seg.read(r.t, r.at, int(n))
	if err != nil {
		return err
	}
	if b == nil {
		r.again()
		return nil
	}
	r.at += n
	r.b = append(r.b, b...)
	return nil
}

// again starts over with what is still there.
func (r *forwards) again() {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	r.open()
}

// seek finds where to begin in the first segment, so that a reader who lacks only the
// last records gets them without reading the others: near the end, or else by bisection.
func (r *forwards) seek() error {
	const page = 4 << 10
	seg := r.of[0]
	low, high := int64(0), seg.size // a line that is done begins at low; none of those that begin behind high is
	for at := max(0, high-page); high-low > 2*page; at = low + (high-low)/2 {
		b, err := seg.read(r.t, at, int(min(page, seg.size-at)))
		if err != nil {
			return err
		}
		if b == nil {
			r.again()
			return nil
		}
		n := bytes.IndexByte(b, '\n') + 1
		id := lineID(b[n:])
		switch {
		case n == 0 || id == 0: // a long line, or one that cannot be read: from low on it is found, too
			r.at = low
			return nil
		case id <= r.after:
			low = at + int64(n)
		default:
			high = at
		}
	}
	r.at = low
	return nil
}
