//go:build linux

package service

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/tape"
)

// documented has the properties that are read, with their types according to
// org.freedesktop.systemd1(5).
var documented = map[string]string{
	"ActiveState": "s", "LoadState": "s", "Id": "s", "Triggers": "as", "TriggeredBy": "as", "Accept": "b", "Result": "s",
	"ExecMainStatus": "i", "ExecMainCode": "i", "MainPID": "u", "KillMode": "s", "InactiveExitTimestampMonotonic": "t",
	"StartLimitIntervalUSec": "t", "StartLimitBurst": "u",
	"UnitFileState": "s", "RuntimeDirectory": "as", "RuntimeDirectoryPreserve": "s",
	"Job": "av", // (uo) on the wire; godbus decodes it as this
}

// drawProperties makes properties, of which some are missing and some have other types
// than documented, and sends them over the wire.
func drawProperties(t *testing.T, c *tape.Tape) properties {
	p := map[string]dbus.Variant{}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		var v any
		switch c.Below(16) {
		case 0:
			continue
		case 1:
			v = tape.Of(c, []any{"active", []string{"active"}, true, int32(-1), uint32(1 << 31), uint64(7), int64(-7), 1.5, byte(3),
				[]byte("active"), map[string]string{"active": "x"}, dbus.ObjectPath("/active"), dbus.MakeVariant("active"),
				struct {
					A string
					B uint32
				}{"active", 5}, []dbus.Variant{dbus.MakeVariant(uint32(1))}, int16(2), uint16(2)})
		default:
			v = drawRight(c, documented[name])
		}
		p[name] = dbus.MakeVariant(v)
	}
	msg := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(uint32(1)), dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(p))}, Body: []any{p}}
	var wire bytes.Buffer
	if err := msg.EncodeTo(&wire, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	got, err := dbus.DecodeMessage(&wire)
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]dbus.Variant
	if err := dbus.Store(got.Body, &back); err != nil {
		t.Fatal(err)
	}
	return back
}

func drawRight(c *tape.Tape, kind string) any {
	words := []string{"active", "inactive", "failed", "activating", "deactivating", "reloading", "maintenance", "loaded", "not-found",
		"success", "exit-code", "timeout", "signal", "", "process", "a\x00b"}
	switch kind {
	case "s":
		return tape.Of(c, words[:15])
	case "as":
		return []string{tape.Of(c, words[:15])}
	case "b":
		return c.Bool()
	case "i":
		return int32(c.Below(4))
	case "av":
		return struct {
			ID   uint32
			Path dbus.ObjectPath
		}{uint32(c.Below(2)), "/job"}
	case "u":
		return uint32(c.Below(65536)) << c.Below(16)
	}
	return uint64(c.Byte())
}

// right returns p without the properties that have other types than documented.
func (p properties) right() properties {
	q := maps.Clone(p)
	maps.DeleteFunc(q, func(name string, v dbus.Variant) bool { return v.Signature().String() != documented[name] })
	return q
}

// FuzzProperties checks that a property of the wrong type counts as missing and changes
// nothing else, and that a unit's state is what systemd reports.
func FuzzProperties(f *testing.F) {
	for _, s := range []string{
		"", "\x02\x00\x02\x00", strings.Repeat("\x02\x01", 60), strings.Repeat("\x01\x03", 60), "\x01" + strings.Repeat("\x05\x00\x05", 50),
		"\x02\x02" + strings.Repeat("\x03\x00\x01\x0c", 40), strings.Repeat("\x00\x02\x02", 50),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		c := tape.New(choices)
		var v, right view
		names := []string{"ssh.socket", "ssh.service"}[c.Below(2):]
		triggers := c.Below(3)
		for i := range len(names) + triggers {
			m := member{name: fmt.Sprintf("t%d.socket", i), unit: drawProperties(t, c), own: drawProperties(t, c)}
			if i < len(names) {
				m.name = names[i]
				v.members = append(v.members, m)
				right.members = append(right.members, member{m.name, m.path, m.unit.right(), m.own.right()})
				continue
			}
			v.triggers = append(v.triggers, m)
			right.triggers = append(right.triggers, member{m.name, m.path, m.unit.right(), m.own.right()})
		}
		got := v.status()
		if d := cmp.Diff(right.status(), got); d != "" {
			t.Fatalf("wrong types change the status (-without +with):\n%s", d)
		}
		facts := v.facts()
		if d := cmp.Diff(right.facts(), facts); d != "" {
			t.Fatalf("wrong types change the facts (-without +with):\n%s", d)
		}
		if own := (view{members: v.members[:1]}); facts.Own.State != wordState(own) {
			t.Fatalf("its own state is %v, systemd's words say %v", facts.Own.State, wordState(own))
		}
		u := &Unit{name: names[0]}
		for _, result := range []string{"done", "failed", "timeout", "\x1b"} {
			a, b := u.startResult(result, v.members[0]), u.startResult(result, right.members[0])
			last := len(v.members) - 1
			if refused(result, v.members[last], v.members[0]) != refused(result, right.members[last], right.members[0]) {
				t.Fatal("wrong types change whether a start was refused")
			}
			if fmt.Sprint(a) != fmt.Sprint(b) {
				t.Fatalf("wrong types change the result of a start: %v, %v", a, b)
			}
			if a == nil && (result != "done" || v.members[0].state() != Running) {
				t.Fatalf("a start that ended as %q is a success", result)
			}
		}
		if want := wordState(v); got.State != want || got.PID < 0 {
			t.Fatalf("status %+v, systemd's words say %v", got, want)
		}
	})
}

// wordState returns the state that follows from systemd's words: if a socket does not
// listen, its service still counts if it runs.
func wordState(v view) State {
	of := func(m member) State {
		w, _ := m.unit["ActiveState"].Value().(string)
		s, known := map[string]State{"active": Running, "reloading": Running, "refreshing": Running, "activating": Starting,
			"deactivating": Stopping, "failed": Failed}[w]
		if s == Failed || !known {
			if job, _ := m.unit["Job"].Value().([]any); slices.Equal(job, []any{uint32(1), dbus.ObjectPath("/job")}) {
				return Starting // between the stop and the start of a restart
			}
		}
		return s // Stopped, if not known
	}
	s := of(v.members[0])
	for _, m := range v.members[1:] {
		if of(m) == Running && s != Running && s != Starting && s != Stopping {
			s = Running
		}
	}
	return s
}

// FuzzStat checks that a process's start time is found whatever its name is, and that a
// file that was cut is an error.
func FuzzStat(f *testing.F) {
	for _, name := range []string{"sshd", "a b", ") S 1 1 1", "((", "x)\n(y", "", "\xff) R 0"} {
		f.Add(name, uint64(4711), uint8(255))
		f.Add(name, uint64(0), uint8(30))
	}
	f.Fuzz(func(t *testing.T, name string, start uint64, cut uint8) {
		// proc_pid_stat(5): fields 3 to 52, of which this is the 22nd.
		rest := "S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0"
		text := fmt.Sprintf("77 (%s) %s %d 1 2 3\n", name, rest, start)
		got, err := cutStart([]byte(text))
		if err != nil || got != strconv.FormatUint(start, 10) {
			t.Fatalf("%q: start %q, %v", text, got, err)
		}
		// If it was cut before the last parenthesis, the last one may be in the name.
		short := text[:min(len(text), int(cut))]
		got, err = cutStart([]byte(short))
		after := strings.Fields(short[strings.LastIndexByte(short, ')')+1:])
		want := strings.Contains(short, ")") && len(after) >= 20
		if (err == nil) != want || err == nil && got != after[19] {
			t.Fatalf("%q: start %q, %v", short, got, err)
		}
	})
}

var recordForm = regexp.MustCompile(`^(0|[1-9][0-9]*) ([0-9]+) (\S+)\n$`)

// FuzzRecord checks that a pid file is read as it was written, and that a file that could
// not have been written that way is an error: a guess could stop somebody else's process.
func FuzzRecord(f *testing.F) {
	boot, err := bootID()
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{
		"1234 5678 BOOT\n", "0 0 BOOT\n", "1234 5678 other\n", "", "\n", "1234 5678", "+12 5 BOOT\n", "-1 5 BOOT\n", "12 34 BOOT x\n",
		"99999999999999999999 1 BOOT\n", "12\u00a034 56 BOOT\n", "0012 5 BOOT\n", "12 5 BOOT", " 12 5 BOOT\n", "12 -5 BOOT\n", "12\t5 BOOT\n",
	} {
		f.Add(s, 12, uint64(34))
	}
	dir, err := os.MkdirTemp("", "doorward-record")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "ssh.pid")
	f.Fuzz(func(t *testing.T, text string, pid int, start uint64) {
		want := record{pid: max(pid, 0), start: strconv.FormatUint(start, 10), boot: boot}
		if err := want.write(path); err != nil {
			t.Fatal(err)
		}
		if got, current, err := readRecord(path); err != nil || !current || got != want {
			t.Fatalf("%+v reads back as %+v, %v, %v", want, got, current, err)
		}
		text = strings.ReplaceAll(text, "BOOT", boot)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, current, err := readRecord(path)
		m := recordForm.FindStringSubmatch(text)
		if err != nil {
			if m != nil && len(m[1]) < 10 && len(m[2]) < 20 && !strings.ContainsFunc(m[3], unicode.IsSpace) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if m == nil || strconv.Itoa(got.pid) != m[1] || got.start != m[2] || got.boot != m[3] || current != (m[3] == boot) {
			t.Fatalf("%q is %+v, %v", text, got, current)
		}
	})
}
