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

// entry is one thing that a commit says: class and op in a byte, and then key and
// value, each with its length before it.
//
// A class that is not known is one of a later version: it is kept as it is, and so
// is a value that cannot be read. An op that is not known is damage, since nobody can
// tell what it leaves standing.
type entry struct {
	class class
	op    op
	key   []byte
	value []byte // of a put
}

type op uint8

const (
	opPut   op = iota // what is under the key is the value
	opEnd             // nothing is
	opClear           // nothing is whose key begins with the parts of this one
)

type class uint8

const (
	classMeta class = iota + 1
	classDoor
	classPenalty
	classGrant
	classMark
	classRecord // of the audit trail, for as long as it may not be in there
)

func (c class) String() string {
	names := [...]string{"", "meta", "door", "penalty", "grant", "mark", "record"}
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
	trailKey   = "trail"   // the audit trail has all records up to that ID, on the disk
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

func appendPart[T string | []byte](b []byte, p T) []byte {
	b = binary.AppendUvarint(b, uint64(len(p)))
	return append(b, p...)
}

// part takes a part with its length off b.
func part(b []byte) (p, rest []byte, ok bool) {
	n, w := binary.Uvarint(b)
	if w <= 0 || n > uint64(len(b)-w) {
		return nil, nil, false
	}
	b = b[w:]
	return b[:n:n], b[n:], true
}

// heads are a key's first part and its first two.
func heads(key []byte) (first, second []byte) {
	_, rest, ok := part(key)
	if !ok {
		return key, key
	}
	first = key[:len(key)-len(rest)]
	_, rest, _ = part(rest)
	return first, key[:len(key)-len(rest)]
}

// The keys of the other classes are parts: what names a thing is in its key and
// nowhere else, so that key and value cannot disagree.

func doorKey(name string) ([]byte, error) {
	if name == "" || strings.Contains(name, "\x00") {
		return nil, fmt.Errorf("door %q: a door's name is not empty and has no NUL", name)
	}
	return appendPart(nil, name), nil
}

func (k PenaltyKey) encode() ([]byte, error) {
	b, err := doorKey(k.Door)
	if err != nil {
		return nil, err
	}
	source, err := encodeSource(k.Source)
	return appendPart(appendPart(b, k.Knock), source), err
}

func (k GrantKey) encode() ([]byte, error) {
	b, err := doorKey(k.Door)
	if err != nil {
		return nil, err
	}
	source, err := encodeSource(k.Source)
	return appendPart(appendPart(b, source), k.By), err
}

func (k KnockKey) encode() ([]byte, error) {
	b, err := doorKey(k.Door)
	if err == nil && k.Knock == "" {
		err = fmt.Errorf("door %q: a knock's name is not empty", k.Door)
	}
	return appendPart(b, k.Knock), err
}

func (m Mark) encode() (key, value []byte, err error) {
	if len(m.Key) < 1 || len(m.Key) > maxMarkKey || len(m.Value) > maxMarkValue {
		return nil, nil, fmt.Errorf("a mark of knock %q of door %q has a key of %d bytes and a value of %d: "+
			"allowed are 1 to %d, and at most %d", m.Knock, m.Door, len(m.Key), len(m.Value), maxMarkKey, maxMarkValue)
	}
	key, err = KnockKey{m.Door, m.Knock}.encode()
	return appendPart(key, m.Key), m.Value, err
}

// parts takes n parts off a key that has just those.
func parts(key []byte, n int) ([][]byte, error) {
	var all [][]byte
	rest := key
	for range n {
		p, r, ok := part(rest)
		if !ok {
			return nil, fmt.Errorf("key %q has not %d parts", key, n)
		}
		all, rest = append(all, p), r
	}
	if len(rest) > 0 || len(all[0]) == 0 {
		return nil, fmt.Errorf("key %q is not of a door and %d parts more", key, n-1)
	}
	return all, nil
}

// encodeSource writes a source as the bytes of its address and its length in bits,
// and everybody as nothing.
func encodeSource(p netip.Prefix) ([]byte, error) {
	switch {
	case p == door.Any:
		return nil, nil
	case !p.IsValid():
		return nil, fmt.Errorf("source %v: allowed are a valid prefix, and door.Any for everybody", p)
	}
	return append(p.Addr().AsSlice(), byte(p.Bits())), nil
}

func decodeSource(b []byte) (netip.Prefix, error) {
	if len(b) == 0 {
		return door.Any, nil
	}
	addr, ok := netip.AddrFromSlice(b[:len(b)-1])
	p := netip.PrefixFrom(addr, int(b[len(b)-1]))
	if !ok || !p.IsValid() {
		return netip.Prefix{}, fmt.Errorf("source %x is no prefix", b)
	}
	return p, nil
}

// Penalties and grants, of which there can be many, have values of numbers; doors
// and the configuration have JSON. A field may be added at the end; one that changes
// its meaning needs a new class.

func appendTime(b []byte, t time.Time) []byte {
	b = binary.AppendVarint(b, t.Unix())
	return binary.AppendUvarint(b, uint64(t.Nanosecond()))
}

// numbers reads what appendTime and binary.Append have written.
type numbers struct {
	b   []byte
	bad bool
}

func (n *numbers) take(v int64, w int) int64 {
	if w <= 0 {
		n.bad, n.b = true, nil
		return 0
	}
	n.b = n.b[w:]
	return v
}

func (n *numbers) varint() int64 { v, w := binary.Varint(n.b); return n.take(v, w) }

func (n *numbers) uvarint() uint64 {
	v, w := binary.Uvarint(n.b)
	return uint64(n.take(int64(v), w))
}

func (n *numbers) time() time.Time {
	sec, nsec := n.varint(), n.uvarint()
	if nsec >= 1e9 {
		n.bad = true
		return time.Time{}
	}
	return time.Unix(sec, int64(nsec)).UTC()
}

func encodeDoor(d Door) (key, value []byte, err error) {
	if key, err = doorKey(d.Name); err != nil {
		return nil, nil, err
	}
	d.Since, d.Opened, d.LastSeen = utc(d.Since), utc(d.Opened), utc(d.LastSeen)
	value, err = json.Marshal(d)
	return key, value, err
}

func decodeDoor(key, value []byte) (d Door, err error) {
	k, err := parts(key, 1)
	if err != nil {
		return Door{}, err
	}
	if err = unmarshal(value, &d); err != nil {
		return Door{}, err
	}
	d.Name = string(k[0])
	d.Since, d.Opened, d.LastSeen = utc(d.Since), utc(d.Opened), utc(d.LastSeen)
	return d, nil
}

func encodePenalty(p Penalty) (key, value []byte, err error) {
	key, err = PenaltyKey{p.Door, p.Knock, p.Source}.encode()
	value = binary.AppendVarint(appendTime(nil, p.Until), int64(p.For))
	return key, append(binary.AppendVarint(value, int64(p.Times)), p.Reason...), err
}

func decodePenalty(key, value []byte) (p Penalty, err error) {
	k, err := parts(key, 3)
	if err != nil {
		return Penalty{}, err
	}
	p.Door, p.Knock = string(k[0]), string(k[1])
	p.Source, err = decodeSource(k[2])
	n := numbers{b: value}
	p.Until, p.For, p.Times = n.time(), time.Duration(n.varint()), int(n.varint())
	p.Reason = string(n.b)
	if n.bad && err == nil {
		err = fmt.Errorf("value %x is not a penalty's", value)
	}
	return p, err
}

func encodeGrant(g Grant) (key, value []byte, err error) {
	key, err = GrantKey{g.Door, g.Source, g.By}.encode()
	return key, binary.AppendVarint(appendTime(nil, g.Until), int64(g.For)), err
}

func decodeGrant(key, value []byte) (g Grant, err error) {
	k, err := parts(key, 3)
	if err != nil {
		return Grant{}, err
	}
	g.Door, g.By = string(k[0]), string(k[2])
	g.Source, err = decodeSource(k[1])
	n := numbers{b: value}
	g.Until, g.For = n.time(), time.Duration(n.varint())
	if n.bad && err == nil {
		err = fmt.Errorf("value %x is not a grant's", value)
	}
	return g, err
}

func decodeMark(key, value []byte) (Mark, error) {
	k, err := parts(key, 3)
	if err != nil {
		return Mark{}, err
	}
	return Mark{Door: string(k[0]), Knock: string(k[1]), Key: string(k[2]), Value: bytes.Clone(value)}, nil
}

func encodeApplied(a Applied) ([]byte, error) {
	a.Deadline = utc(a.Deadline)
	return json.Marshal(a)
}

func decodeApplied(value []byte) (a Applied, err error) {
	if err = unmarshal(value, &a); err != nil {
		return Applied{}, err
	}
	a.Deadline = utc(a.Deadline)
	return a, nil
}

// stamped is r with its times as they come back from the store.
func stamped(r audit.Record) audit.Record {
	r.Time = utc(r.Time)
	if r.Until != nil {
		u := utc(*r.Until)
		r.Until = &u
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
