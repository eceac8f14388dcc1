// Package tables reads tables of a TOML file and checks them. The reader of a table asks
// for its keys, each as the type it must have, and adds what else is wrong. An invalid
// value is a Mistake that names file, line, key, value and what is allowed. All mistakes
// of a file are reported at once. What tables mean is up to their readers.
//
// The package opens nothing: it is handed a text.
package tables

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/doorward/doorward/internal/port"
)

// file is one file that is read, with the mistakes that were found so far.
type file struct {
	name  string
	at    positions
	found []*Mistake
}

// Table is one table of a file, or one that could stand there and does not. It
// remembers which keys it was asked for: those are all that it may have, see Done.
// It is not safe for concurrent use.
type Table struct {
	Value
	file  *file
	asked []string
	meant map[string]string // see Meant
	ports map[port.Port]Value
}

// Parse returns the root table of a text. The file's name is only for messages. A
// text that is not TOML has one mistake, the first, because what follows cannot be
// read.
func Parse(name string, text []byte) (*Table, error) {
	tree := map[string]any{}
	if err := toml.Unmarshal(text, &tree); err != nil {
		return nil, joinMistakes([]*Mistake{notTOML(name, err)})
	}
	root := &Table{file: &file{name: name, at: locate(text)}}
	root.Value = Value{V: tree, at: position{1, 1}, of: root}
	return root, nil
}

// notTOML turns the decoder's error into a Mistake.
func notTOML(name string, err error) *Mistake {
	m := &Mistake{File: name, Line: 1, Column: 1, Problem: "not TOML: " + err.Error()}
	if d, ok := errors.AsType[*toml.DecodeError](err); ok {
		m.Line, m.Column = d.Position()
		m.Key = strings.Join(d.Key(), ".")
		m.Problem = "not TOML: " + strings.TrimPrefix(d.Error(), "toml: ")
	}
	return m
}

// Err returns one error for all mistakes that were found so far in the whole file, in
// file order, or nil; the function Mistakes takes it apart.
func (t *Table) Err() error { return joinMistakes(t.file.found) }

// Mistakes returns how many mistakes were found so far in the whole file.
func (t *Table) Mistakes() int { return len(t.file.found) }

// At returns what the table has under a key, if anything, and notes that it may have
// that key (see Done).
func (t *Table) At(key string) Value {
	if !slices.Contains(t.asked, key) {
		t.asked = append(t.asked, key)
	}
	return t.child(key)
}

// child is At for a key that nobody asked for.
func (t *Table) child(name string) Value {
	key := joinKey(t.Key, name)
	at, ok := t.file.at[key]
	if !ok {
		at = t.at
	}
	v, _ := t.V.(map[string]any)
	return Value{key, v[name], at, t}
}

// Names returns the keys that stand in the table, sorted.
func (t *Table) Names() []string {
	in, _ := t.V.(map[string]any)
	return slices.Sorted(maps.Keys(in))
}

// Peek returns what stands under a key, nil for nothing, without asking for it: to
// Done the key is still unknown.
func (t *Table) Peek(key string) any { return t.child(key).V }

// Meant says which key was meant by one that stands in the table and is unknown,
// however little the two look alike. Done proposes it.
func (t *Table) Meant(unknown, key string) {
	if t.meant == nil {
		t.meant = map[string]string{}
	}
	t.meant[unknown] = key
}

// Keys returns the keys that read asks a table for, found out with an empty one.
func Keys(read func(*Table)) []string {
	t := &Table{file: &file{at: positions{}}}
	t.of = t
	read(t)
	return t.asked
}

// Done notes every key that nobody asked for.
func (t *Table) Done() {
	in, _ := t.V.(map[string]any)
	for name := range in {
		if slices.Contains(t.asked, name) {
			continue
		}
		problem := "unknown key"
		if near := cmp.Or(t.meant[name], Nearest(name, t.asked)); near != "" {
			problem += `: did you mean "` + near + `"?`
		}
		t.child(name).Wrong(problem, strings.Join(t.asked, ", ")).Value = ""
	}
}

// Port returns the value that first had the port when Value.Ports or Value.Port read
// it, or the table itself for a port that it does not have.
func (t *Table) Port(p port.Port) Value {
	if v, ok := t.ports[p]; ok {
		return v
	}
	return t.Value
}

// Nearest returns the name that a slip of the fingers is most likely to have meant, ""
// for none: about a third of its letters may differ, since "idel" is two off "idle".
func Nearest(s string, names []string) string {
	best, bestDistance := "", len(s)
	for _, name := range names {
		d := distance(s, name)
		if d < bestDistance && d <= (len(name)+2)/3 {
			best, bestDistance = name, d
		}
	}
	return best
}

// distance returns the Levenshtein distance, computed in one row. Only short words are
// compared: a long one is as far away as it is long.
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
