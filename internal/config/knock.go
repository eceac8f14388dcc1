package config

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
)

// knocks reads the [[door.NAME.knock]] tables.
func (c *checker) knocks(d *Door, v tables.Value) {
	of := map[string]int{}
	for i, t := range v.Tables("nobody could open the door") {
		k, ok := readKnock(t)
		if !ok {
			continue
		}
		of[k.Kind]++
		k.Name = k.Kind
		if n := of[k.Kind]; n > 1 {
			k.Name += "-" + strconv.Itoa(n)
		}
		d.Knocks = append(d.Knocks, k)
		for _, p := range k.Hears() {
			c.claims = append(c.claims, claim{t.Port(p.AsPort()), d.Name, i + 1, p.Range(), k})
		}
	}
}

// readKnock reads one knock as its kind does; false if a mistake, which has been noted,
// leaves none. Where its kind is missing or unknown, its keys are checked by the kind
// that was probably meant.
func readKnock(t *tables.Table) (Knock, bool) {
	key := t.At("kind")
	allowed := quoted(kinds.Names())
	name, ok := key.Text(allowed)
	if slices.Contains(kinds.ToCome, name) {
		key.Wrong("this version of doorward does not support this kind of knock yet", allowed).Hint =
			fmt.Sprintf("remove this knock, or use kind %q", kinds.All[0].Name())
		return Knock{}, false
	}
	kind := kinds.Named(name)
	said := kind != nil
	if !said {
		kind = meantKind(t, name)
	}
	if ok && !said {
		problem := "unknown kind of knock"
		if near := tables.Nearest(name, kinds.Names()); near != "" {
			problem += fmt.Sprintf(": did you mean %q?", near)
		}
		key.Wrong(problem, allowed)
	}
	if kind == nil {
		return Knock{}, false
	}
	rule := kind.Read(t)
	t.Done()
	return Knock{Kind: name, Rule: rule}, said && rule != nil
}

// meantKind returns the kind that was probably meant by a table without a known one:
// that with a name like the one given, that which another key names (type = "touch"),
// or that with most of the table's keys; nil if there is no hint.
func meantKind(t *tables.Table, name string) knock.Kind {
	if near := tables.Nearest(name, kinds.Names()); near != "" {
		return kinds.Named(near)
	}
	names := t.Names()
	for _, other := range names {
		if value, ok := t.Peek(other).(string); ok && kinds.Named(value) != nil {
			t.Meant(other, "kind")
			return kinds.Named(value)
		}
	}
	var best knock.Kind
	most := 0
	for _, k := range kinds.All {
		keys := tables.Keys(func(t *tables.Table) { k.Read(t) })
		known := 0
		for _, name := range names {
			if slices.Contains(keys, name) {
				known++
			}
		}
		if known > most {
			best, most = k, known
		}
	}
	return best
}

// quoted lists words, each in quotes.
func quoted(words []string) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = strconv.Quote(w)
	}
	return tables.Listed(all)
}
