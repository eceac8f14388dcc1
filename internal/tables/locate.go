package tables

import (
	"bytes"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// position is a place in the file, both counted from 1, columns in bytes.
type position struct{ line, column int }

// positions says where each key of a file stands, by its whole path as joinKey
// and indexKey write it. Tables stand at their header, or where they were
// first mentioned if they have none.
type positions map[string]position

// joinKey appends a name to the path of a table, quoting it where TOML would.
func joinKey(path, name string) string {
	bare := name != "" && strings.Trim(name,
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
	if !bare {
		name = strconv.Quote(name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// indexKey appends the place in a list, counted from 0.
func indexKey(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// locator walks the syntax tree once and records where the keys stand. It is
// needed because decoding gives positions only for what the decoder itself
// refuses, and most mistakes are about meaning.
type locator struct {
	parser   unstable.Parser
	newlines []int          // offsets of the line feeds
	at       positions      // the result
	elements map[string]int // how many [[tables]] each list has so far
}

// locate returns the positions of all keys. The text must be valid TOML.
func locate(text []byte) positions {
	l := &locator{at: positions{}, elements: map[string]int{}}
	for i, b := range text {
		if b == '\n' {
			l.newlines = append(l.newlines, i)
		}
	}
	l.parser.Reset(bytes.Clone(text))
	table := ""
	for l.parser.NextExpression() {
		e := l.parser.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = l.header(e)
		case unstable.KeyValue:
			l.keyValue(table, e)
		}
	}
	return l.at
}

// header notes a [table] or a [[table]] and returns its path.
func (l *locator) header(e *unstable.Node) string {
	path := l.path("", e.Key())
	here := l.position(e.Child())
	if e.Kind == unstable.Table {
		// The header is the better place than an earlier mention by a subtable.
		l.at[path] = here
		if n := l.elements[path]; n > 0 {
			path = indexKey(path, n-1)
		}
		return path
	}
	n := l.elements[path]
	l.elements[path] = n + 1
	path = indexKey(path, n)
	l.at[path] = here
	return path
}

// path follows a dotted key from a table, through the last element of every
// list of tables on its way, and notes what is mentioned for the first time.
func (l *locator) path(path string, key unstable.Iterator) string {
	for key.Next() {
		path = joinKey(path, string(key.Node().Data))
		if _, known := l.at[path]; !known {
			l.at[path] = l.position(key.Node())
		}
		if n := l.elements[path]; n > 0 && !key.IsLast() {
			path = indexKey(path, n-1)
		}
	}
	return path
}

// keyValue notes a key and what is inside its value.
func (l *locator) keyValue(table string, e *unstable.Node) {
	l.inside(l.path(table, e.Key()), e.Value())
}

// inside notes the elements of a list and the keys of an inline table.
func (l *locator) inside(path string, v *unstable.Node) {
	switch v.Kind {
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.KeyValue {
				l.keyValue(path, it.Node())
			}
		}
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); {
			if it.Node().Kind == unstable.Comment {
				continue
			}
			element := indexKey(path, i)
			l.at[element] = l.at[path]
			if it.Node().Raw.Length > 0 {
				l.at[element] = l.position(it.Node())
			}
			l.inside(element, it.Node())
			i++
		}
	}
}

// position turns the offset of a node into line and column.
func (l *locator) position(n *unstable.Node) position {
	offset := int(n.Raw.Offset)
	line := sort.SearchInts(l.newlines, offset)
	start := 0
	if line > 0 {
		start = l.newlines[line-1] + 1
	}
	return position{line + 1, offset - start + 1}
}
