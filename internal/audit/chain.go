package audit

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
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
	if r.Hash, err = hashOf(text); err != nil {
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
	plain, err := canonical(text)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(plain)
	return hex.EncodeToString(sum[:]), nil
}

// canonical is a record in the form that is hashed. Records have no numbers but
// integers, whose form is one already.
func canonical(text []byte) ([]byte, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return nil, err
	}
	if c := b.Bytes(); c[0] != '{' {
		return nil, fmt.Errorf("a record is a JSON object, and this begins with %q", c[0])
	}
	out, _, err := canonicalObject(nil, b.Bytes(), func(key string) bool { return key == "hash" || key == "api" })
	return out, err
}

// canonicalValue adds the value that compact valid JSON begins with to out.
func canonicalValue(out, v []byte) (longer, rest []byte, err error) {
	switch v[0] {
	case '{':
		return canonicalObject(out, v, func(string) bool { return false })
	case '[':
		out, v = append(out, '['), v[1:]
		for v[0] != ']' {
			if v[0] == ',' {
				out, v = append(out, ','), v[1:]
			}
			if out, v, err = canonicalValue(out, v); err != nil {
				return nil, nil, err
			}
		}
		return append(out, ']'), v[1:], nil
	case '"':
		text, rest, err := cutString(v)
		return appendString(out, text), rest, err
	}
	n := bytes.IndexAny(v, ",]}")
	if bytes.ContainsAny(v[:n], ".eE") && v[0] != 't' && v[0] != 'f' || string(v[:n]) == "-0" {
		return nil, nil, fmt.Errorf("number %s: a record has integers only", v[:n])
	}
	return append(out, v[:n]...), v[n:], nil
}

// canonicalObject is canonicalValue for an object: its keys are sorted. Those that
// are left out are no part of it.
func canonicalObject(out, v []byte, leftOut func(key string) bool) (longer, rest []byte, err error) {
	type member struct {
		key   string
		value []byte
	}
	var all []member
	for v = v[1:]; v[0] != '}'; {
		if v[0] == ',' {
			v = v[1:]
		}
		var m member
		if m.key, v, err = cutString(v); err == nil {
			m.value, v, err = canonicalValue(nil, v[1:])
		}
		if err != nil {
			return nil, nil, err
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b member) int { return cmp.Compare(a.key, b.key) })
	open := byte('{')
	for i, m := range all {
		// Programs differ in which of the two they would read.
		if i > 0 && m.key == all[i-1].key {
			return nil, nil, fmt.Errorf("key %q stands there twice", m.key)
		}
		if leftOut(m.key) {
			continue
		}
		out = append(appendString(append(out, open), m.key), ':')
		out, open = append(out, m.value...), ','
	}
	if open == '{' {
		out = append(out, open)
	}
	return append(out, '}'), v[1:], nil
}

// cutString takes the string that valid JSON begins with off it.
func cutString(v []byte) (s string, rest []byte, err error) {
	n := 1
	for ; v[n] != '"'; n++ {
		if v[n] == '\\' {
			n++
		}
	}
	text := v[:n+1]
	if bytes.IndexByte(text, '\\') < 0 && utf8.Valid(text) {
		return string(text[1:n]), v[n+1:], nil
	}
	err = json.Unmarshal(text, &s)
	return s, v[n+1:], err
}

// appendString adds a string as RFC 8785, section 3.2.2.2, has it: nothing is escaped
// that need not be.
func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c >= ' ':
			out = append(out, c)
		case bytes.IndexByte([]byte("\b\t\n\f\r"), c) >= 0:
			out = append(out, '\\', "btn.fr"[c-'\b'])
		default:
			out = fmt.Appendf(out, `\u%04x`, c)
		}
	}
	return append(out, '"')
}
