package tables

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Mistake is one thing that is wrong in a file. Every field but File, Line and Problem
// may be empty.
type Mistake struct {
	File    string `json:"file"`
	Line    int    `json:"line"`              // counted from 1; of the table when a key is missing
	Column  int    `json:"column"`            // counted from 1, in bytes
	Key     string `json:"key"`               // the whole path: door.ssh.knock[0].touch, lists counted from 0
	Value   string `json:"value,omitempty"`   // as TOML would spell it
	Problem string `json:"problem"`           // what is wrong with it
	Allowed string `json:"allowed,omitempty"` // what could stand there
	Hint    string `json:"hint,omitempty"`    // what to write instead
}

// Error returns place, key, value, problem and what is allowed, on one line.
func (m *Mistake) Error() string {
	parts := []string{fmt.Sprintf("%s:%d", m.File, m.Line)}
	for _, s := range []string{m.Key, m.Value, m.Problem} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if m.Allowed != "" {
		parts = append(parts, "allowed are "+m.Allowed)
	}
	return strings.Join(parts, ": ")
}

// Mistakes returns the mistakes that an error holds, in file order, and none for
// an error of another kind (a file that cannot be read).
func Mistakes(err error) []*Mistake {
	var found []*Mistake
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			found = append(found, Mistakes(e)...)
		}
		return found
	}
	if m, ok := errors.AsType[*Mistake](err); ok {
		found = append(found, m)
	}
	return found
}

// joinMistakes puts the mistakes into file order and makes them one error.
func joinMistakes(found []*Mistake) error {
	slices.SortStableFunc(found, func(a, b *Mistake) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			strings.Compare(a.Key, b.Key), strings.Compare(a.Problem, b.Problem))
	})
	errs := make([]error, len(found))
	for i, m := range found {
		errs[i] = m
	}
	return errors.Join(errs...)
}
