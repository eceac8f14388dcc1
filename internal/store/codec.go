package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
)

// entry is one item of a commit: class and op in a byte, and then key and value, each
// preceded by its length.
//
// An unknown class comes from a later version: it is kept as it is, and so is a value
// that cannot be read. An unknown op is damage, since nobody knows what it leaves in
// place.
type entry struct {
	class class
	op    op
	key   []byte
	value []byte // of a put
}

type op uint8

const (
	opPut   op = iota // the key has the value
	opEnd             // the key has no value
	opClear           // no key that begins with this one has a value
)

type class uint8

const (
	classMeta class = iota + 1
	classDoor
	classPenalty
	classGrant
	classMark
	classRecord // of the audit trail, as long as it may not be there
	classShared // a mark under no door: versions that know of none keep it as it is
)

func (c class) String() string {
	names := [...]string{"", "meta", "door", "penalty", "grant", "mark", "record", "shared mark"}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprint("class ", uint8(c))
}

// The keys of classMeta.
const (
	bootKey    = "boot"    // the boot of the last commit
	appliedKey = "applied" // Applied
	lastKey    = "last"    // the highest ID of a record when the file was begun
	trailKey   = "trail"   // the audit trail has all records up to that ID, on disk
	chainKey   = "chain"   // audit.Ends when the file was begun
)

func appendEntry(b []byte, e entry) []byte {
	b = append(b, byte(e.op)<<5|byte(e.class))
	b = appendPart(b, e.key)
	return appendPart(b, e.value)
}

func parseEntry(b []byte) (e entry, rest []byte, err error) {
	e.class, e.op = class(b[0]&31), op(b[0]>>5)
	var ok bool
	if e.key, rest, ok = part(b[1:]); ok {
		e.value, rest, ok = part(rest)
	}
	if !ok || e.op > opClear {
		return e, nil, damaged("an entry %#x cannot be read: it is of a later version, or damaged", b[0])
	}
	return e, rest, nil
}

func appendPart(b, p []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(p)))
	return append(b, p...)
}

// part cuts a part with its length off b.
func part(b []byte) (p, rest []byte, ok bool) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return nil, nil, false
	}
	b = b[w:]
	return b[:n:n], b[n:], true
}

// The keys. What identifies a thing is in its key and nowhere else, so that key and value
// cannot disagree. The parts are joined by NUL, which neither a door's name nor a knock's
// nor a prefix can contain; the last part may contain anything.

func doorKey(name string) ([]byte, error) {
	if name == "" || strings.Contains(name, "\x00") {
		return nil, fmt.Errorf("door %q: a door's name is not empty and has no NUL", name)
	}
	return []byte(name), nil
}

// below returns the prefix of all keys of a door, or of one of its knocks.
func below(key []byte, err error) ([]byte, error) { return append(key, 0), err }

func doorsKey(name string) ([]byte, error) { return below(doorKey(name)) }

// encode makes a key without the knock's name where there is none.
func (k PenaltyKey) encode() ([]byte, error) {
	b, err := sourceKey(k.Door, k.Source)
	if k.Knock == "" {
		return b, err
	}
	return append(append(b, 0), k.Knock...), err
}

func (k GrantKey) encode() ([]byte, error) {
	b, err := sourceKey(k.Door, k.Source)
	return append(append(b, 0), k.By...), err
}

// sourceKey writes a source as text, and everybody as none.
func sourceKey(name string, p netip.Prefix) ([]byte, error) {
	b, err := doorsKey(name)
	switch {
	case err != nil || p == door.Any:
		return b, err
	case !p.IsValid():
		return nil, fmt.Errorf("source %v: allowed are a valid prefix, and door.Any for everybody", p)
	}
	return p.AppendTo(b), nil
}

func (k KnockKey) encode() (b []byte, err error) {
	if k.Door != "" {
		b, err = doorsKey(k.Door)
	}
	if err == nil && (k.Knock == "" || strings.Contains(k.Knock, "\x00")) {
		err = fmt.Errorf("knock %q of door %q: a knock's name is not empty and has no NUL", k.Knock, k.Door)
	}
	return append(append(b, k.Knock...), 0), err
}

// class is that of the marks.
func (k KnockKey) class() class {
	if k.Door == "" {
		return classShared
	}
	return classMark
}

func encodeMark(m Mark) (key, value []byte, err error) {
	if len(m.Key) < 1 || len(m.Key) > maxMarkKey || len(m.Value) > maxMarkValue {
		return nil, nil, fmt.Errorf("knock %q of door %q: a mark with a key of %d bytes and a value of %d: "+
			"allowed are 1 to %d, and at most %d", m.Knock, m.Door, len(m.Key), len(m.Value), maxMarkKey, maxMarkValue)
	}
	key, err = KnockKey{m.Door, m.Knock}.encode()
	return append(key, m.Key...), m.Value, err
}

func decodeMark(key, value []byte) (Mark, error) {
	parts := strings.SplitN(string(key), "\x00", 3)
	if len(parts) != 3 || parts[0] == "" {
		return Mark{}, fmt.Errorf("key %q is not a door, a knock and a key", key)
	}
	return Mark{Door: parts[0], Knock: parts[1], Key: parts[2], Value: bytes.Clone(value)}, nil
}

// decodeShared is decodeMark for a mark under no door.
func decodeShared(key, value []byte) (Mark, error) {
	kind, of, ok := strings.Cut(string(key), "\x00")
	if !ok || kind == "" {
		return Mark{}, fmt.Errorf("key %q is not a knock and a key", key)
	}
	return Mark{Knock: kind, Key: of, Value: bytes.Clone(value)}, nil
}

// parseKey splits a key that sourceKey began. The part after the source may be missing.
func parseKey(key []byte) (name string, source netip.Prefix, last string, there bool, err error) {
	name, rest, ok := strings.Cut(string(key), "\x00")
	text, last, there := strings.Cut(rest, "\x00")
	if source = door.Any; text != "" {
		source, err = netip.ParsePrefix(text)
	}
	if !ok || name == "" || err == nil && text != "" && source.String() != text {
		err = fmt.Errorf("key %q does not begin with a door and a source", key)
	}
	return name, source, last, there, err
}

// The values are JSON, but for grants, of which there can be a million. A field may
// be added; one that changes its meaning needs a new class.

func encodeDoor(d Door) (key, value []byte, err error) {
	if key, err = doorKey(d.Name); err != nil {
		return nil, nil, err
	}
	d.Since, d.Opened, d.LastSeen = utc(d.Since), utc(d.Opened), utc(d.LastSeen)
	value, err = json.Marshal(d)
	return key, value, err
}

func decodeDoor(key, value []byte) (d Door, err error) {
	if err = unmarshal(value, &d); err != nil {
		return Door{}, err
	}
	d.Name = string(key)
	d.Since, d.Opened, d.LastSeen = utc(d.Since), utc(d.Opened), utc(d.LastSeen)
	return d, nil
}

func encodePenalty(p Penalty) (key, value []byte, err error) {
	if key, err = (PenaltyKey{p.Door, p.Knock, p.Source}).encode(); err != nil {
		return nil, nil, err
	}
	p.Until = utc(p.Until)
	value, err = json.Marshal(p)
	return key, value, err
}

func decodePenalty(key, value []byte) (p Penalty, err error) {
	if err = unmarshal(value, &p); err != nil {
		return Penalty{}, err
	}
	p.Until = utc(p.Until)
	p.Door, p.Source, p.Knock, _, err = parseKey(key)
	return p, err
}

// A grant's value is when it ends, as seconds and nanoseconds, and for how long it
// was given.
func encodeGrant(g Grant) (key, value []byte, err error) {
	key, err = GrantKey{g.Door, g.Source, g.By}.encode()
	value = binary.AppendVarint(value, g.Until.Unix())
	value = binary.AppendVarint(value, int64(g.Until.Nanosecond()))
	return key, binary.AppendVarint(value, int64(g.For)), err
}

func decodeGrant(key, value []byte) (g Grant, err error) {
	var numbers [3]int64
	for i := range numbers {
		n, w := binary.Varint(value)
		if w <= 0 {
			return Grant{}, fmt.Errorf("value %x is not of three numbers", value)
		}
		numbers[i], value = n, value[w:]
	}
	g.Until, g.For = time.Unix(numbers[0], numbers[1]).UTC(), time.Duration(numbers[2])
	var ok bool
	if g.Door, g.Source, g.By, ok, err = parseKey(key); err == nil && !ok {
		err = fmt.Errorf("key %q does not say on whose behalf", key)
	}
	return g, err
}

func encodeApplied(a Applied) ([]byte, error) { return json.Marshal(a.stamped()) }

// stamped returns a with its times as they come back from the store.
func (a Applied) stamped() Applied {
	a.Deadline = utc(a.Deadline)
	a.Ended = append([]Ended(nil), a.Ended...)
	for i := range a.Ended {
		a.Ended[i].Time = utc(a.Ended[i].Time)
	}
	return a
}

func decodeApplied(value []byte) (a Applied, err error) {
	if err = unmarshal(value, &a); err != nil {
		return Applied{}, err
	}
	return a.stamped(), nil
}

// stamped returns r with its times as they come back from the store.
func stamped(r audit.Record) audit.Record {
	r.Time = utc(r.Time)
	if r.Until != nil {
		u := utc(*r.Until)
		r.Until = &u
	}
	if r.Login != nil && r.Login.Grant != nil {
		l, g := *r.Login, *r.Login.Grant
		g.Since = utc(g.Since)
		l.Grant, r.Login = &g, &l
	}
	return r
}

// utc drops the monotonic reading, which means nothing to another process, and
// the zone, of which JSON would keep the offset alone.
func utc(t time.Time) time.Time { return t.Round(0).UTC() }

// unmarshal is json.Unmarshal, but "null" is refused: it would leave a value
// that nobody wrote.
func unmarshal(value []byte, into any) error {
	if bytes.Equal(bytes.TrimSpace(value), []byte("null")) {
		return fmt.Errorf("value %q is not an object", value)
	}
	return json.Unmarshal(value, into)
}
