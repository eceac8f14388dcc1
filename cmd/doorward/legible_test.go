package main

import (
	"context"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
	"github.com/doorward/doorward/internal/view"
)

// hostile moves a cursor, in either coding of controls, and turns writing round.
const hostile = "a\x1b[2J\u009b31mb\u2028c\u202ed\x7f"

// spoil adds hostile text to every string in v, a pointer.
func spoil(v any) { spoilValue(reflect.ValueOf(v).Elem()) }

func spoilValue(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + hostile)
	case reflect.Slice:
		for i := range v.Len() {
			spoilValue(v.Index(i))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			spoilValue(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				spoilValue(v.Field(i))
			}
		}
	}
}

// Whatever the daemon was brought to say, or whoever it is that listens at its
// socket, nothing that is printed acts upon a terminal.
func TestNothingPrintedActsUponATerminal(t *testing.T) {
	s, trail := guarded(), append(trailOf(), audit.Record{ID: 9, Time: noon, Prev: &audit.Prev{Link: audit.Link{ID: 8}}, Hash: "x"})
	s.Pending = &control.Pending{Until: noon, By: "x"}
	s.Fence.Mismatch = "x"
	spoil(&s)
	spoil(&trail)
	d := control.Diff{Config: "x", After: "x", Refused: &control.Error{Message: "x", Hint: "x"}}
	for _, value := range []*string{nil, new(string)} {
		d.Changes = append(d.Changes, control.KeyChange{Before: value, After: value})
	}
	spoil(&d)
	for _, args := range [][]string{
		{"status"}, {"status", "ssh" + hostile}, {"status", "--json"}, {"log"}, {"log", "--json"}, {"log", "--verify"}, {"log", "--verify", "--json"},
		{"close", "ssh"}, {"close", "ssh", "--json"}, {"open", "ssh", "--source", "any"}, {"apply"}, {"apply", "--keep"},
		{"status", "nix"}, {"arm"}, {"diff"}, {"diff", "--json"},
	} {
		for _, fails := range []bool{false, true} {
			b := controltest.New(s)
			b.Append(trail...)
			if b.OnDiff(d, nil); fails {
				b.OnDiff(control.Diff{}, &control.Error{Message: hostile, Hint: hostile})
			}
			b.OnDo(func(context.Context, controltest.Given) (control.Reply, error) {
				if fails {
					return control.Reply{}, &control.Error{Message: hostile, Hint: hostile}
				}
				return control.Reply{Message: hostile}, nil
			})
			path, _ := controltest.Serve(t, b)
			_, stdout, stderr := operate(t, map[string]string{"DOORWARD_CONTROL": path}, args...)
			legibleOnly(t, strconv.Quote(strings.Join(args, " ")), stdout+stderr)
		}
	}
}

// The same for what changes while status is watched.
func TestNothingWatchedActsUponATerminal(t *testing.T) {
	s := guarded()
	spoil(&s)
	var p view.Changes
	legibleOnly(t, "the first snapshot", p.Lines(s, noon))
	legibleOnly(t, "what has gone", p.Lines(control.Status{}, noon))
}

func legibleOnly(t *testing.T, what, text string) {
	t.Helper()
	if text == "" {
		t.Errorf("%s prints nothing", what)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s prints %q", what, line)
		}
	}
}

// Scripts read what was said, whatever it is.
func TestEscapedJSONSaysTheSame(t *testing.T) {
	s := guarded()
	s.Warnings, s.Doors[1].Reason = []string{hostile}, hostile+"\U000e0041"
	b := controltest.New(s)
	b.Append(audit.Record{ID: 1, Time: noon, Event: audit.EventRefused, Reason: hostile})
	path, _ := controltest.Serve(t, b)
	_, stdout, _ := operate(t, nil, "--control", path, "status", "--json")
	var got control.Status
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(s, got); d != "" {
		t.Errorf("status (-want +got):\n%s", d)
	}
	_, stdout, _ = operate(t, nil, "--control", path, "log", "--json")
	var record audit.Record
	if err := json.Unmarshal([]byte(stdout), &record); err != nil || record.Reason != hostile {
		t.Errorf("log: %v, reason %q, want %q", err, record.Reason, hostile)
	}
}
