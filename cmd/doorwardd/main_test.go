//go:build linux

package main

import (
	"errors"
	"strings"
	"testing"
)

// Each line of an error is an entry of the journal, and an error there.
func TestComplain(t *testing.T) {
	var b strings.Builder
	complain(&b, "<3>", errors.Join(errors.New("a.toml:1: x"), errors.New("a.toml:2: y")))
	if want := "<3>doorwardd: error: a.toml:1: x\n<3>a.toml:2: y\n"; b.String() != want {
		t.Errorf("printed %q, want %q", b.String(), want)
	}
}
