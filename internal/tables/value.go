package tables

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/doorward/doorward/internal/port"
)

// Value is what a file has under one key, with the key's whole path and its
// place. When the key is absent V is nil and the place is that of its table.
//
// The methods that read it return false if it cannot be used, and have then noted why;
// what follows from it should not be checked, so that one mistake is reported once.
type Value struct {
	Key string // door.ssh.knock[0].listen, lists counted from 0
	V   any    // string, int64, float64, bool, []any, map[string]any or a TOML time
	at  position
	of  *Table
}

// Given reports whether the key is there.
func (v Value) Given() bool { return v.V != nil }

// Line returns the line that the value stands in, counted from 1.
func (v Value) Line() int { return v.at.line }

// Before reports whether v stands before o in the file.
func (v Value) Before(o Value) bool {
	return v.at.line < o.at.line || v.at.line == o.at.line && v.at.column < o.at.column
}

// Spelled returns the value as TOML spells it, but "" for tables and for lists with
// elements, which are long.
func (v Value) Spelled() string {
	switch x := v.V.(type) {
	case nil, map[string]any:
		return ""
	case string:
		return strconv.Quote(x)
	case []any:
		if len(x) == 0 {
			return "[]"
		}
		return ""
	case float64:
		if x == math.Trunc(x) && math.Abs(x) < 1e15 {
			return strconv.FormatFloat(x, 'f', 1, 64)
		}
		return strconv.FormatFloat(x, 'g', -1, 64)
	}
	return fmt.Sprint(v.V)
}

// Wrong notes a mistake about the value and returns it, for a hint to be added.
// allowed goes on from "allowed are"; it may be "".
func (v Value) Wrong(problem, allowed string) *Mistake {
	f := v.of.file
	m := &Mistake{File: f.name, Line: v.at.line, Column: v.at.column,
		Key: v.Key, Value: v.Spelled(), Problem: problem, Allowed: allowed}
	f.found = append(f.found, m)
	return m
}

// Table reads a table. A missing one reads as empty, and so does another value, which
// is a mistake. Of a list of tables, which is a mistake too, the first is read, so that
// the mistakes in it are reported as well.
func (v Value) Table() (*Table, bool) {
	t := &Table{Value: v, file: v.of.file}
	t.of = t
	switch x := v.V.(type) {
	case nil, map[string]any:
		return t, true
	case []any:
		if len(x) > 0 && isTable(x[0]) {
			v.Wrong("a list of tables", fmt.Sprintf("one table: write [%s]", v.Key))
			first := v.element(0, x[0])
			t.Value = Value{first.Key, first.V, first.at, t}
			return t, true
		}
	}
	v.Wrong(kindOf(v.V)+", not a table", fmt.Sprintf("tables: write [%s]", v.Key))
	return t, false
}

// Tables reads a list of tables, and returns those of its elements that are tables. One
// table in its place is a mistake, and is returned all the same, so that its own
// mistakes are reported as well. empty says why the list must not be empty.
func (v Value) Tables(empty string) (all []*Table) {
	form := fmt.Sprintf("one or more tables: write [[%s]]", v.Key)
	if isTable(v.V) {
		v.Wrong("one table, not a list of them", form)
		t, _ := v.Table()
		return []*Table{t}
	}
	elements, ok := v.List(form)
	if ok && len(elements) == 0 {
		v.Wrong("empty: "+empty, form)
	}
	for _, e := range elements {
		if t, ok := e.Table(); ok {
			all = append(all, t)
		}
	}
	return all
}

func isTable(v any) bool {
	_, ok := v.(map[string]any)
	return ok
}

// Text reads a string; allowed says what it may be, for messages.
func (v Value) Text(allowed string) (string, bool) {
	s, ok := v.V.(string)
	switch {
	case !v.Given():
		v.Wrong("missing", allowed)
	case !ok:
		v.Wrong(kindOf(v.V)+", not a string", allowed)
	}
	return s, ok
}

// Bool reads true or false; unset is the default.
func (v Value) Bool(unset bool) bool {
	if !v.Given() {
		return unset
	}
	b, ok := v.V.(bool)
	if !ok {
		v.Wrong(kindOf(v.V)+", not a boolean", "true and false")
	}
	return b
}

// List reads a list, each element with a key and place of its own.
func (v Value) List(allowed string) ([]Value, bool) {
	l, ok := v.V.([]any)
	switch {
	case !v.Given():
		v.Wrong("missing", allowed)
		return nil, false
	case !ok:
		v.Wrong(kindOf(v.V)+", not a list", allowed)
		return nil, false
	}
	elements := make([]Value, len(l))
	for i, e := range l {
		elements[i] = v.element(i, e)
	}
	return elements, true
}

// element is e, the element of a list at i, with a key and place of its own.
func (v Value) element(i int, e any) Value {
	key := indexKey(v.Key, i)
	at, known := v.of.file.at[key]
	if !known {
		at = v.at
	}
	return Value{key, e, at, v.of}
}

// Choice reads one of a few words and returns its index among them. The first is the
// default, and what a mistake reads as.
func (v Value) Choice(words ...string) int {
	if !v.Given() {
		return 0
	}
	allowed := `"` + strings.Join(words, `" and "`) + `"`
	s, ok := v.Text(allowed)
	if !ok {
		return 0
	}
	return v.Word(s, words, allowed)
}

// Word returns the index among the words of s, which is the value; 0 after a mistake.
func (v Value) Word(s string, words []string, allowed string) int {
	if i := slices.Index(words, s); i >= 0 {
		return i
	}
	problem := "not one of the allowed words"
	if near := Nearest(s, words); near != "" {
		problem = fmt.Sprintf("did you mean %q?", near)
	}
	v.Wrong(problem, allowed)
	return 0
}

// AbsolutePaths says what File allows, with an example.
func AbsolutePaths(example string) string {
	return fmt.Sprintf("absolute paths such as %q", example)
}

// File reads the absolute path of a file or directory: an operator cannot know what a
// relative one would begin at.
func (v Value) File(allowed string) (string, bool) {
	s, ok := v.Text(allowed)
	if !ok {
		return "", false
	}
	switch {
	case s == "":
		v.Wrong("empty", allowed)
	case strings.ContainsRune(s, 0):
		v.Wrong("has a zero byte", allowed)
	case !strings.HasPrefix(s, "/"):
		v.Wrong("not an absolute path", allowed)
	case path.Clean(s) != s || s == "/":
		v.Wrong("not a plain path", allowed).Hint = fmt.Sprintf("write %q", path.Clean(s))
	default:
		return s, true
	}
	return "", false
}

// Numbered is a port number, with the value that it was read from.
type Numbered struct {
	Value
	Number uint16
}

// Ports reads a list of different port numbers of one protocol, at least one. True
// means that all of it can be used.
func (v Value) Ports(proto port.Proto) ([]Numbered, bool) {
	const form = `lists of port numbers such as [59000, 59001, 59002]`
	elements, good := v.List(form)
	if good && len(elements) == 0 {
		v.Wrong("empty", form)
	}
	var found []Numbered
	for _, e := range elements {
		n, ok := e.Port(proto)
		switch {
		case !ok:
			good = false
		case slices.ContainsFunc(found, func(f Numbered) bool { return f.Number == n }):
			e.Wrong("listed twice", "")
		default:
			found = append(found, Numbered{e, n})
		}
	}
	return found, good
}

// Port reads a port number of one protocol.
func (v Value) Port(proto port.Proto) (uint16, bool) {
	const form = "port numbers, 1 to 65535"
	n, isInt := v.V.(int64)
	switch {
	case !v.Given():
		v.Wrong("missing", form)
	case !isInt:
		m := v.Wrong(kindOf(v.V)+", not an integer", form)
		if s, ok := v.V.(string); ok && strings.HasSuffix(s, "/"+proto.String()) {
			m.Hint = fmt.Sprintf("listeners are always %s: write %s",
				strings.ToUpper(proto.String()), strings.TrimSuffix(s, "/"+proto.String()))
		}
	case n < 1 || n > 65535:
		v.Wrong("not a port", form)
	default:
		v.of.note(port.Port{Proto: proto, Number: uint16(n)}, v)
		return uint16(n), true
	}
	return 0, false
}

// note remembers where the table first has a port.
func (t *Table) note(p port.Port, v Value) {
	if t.ports == nil {
		t.ports = make(map[port.Port]Value)
	}
	if _, known := t.ports[p]; !known {
		t.ports[p] = v
	}
}

// kindOf names the type of a value.
func kindOf(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}
