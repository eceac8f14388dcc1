package config

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/doorward/doorward/internal/kinds"
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
			c.claims = append(c.claims, claim{t.Port(p.AsPort()), d.Name, i + 1, p.Range()})
		}
	}
}

// readKnock reads one knock by its kind; false if there is none, which is told. The
// keys of a kind that is not here are not judged.
func readKnock(t *tables.Table) (Knock, bool) {
	key := t.At("kind")
	allowed := quoted(kinds.Names())
	name, ok := key.Text(allowed)
	if !ok {
		return Knock{}, false
	}
	kind := kinds.Named(name)
	switch {
	case kind != nil:
		rule := kind.Read(t)
		t.Done()
		return Knock{Kind: name, Rule: rule}, rule != nil
	case slices.Contains(kinds.ToCome, name):
		key.Wrong("this version of doorward does not support this kind of knock yet", allowed).Hint =
			fmt.Sprintf("remove this knock, or use kind %q", kinds.All[0].Name())
	default:
		key.Wrong("unknown kind of knock", allowed)
	}
	return Knock{}, false
}

// quoted lists words, each in quotes.
func quoted(words []string) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = strconv.Quote(w)
	}
	return tables.Listed(all)
}
