package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value is what a file has under one key, with the key's whole path and its
// place. When the key is absent v is nil and the place is that of its table.
type value struct {
	key string
	v   any // string, int64, float64, bool, []any, map[string]any or a TOML time
	at  position
}

// given says that the key is there.
func (v value) given() bool { return v.v != nil }

// text spells the value as TOML would, but not lists and tables, which are long.
func (v value) text() string {
	switch x := v.v.(type) {
	case nil:
		return ""
	case string:
		return strconv.Quote(x)
	case []any:
		if len(x) == 0 {
			return "[]"
		}
		return ""
	case map[string]any:
		return ""
	case float64:
		if x == math.Trunc(x) && math.Abs(x) < 1e15 {
			return strconv.FormatFloat(x, 'f', 1, 64)
		}
		return strconv.FormatFloat(x, 'g', -1, 64)
	}
	return fmt.Sprint(v.v)
}

// checker collects the mistakes of one file. Its methods return false (and have
// noted why) when a value is not usable; what follows from it is then not
// checked, so that one mistake is told once.
type checker struct {
	file  string
	at    positions
	found []*Mistake
}

// wrong notes a mistake about v and returns it, for a hint to be added.
func (c *checker) wrong(v value, problem, allowed string) *Mistake {
	m := &Mistake{File: c.file, Line: v.at.line, Column: v.at.column,
		Key: v.key, Value: v.text(), Problem: problem, Allowed: allowed}
	c.found = append(c.found, m)
	return m
}

// child is what a table has under a name.
func (c *checker) child(table value, name string) value {
	key := joinKey(table.key, name)
	at, ok := c.at[key]
	if !ok {
		at = table.at
	}
	t, _ := table.v.(map[string]any)
	return value{key, t[name], at}
}

// table says whether v is a table; nothing given is an empty one.
func (c *checker) table(v value) bool {
	switch x := v.v.(type) {
	case nil, map[string]any:
		return true
	case []any:
		if len(x) > 0 && isTable(x[0]) {
			c.wrong(v, "a list of tables", fmt.Sprintf("one table: write [%s]", v.key))
			return false
		}
	}
	c.wrong(v, kindOf(v.v)+", not a table", fmt.Sprintf("tables: write [%s]", v.key))
	return false
}

func isTable(v any) bool {
	_, ok := v.(map[string]any)
	return ok
}

// fields puts what the table has into raw, a pointer to a struct whose fields
// are all of type value and tagged with their key, and notes every key that
// the struct does not have. False means that v is no table; raw then has the
// keys, all absent.
func (c *checker) fields(table value, raw any) bool {
	ok := c.table(table)
	s := reflect.ValueOf(raw).Elem()
	var names []string
	for i := range s.NumField() {
		name := s.Type().Field(i).Tag.Get("toml")
		names = append(names, name)
		s.Field(i).Set(reflect.ValueOf(c.child(table, name)))
	}
	t, _ := table.v.(map[string]any)
	for name := range t {
		if !slices.Contains(names, name) {
			c.unknown(c.child(table, name), name, names)
		}
	}
	return ok
}

// unknown notes a key that is not one of the names.
func (c *checker) unknown(v value, name string, names []string) {
	problem := "unknown key"
	if near := nearest(name, names); near != "" {
		problem = fmt.Sprintf("unknown key: did you mean %q?", near)
	}
	m := c.wrong(v, problem, strings.Join(names, ", "))
	m.Value = ""
}

// str reads a string.
func (c *checker) str(v value, allowed string) (string, bool) {
	s, ok := v.v.(string)
	switch {
	case !v.given():
		c.wrong(v, "missing", allowed)
	case !ok:
		c.wrong(v, kindOf(v.v)+", not a string", allowed)
	}
	return s, ok
}

// boolean reads true or false.
func (c *checker) boolean(v value, unset bool) bool {
	if !v.given() {
		return unset
	}
	b, ok := v.v.(bool)
	if !ok {
		c.wrong(v, kindOf(v.v)+", not a boolean", "true and false")
	}
	return b
}

// list reads a list, each element with a path and place of its own.
func (c *checker) list(v value, allowed string) ([]value, bool) {
	l, ok := v.v.([]any)
	switch {
	case !v.given():
		c.wrong(v, "missing", allowed)
		return nil, false
	case !ok:
		c.wrong(v, kindOf(v.v)+", not a list", allowed)
		return nil, false
	}
	elements := make([]value, len(l))
	for i, e := range l {
		key := indexKey(v.key, i)
		at, known := c.at[key]
		if !known {
			at = v.at
		}
		elements[i] = value{key, e, at}
	}
	return elements, true
}

// choice reads one of a few words and returns its number in the list; the
// first is the default.
func (c *checker) choice(v value, words ...string) int {
	if !v.given() {
		return 0
	}
	allowed := `"` + strings.Join(words, `" and "`) + `"`
	s, ok := c.str(v, allowed)
	if !ok {
		return 0
	}
	return c.word(v, s, words, allowed)
}

// word returns the number of s, which is v, among the words, or 0.
func (c *checker) word(v value, s string, words []string, allowed string) int {
	if i := slices.Index(words, s); i >= 0 {
		return i
	}
	problem := "not one of the allowed words"
	if near := nearest(s, words); near != "" {
		problem = fmt.Sprintf("did you mean %q?", near)
	}
	c.wrong(v, problem, allowed)
	return 0
}

// duration reads a duration within its span.
func (c *checker) duration(v value, s span) (time.Duration, bool) {
	if !v.given() {
		return s.unset, true
	}
	text, ok := c.str(v, durations+s.orWord())
	if !ok {
		return 0, false
	}
	return c.durationIn(v, text, s)
}

// orWord says what may stand instead of a duration.
func (s span) orWord() string {
	if s.word == "" {
		return ""
	}
	return fmt.Sprintf(", and %q", s.word)
}

const durations = `durations such as "30s", "5m", "1h"`

// durationIn reads text, which is v or a part of it.
func (c *checker) durationIn(v value, text string, s span) (time.Duration, bool) {
	d, err := time.ParseDuration(text)
	if err != nil {
		c.wrong(v, durationProblem(text), durations+s.orWord())
		return 0, false
	}
	problem := ""
	switch {
	case d == 0 && s.orNone:
		return 0, true
	case d < 0:
		problem = "negative"
	case d == 0:
		problem = "zero"
	case d < s.min:
		problem = "too short"
	case d > s.max:
		problem = "too long"
	default:
		return d, true
	}
	allowed := fmt.Sprintf("%q to %q", Short(s.min), Short(s.max))
	if s.orNone {
		allowed = `"0s" for none, and ` + allowed
	}
	c.wrong(v, problem, allowed+s.orWord())
	return 0, false
}

// durationProblem says what keeps text from being a duration.
func durationProblem(text string) string {
	digits := strings.TrimLeft(text, "+-")
	switch {
	case strings.TrimSpace(text) == "":
		return "empty"
	case digits != "" && strings.Trim(digits, "0123456789.") == "":
		return "no unit"
	case strings.ContainsAny(text, " \t"):
		return "a duration has no spaces"
	case strings.HasSuffix(text, "d") || strings.HasSuffix(text, "w"):
		return "days and weeks are no units: write hours"
	}
	return "not a duration"
}

// Short spells a duration as a person would: "1m", not "1m0s".
func Short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
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

// nearest returns the name that a slip of the fingers is most likely to have
// meant: about a third of its letters may differ, for "idel" is two off "idle".
func nearest(s string, names []string) string {
	best, bestDistance := "", len(s)
	for _, name := range names {
		d := distance(s, name)
		if d < bestDistance && d <= (len(name)+2)/3 {
			best, bestDistance = name, d
		}
	}
	return best
}

// distance is Levenshtein's, kept to one row. Only short words are compared:
// a long one is as far away as it is long.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
