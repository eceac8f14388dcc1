package share

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/knock"
)

// Edit returns the configuration's text with another secret in knock number i (from
// 0) of a door, and every other byte as it was. The edits are those of
// knock.Redrawn, and fresh is the knock that they make. The result is parsed and
// compared with what it should mean, so that a mistake here can never reach a file.
// The file's name is for messages only.
func Edit(file string, text []byte, door string, i int, fresh knock.Rule, edits map[string]string) ([]byte, error) {
	want, err := config.Parse(file, text)
	if err != nil {
		return nil, err
	}
	d := slices.IndexFunc(want.Doors, func(d config.Door) bool { return d.Name == door })
	if d < 0 || i >= len(want.Doors[d].Knocks) {
		return nil, fmt.Errorf("%s: door %q has no knock %d", file, door, i+1)
	}
	want.Doors[d].Knocks[i].Rule = fresh
	edited := replace(text, scalars(text), fmt.Sprintf("door.%s.knock.%d.", door, i), edits)

	got, err := config.Parse(file, edited)
	if err != nil {
		return nil, fmt.Errorf("%s: the new knock does not fit: %w", file, err)
	}
	if !reflect.DeepEqual(got, want) {
		return nil, fmt.Errorf("%s: the knock of door %q cannot be changed without changing something else", file, door)
	}
	return edited, nil
}

// scalar is an integer or a string of a TOML text: its path, and its place.
type scalar struct {
	path string // names and places in lists, from 0, joined by dots
	at   unstable.Range
}

// scalars lists those of a valid TOML text in its order. The names on
// the paths that matter here are bare keys; a quoted name with a dot in it
// could only make a path that is none of those.
func scalars(text []byte) []scalar {
	f := &finder{tables: map[string]int{}}
	var p unstable.Parser
	p.Reset(bytes.Clone(text))
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table:
			table = f.path("", e.Key())
		case unstable.ArrayTable:
			// A path through a list means its newest element.
			list := f.list(e.Key())
			f.tables[list]++
			table = f.element(list)
		case unstable.KeyValue:
			f.value(f.path(table, e.Key()), e.Value())
		}
	}
	return f.found
}

// finder collects the scalars, and how many tables each list of them has.
type finder struct {
	found  []scalar
	tables map[string]int
}

// path follows a key from a table, through the newest element of each list.
func (f *finder) path(table string, key unstable.Iterator) string {
	for key.Next() {
		table = f.element(joinPath(table, string(key.Node().Data)))
	}
	return table
}

// list is path for the name of a list itself.
func (f *finder) list(key unstable.Iterator) string {
	path := ""
	for key.Next() {
		path = joinPath(f.element(path), string(key.Node().Data))
	}
	return path
}

func (f *finder) element(path string) string {
	if n := f.tables[path]; n > 0 {
		return joinPath(path, strconv.Itoa(n-1))
	}
	return path
}

func (f *finder) value(path string, v *unstable.Node) {
	switch v.Kind {
	case unstable.Integer, unstable.String:
		f.found = append(f.found, scalar{path, v.Raw})
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); i++ {
			f.value(joinPath(path, strconv.Itoa(i)), it.Node())
		}
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			f.value(f.path(path, it.Node().Key()), it.Node().Value())
		}
	}
}

func joinPath(path, name string) string {
	// A dot inside a quoted name must not look like two names.
	name = strings.ReplaceAll(name, ".", "\x00")
	if path == "" {
		return name
	}
	return path + "." + name
}

// replace replaces the scalars that edits names by their paths below a table.
func replace(text []byte, at []scalar, table string, edits map[string]string) []byte {
	var b bytes.Buffer
	from := 0
	for _, s := range at {
		key, inside := strings.CutPrefix(s.path, table)
		v, ok := edits[key]
		if !inside || !ok {
			continue
		}
		b.Write(text[from:s.at.Offset])
		b.WriteString(v)
		from = int(s.at.Offset + s.at.Length)
	}
	b.Write(text[from:])
	return b.Bytes()
}
