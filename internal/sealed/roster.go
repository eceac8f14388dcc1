package sealed

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// roster finds those whom a file has by their identities and names, at the cost of a few
// dozen of them. It is made with the digest.
type roster struct {
	byID, byName []uint32 // places in the file, in the order of these
}

// size is how many keys, or machines' secrets, there are.
func (d *digest) size() int { return len(d.keys.All()) + len(d.secrets) }

// who returns the identity and the name of one.
func (d *digest) who(i int) (id, name string) {
	if keys := d.keys.All(); keys != nil {
		return keys[i].Fingerprint.String(), keys[i].Name
	}
	return d.secrets[i].Identity(), d.secrets[i].Name
}

// entry is one for people.
func (d *digest) entry(i int) KeyEntry {
	if keys := d.keys.All(); keys != nil {
		return entryOf(keys[i], fmt.Sprintf("%s line %d", keys[i].Where, keys[i].Line))
	}
	s := d.secrets[i]
	return KeyEntry{ID: s.Identity(), Name: s.Name, Type: "secret", Options: optionsText(s.Options), Origin: fmt.Sprintf("%s line %d", s.Where, s.Line)}
}

// enlist makes the roster.
func (d *digest) enlist() {
	ids, names := make([]string, d.size()), make([]string, d.size())
	places := make([]uint32, d.size())
	for i := range places {
		ids[i], names[i] = d.who(i)
		places[i] = uint32(i)
	}
	d.roster = roster{slices.Clone(places), places}
	slices.SortStableFunc(d.roster.byID, func(a, b uint32) int { return cmp.Compare(ids[a], ids[b]) })
	slices.SortStableFunc(d.roster.byName, func(a, b uint32) int { return cmp.Compare(names[a], names[b]) })
}

// find calls add for those who have an identity, the beginning of one, or a name, until it
// returns false.
func (d *digest) find(key string, add func(KeyEntry) bool) {
	if key == "" {
		return
	}
	r, name := &d.roster, func(i uint32) string { _, name := d.who(int(i)); return name }
	for at := sort.Search(len(r.byName), func(n int) bool { return name(r.byName[n]) >= key }); at < len(r.byName) && name(r.byName[at]) == key; at++ {
		if !add(d.entry(int(r.byName[at]))) {
			return
		}
	}
	if len(key) < leastID {
		return
	}
	id := func(i uint32) string { id, _ := d.who(int(i)); return id }
	for at := sort.Search(len(r.byID), func(n int) bool { return id(r.byID[n]) >= key }); at < len(r.byID) && strings.HasPrefix(id(r.byID[at]), key); at++ {
		if !add(d.entry(int(r.byID[at]))) {
			return
		}
	}
}
