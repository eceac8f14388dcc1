package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Link identifies a record of a chain.
type Link struct {
	ID   uint64 `json:"id"` // 0 for none
	Hash string `json:"hash"`
}

// Prev is what a record follows. Other and Third are the IDs of the last records of the
// other two chains, in the order of their classes, 0 for none.
type Prev struct {
	Link          // the record before it in its own chain
	Other uint64  `json:"other"`
	Third *uint64 `json:"third,omitempty"` // nil in a record of a version that had two chains
}

// Class is which records share room in the trail, and a chain.
type Class uint8

// The classes. Each loses its oldest records to its own first.
const (
	Decided Class = iota // what was ordered, who logged in, alarms, and all else
	Refused              // refused knocks, of which strangers can cause as many as they like
	Visits               // what visitors' knocks have led to
	classes
)

// Classes returns all of them.
func Classes() []Class { return []Class{Decided, Refused, Visits} }

// Class returns the record's class.
func (r Record) Class() Class {
	switch {
	case r.Event == EventRefused:
		return Refused
	case r.Visit:
		return Visits
	}
	return Decided
}

// others are the classes besides c, in their order.
func (c Class) others() (other, third Class) {
	switch c {
	case Decided:
		return Refused, Visits
	case Refused:
		return Decided, Visits
	}
	return Decided, Refused
}

// Ends are the last records of the chains, by their classes. The zero Ends are those of
// an empty trail.
type Ends [classes]Link

// Chain makes a record the end of its chain, and returns it with Prev and Hash set, and
// its JSON text. All else must be final, the ID included. Hash is the SHA-256, in hex, of
// the JSON in the canonical form of RFC 8785, without the keys "hash" itself and "api",
// which is in what commands print.
//
// So the records that follow show that one was removed, inserted or changed, unless
// whoever did that has rewritten them all.
func (e *Ends) Chain(r Record) (Record, []byte, error) {
	own := &e[r.Class()]
	other, third := r.Class().others()
	last := e[third].ID
	r.Prev, r.Hash = &Prev{*own, e[other].ID, &last}, ""
	text, err := json.Marshal(r)
	if err != nil {
		return r, nil, err
	}
	if r.Hash, err = hashOfCompact(text); err != nil {
		return r, nil, err
	}
	*own = Link{r.ID, r.Hash}
	text = fmt.Appendf(text[:len(text)-1], `,"hash":"%s"}`, r.Hash)
	return r, text, nil
}

// Extend makes a record the end of its chain, unless that is a later one.
func (e *Ends) Extend(r Record) {
	if own := &e[r.Class()]; r.ID > own.ID {
		*own = Link{r.ID, r.Hash}
	}
}

// hashOf computes the hash of a record in JSON, whatever its own "hash" is.
func hashOf(text []byte) (string, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return "", err
	}
	return hashOfCompact(b.Bytes())
}

func hashOfCompact(text []byte) (string, error) {
	if text[0] != '{' {
		return "", fmt.Errorf("not a JSON object: it begins with %q", text[0])
	}
	plain, err := appendObject(make([]byte, 0, len(text)), text, 0)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(plain)
	return hex.EncodeToString(sum[:]), nil
}

// The canonical form is made from valid JSON without white space. The only numbers in
// records are integers, which are in canonical form already, and all keys are ASCII.

const maxDepth = 16 // of nested objects and arrays; records have three levels

// appendValue adds a value to out in its canonical form.
func appendValue(out, v []byte, depth int) ([]byte, error) {
	switch {
	case depth > maxDepth:
		return nil, fmt.Errorf("objects are nested more than %d deep: a record has three levels", maxDepth)
	case v[0] == '{':
		return appendObject(out, v, depth)
	case v[0] == '[':
		var err error
		for out, v = append(out, '['), v[1:]; v[0] != ']'; {
			if v[0] == ',' {
				out, v = append(out, ','), v[1:]
			}
			n := valueLen(v)
			if out, err = appendValue(out, v[:n], depth+1); err != nil {
				return nil, err
			}
			v = v[n:]
		}
		return append(out, ']'), nil
	case v[0] == '"':
		return appendString(out, v)
	case (v[0] == '-' || v[0] <= '9') && (bytes.ContainsAny(v, ".eE") || string(v) == "-0"):
		return nil, fmt.Errorf("number %s: a record has integers only", v)
	}
	return append(out, v...), nil
}

// appendObject is appendValue for an object: it sorts the keys, and leaves out those of
// the outermost object that are not hashed.
func appendObject(out, v []byte, depth int) ([]byte, error) {
	type member struct{ key, value []byte }
	var room [20]member // as many as a record has
	all := room[:0]
	for v = v[1:]; v[0] != '}'; {
		if v[0] == ',' {
			v = v[1:]
		}
		n := valueLen(v)
		key, err := appendString(nil, v[:n])
		if err != nil {
			return nil, err
		}
		v = v[n+1:]
		n = valueLen(v)
		all, v = append(all, member{key, v[:n]}), v[n:]
	}
	slices.SortFunc(all, func(a, b member) int { return bytes.Compare(a.key, b.key) })
	out = append(out, '{')
	empty := len(out)
	for i, m := range all {
		switch {
		case i > 0 && bytes.Equal(m.key, all[i-1].key): // programs differ in which of the two they use
			return nil, fmt.Errorf("key %s appears twice", m.key)
		case depth == 0 && (string(m.key) == `"hash"` || string(m.key) == `"api"`):
			continue
		case len(out) > empty:
			out = append(out, ',')
		}
		var err error
		if out, err = appendValue(append(append(out, m.key...), ':'), m.value, depth+1); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

// valueLen returns the length of the value that v begins with.
func valueLen(v []byte) int {
	depth := 0
	for i := 0; i < len(v); i++ {
		switch v[i] {
		case '"':
			i += stringLen(v[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth < 0 {
				return i
			}
		case ',', ':':
			if depth == 0 {
				return i
			}
			continue
		default:
			continue
		}
		if depth == 0 {
			return i + 1
		}
	}
	return len(v)
}

// stringLen returns the length of the string that v begins with, including its quotes.
func stringLen(v []byte) int {
	n := 1
	for ; v[n] != '"'; n++ {
		if v[n] == '\\' {
			n++
		}
	}
	return n + 1
}

// appendString adds a string in the form of RFC 8785, section 3.2.2.2: nothing is
// escaped that need not be.
func appendString(out, v []byte) ([]byte, error) {
	if bytes.IndexByte(v, '\\') < 0 && utf8.Valid(v) {
		return append(out, v...), nil
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		return nil, err
	}
	out = append(out, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c >= ' ':
			out = append(out, c)
		case strings.IndexByte("\b\t\n\f\r", c) >= 0:
			out = append(out, '\\', "btn.fr"[c-'\b'])
		default:
			out = fmt.Appendf(out, `\u%04x`, c)
		}
	}
	return append(out, '"'), nil
}
