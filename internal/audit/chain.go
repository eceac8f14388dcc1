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

// Link names a record of a chain.
type Link struct {
	ID   uint64 `json:"id"` // 0 for none
	Hash string `json:"hash"`
}

// Prev is what a record follows.
type Prev struct {
	Link         // the record before in its chain
	Other uint64 `json:"other"` // ID of the last record of the other chain, 0 for none
}

// Refusal says whether strangers can have as many records of the kind as they like.
func (r Record) Refusal() bool { return r.Event == EventRefused }

// Ends are the last records of the two chains: of what was decided, and of refusals,
// which have room of their own in the trail, from which the oldest go first. The zero
// Ends are of a trail that is empty.
type Ends [2]Link

// Chain returns a record as the next one, with its JSON text; the record is its
// chain's end then. It must have its ID, and all else as it stays. Hash is the SHA-256,
// in hex, of its JSON in the canonical form of RFC 8785, without the key "hash" itself
// and "api", which stands in what commands print.
//
// So a record that is taken out, put in or changed is seen by those that come next,
// unless whoever did it made all of them anew.
func (e *Ends) Chain(r Record) (Record, []byte, error) {
	own, other := e.of(r)
	r.Prev, r.Hash = &Prev{*own, other.ID}, ""
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

// Extend takes a record for the end of its chain, unless that has a later one.
func (e *Ends) Extend(r Record) {
	if own, _ := e.of(r); r.ID > own.ID {
		*own = Link{r.ID, r.Hash}
	}
}

// of are the ends of a record's own chain and of the other one.
func (e *Ends) of(r Record) (own, other *Link) {
	if r.Refusal() {
		return &e[1], &e[0]
	}
	return &e[0], &e[1]
}

// hashOf is the hash of a record in JSON, whatever it says of itself.
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

// The canonical form is made of valid JSON without spaces. Records have no numbers but
// integers, whose form is one already, and no key that is not of ASCII.

const maxDepth = 16 // of objects and arrays in each other; records have three

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

// appendObject is appendValue for an object: its keys are sorted. The outermost lacks
// those that are not hashed.
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
		case i > 0 && bytes.Equal(m.key, all[i-1].key): // programs differ in which of them they would read
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

// valueLen is how long the value is with which v begins.
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

// stringLen is how long the string is with which v begins, with its quotes.
func stringLen(v []byte) int {
	n := 1
	for ; v[n] != '"'; n++ {
		if v[n] == '\\' {
			n++
		}
	}
	return n + 1
}

// appendString adds a string as RFC 8785, section 3.2.2.2, has it: nothing is escaped
// that need not be.
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
