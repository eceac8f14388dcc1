// Package tape turns the input of a fuzz target into choices, so that coverage
// guides the fuzzer through what the choices stand for: rules, steps, messages. A
// small choice takes one byte and no byte is read twice, so that a changed byte changes
// one choice and leaves the others as they are. It is for tests.
package tape

// Tape is read from its beginning to its end, after which every choice is the first
// possible one. It is not safe for concurrent use.
type Tape struct{ b []byte }

// New returns a tape of b, which is never changed.
func New(b []byte) *Tape { return &Tape{b} }

// More reports whether bytes are left.
func (t *Tape) More() bool { return len(t.b) > 0 }

// Byte returns the next byte, or 0 at the end.
func (t *Tape) Byte() byte {
	if len(t.b) == 0 {
		return 0
	}
	b := t.b[0]
	t.b = t.b[1:]
	return b
}

// Bytes returns the next n bytes, or as many as are left.
func (t *Tape) Bytes(n int) []byte {
	n = min(n, len(t.b))
	b := t.b[:n:n]
	t.b = t.b[n:]
	return b
}

// Below chooses a number from 0 to n-1. It reads as many bytes as n-1 has.
func (t *Tape) Below(n int) int {
	v := 0
	for most := n - 1; most > 0; most >>= 8 {
		v = v<<8 | int(t.Byte())
	}
	return v % n
}

// Bool chooses true or false.
func (t *Tape) Bool() bool { return t.Byte()%2 == 1 }

// Of chooses an element of list, which must not be empty.
func Of[T any](t *Tape, list []T) T { return list[t.Below(len(list))] }
