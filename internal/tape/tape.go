// Package tape turns the bytes that a fuzz target is handed into choices, so
// that the fuzzer's coverage leads it through what they stand for: rules, steps,
// messages. One byte is one small choice and nothing is looked back at, so that
// a changed byte changes one choice and leaves the others. It is for tests.
package tape

// Tape is read from its beginning. At its end every choice is the first one.
// It is not safe for concurrent use.
type Tape struct{ b []byte }

// New returns a tape of b, which it does not change.
func New(b []byte) *Tape { return &Tape{b} }

// More says whether bytes are left.
func (t *Tape) More() bool { return len(t.b) > 0 }

// Byte is the next byte.
func (t *Tape) Byte() byte {
	if len(t.b) == 0 {
		return 0
	}
	b := t.b[0]
	t.b = t.b[1:]
	return b
}

// Bytes is the next n bytes, fewer where fewer are left.
func (t *Tape) Bytes(n int) []byte {
	n = min(n, len(t.b))
	b := t.b[:n:n]
	t.b = t.b[n:]
	return b
}

// Below chooses a number from 0 to n-1. It takes as many bytes as n-1 has.
func (t *Tape) Below(n int) int {
	v := 0
	for most := n - 1; most > 0; most >>= 8 {
		v = v<<8 | int(t.Byte())
	}
	return v % n
}

// Bool chooses.
func (t *Tape) Bool() bool { return t.Byte()%2 == 1 }

// Of chooses one of list, which is not empty.
func Of[T any](t *Tape, list []T) T { return list[t.Below(len(list))] }
