package share

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/touch"
)

// Edit returns the configuration's text with other listen and touch numbers in
// knock number i (from 0) of a door, and every other byte as it was. There must
// be as many of each as before. The result is parsed and compared with what it
// should mean, so that a mistake here can never reach a file. The file's name is
// for messages only.
func Edit(file string, text []byte, door string, i int, listen, touched []uint16) ([]byte, error) {
	want, err := config.Parse(file, text)
	if err != nil {
		return nil, err
	}
	d := slices.IndexFunc(want.Doors, func(d config.Door) bool { return d.Name == door })
	if d < 0 || i >= len(want.Doors[d].Knocks) {
		return nil, fmt.Errorf("%s: door %q has no knock %d", file, door, i+1)
	}
	k, ok := want.Doors[d].Knocks[i].Rule.(touch.Rule)
	if !ok {
		return nil, fmt.Errorf("%s: knock %d of door %q is none of kind \"touch\"", file, i+1, door)
	}
	if len(listen) != len(k.Listen) || len(touched) != len(k.Touch) {
		return nil, errors.New("the new knock has another number of ports than the old one")
	}
	k.Listen, k.Touch = listen, touched
	want.Doors[d].Knocks[i].Rule = k

	path := fmt.Sprintf("door.%s.knock.%d.", door, i)
	fresh := map[string]uint16{}
	for n, p := range listen {
		fresh[fmt.Sprintf("%slisten.%d", path, n)] = p
	}
	for n, p := range touched {
		fresh[fmt.Sprintf("%stouch.%d", path, n)] = p
	}
	edited := replace(text, numbers(text), fresh)

	got, err := config.Parse(file, edited)
	if err != nil {
		return nil, fmt.Errorf("%s: the new knock does not fit: %w", file, err)
	}
	if !reflect.DeepEqual(got, want) {
		return nil, fmt.Errorf("%s: the knock of door %q is not where it can be changed by itself", file, door)
	}
	return edited, nil
}

// number is an integer of a TOML text: its path, its place, and what it is.
type number struct {
	path string // names and places in lists, from 0, joined by dots
	at   unstable.Range
}

// numbers lists the integers of a valid TOML text in its order. The names on
// the paths that matter here are bare keys; a quoted name with a dot in it
// could only make a path that is none of those.
func numbers(text []byte) []number {
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

// finder collects the numbers, and how many tables each list of them has.
type finder struct {
	found  []number
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
	case unstable.Integer:
		f.found = append(f.found, number{path, v.Raw})
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

// replace writes the fresh values over the numbers with their paths.
func replace(text []byte, at []number, fresh map[string]uint16) []byte {
	var b bytes.Buffer
	from := 0
	for _, n := range at {
		v, ok := fresh[n.path]
		if !ok {
			continue
		}
		b.Write(text[from:n.at.Offset])
		b.WriteString(strconv.Itoa(int(v)))
		from = int(n.at.Offset + n.at.Length)
	}
	b.Write(text[from:])
	return b.Bytes()
}
