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

// The keys. What names a thing is in its key and nowhere else, so that key and
// value cannot disagree. The parts are joined by NUL, which neither a door's
// name nor a prefix can contain; By comes last and may contain anything.

func doorKey(name string) ([]byte, error) {
	if name == "" || strings.Contains(name, "\x00") {
		return nil, fmt.Errorf("door %q: a door's name is not empty and has no NUL", name)
	}
	return []byte(name), nil
}

func penaltyKey(k PenaltyKey) ([]byte, error) {
	b, err := doorKey(k.Door)
	if err != nil {
		return nil, err
	}
	source, err := sourceText(k.Source)
	return append(append(b, 0), source...), err
}

func grantKey(k GrantKey) ([]byte, error) {
	b, err := penaltyKey(PenaltyKey{Door: k.Door, Source: k.Source})
	if err != nil {
		return nil, err
	}
	return append(append(b, 0), k.By...), nil
}

// sourceText is the source as text, "" for everybody.
func sourceText(p netip.Prefix) (string, error) {
	switch {
	case p == door.Any:
		return "", nil
	case !p.IsValid():
		return "", fmt.Errorf("source %v: allowed are a valid prefix, and door.Any for everybody", p)
	}
	return p.String(), nil
}

func parseSource(s string) (netip.Prefix, error) {
	if s == "" {
		return door.Any, nil
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && p.String() != s {
		err = fmt.Errorf("prefix %q is not in its one form %q", s, p)
	}
	return p, err
}

func parsePenaltyKey(key []byte) (k PenaltyKey, err error) {
	name, source, ok := strings.Cut(string(key), "\x00")
	if !ok || name == "" {
		return k, fmt.Errorf("key %q is not a door and a source", key)
	}
	k.Door = name
	k.Source, err = parseSource(source)
	return k, err
}

func parseGrantKey(key []byte) (k GrantKey, err error) {
	parts := strings.SplitN(string(key), "\x00", 3)
	if len(parts) != 3 || parts[0] == "" {
		return k, fmt.Errorf("key %q is not a door, a source and a name", key)
	}
	k.Door, k.By = parts[0], parts[2]
	k.Source, err = parseSource(parts[1])
	return k, err
}

// The values are JSON. A field may be added within a bucket's version; one that
// changes its meaning needs a new version.

func encodeDoor(d Door) (key, value []byte, err error) {
	if key, err = doorKey(d.Name); err != nil {
		return nil, nil, err
	}
	d.Since, d.Opened, d.LastSeen = utc(d.Since), utc(d.Opened), utc(d.LastSeen)
	value, err = json.Marshal(d)
	return key, value, err
}

func decodeDoor(key, value []byte) (d Door, err error) {
	if _, err = doorKey(string(key)); err != nil {
		return Door{}, err
	}
	if err = unmarshal(value, &d); err != nil {
		return Door{}, err
	}
	d.Name = string(key)
	d.Since, d.Opened, d.LastSeen = utc(d.Since), utc(d.Opened), utc(d.LastSeen)
	return d, nil
}

func encodePenalty(p Penalty) (key, value []byte, err error) {
	if key, err = penaltyKey(PenaltyKey{Door: p.Door, Source: p.Source}); err != nil {
		return nil, nil, err
	}
	p.Until = utc(p.Until)
	value, err = json.Marshal(p)
	return key, value, err
}

func decodePenalty(key, value []byte) (p Penalty, err error) {
	k, err := parsePenaltyKey(key)
	if err != nil {
		return Penalty{}, err
	}
	if err = unmarshal(value, &p); err != nil {
		return Penalty{}, err
	}
	p.Door, p.Source, p.Until = k.Door, k.Source, utc(p.Until)
	return p, nil
}

func encodeGrant(g Grant) (key, value []byte, err error) {
	if key, err = grantKey(GrantKey{g.Door, g.Source, g.By}); err != nil {
		return nil, nil, err
	}
	g.Until = utc(g.Until)
	value, err = json.Marshal(g)
	return key, value, err
}

func decodeGrant(key, value []byte) (g Grant, err error) {
	k, err := parseGrantKey(key)
	if err != nil {
		return Grant{}, err
	}
	if err = unmarshal(value, &g); err != nil {
		return Grant{}, err
	}
	g.Door, g.Source, g.By, g.Until = k.Door, k.Source, k.By, utc(g.Until)
	return g, nil
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

func encodeRecord(r audit.Record) (value []byte, err error) { return json.Marshal(r) }

// decodeRecord always returns a record: one that cannot be read is replaced by
// one that says so in its place, and the error says why.
func decodeRecord(key, value []byte) (r audit.Record, err error) {
	if len(key) != 8 {
		err = fmt.Errorf("key %q is not an ID", key)
	} else {
		err = unmarshal(value, &r)
	}
	if err != nil {
		r = audit.Record{Event: audit.EventError, Reason: "this record cannot be read: " + err.Error()}
	}
	if len(key) == 8 {
		r.ID = binary.BigEndian.Uint64(key)
	}
	return stamped(r), err
}

// recordKey orders records by ID: big-endian numbers sort as their bytes do.
func recordKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

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
