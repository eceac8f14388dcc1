//go:build linux

package fence

import (
	"cmp"
	"maps"
	"slices"

	nft "github.com/doorward/doorward/internal/nftables"
	"golang.org/x/sys/unix"
)

// stepSize is how many bytes the messages of a part of a Guard have at least, if that many
// are left. Whatever is in it, the kernel walks all rules of the table once for each part
// (nf_tables_api.c, nft_table_validate), and looks for each set by its name among all sets
// (nft_set_lookup). With a thousand doors a part takes three or four milliseconds, and
// eight where all are of single use, for which a change of grants waits. Larger parts would
// take longer, and smaller ones would be more.
const stepSize = 4 << 10

// guardInParts makes the table guard doors, starting from what the fence put there
// before. It returns false if it cannot: the parts are not enough.
func (f *Fence) guardInParts(doors []Door, late bool) (done bool, err error) {
	f.mu.Lock()
	have, manner := maps.Clone(f.doors), f.manner
	shared, exact := f.shared, f.exact()
	f.mu.Unlock()
	manner.late = late
	next := layoutShared(doors, manner)
	if old := staleOf(next, shared.base); !exact || len(old.sets)+len(old.chains) > 0 || next.Flags != shared.want.Flags {
		return false, nil
	}
	var changes []change
	var gone []string
	changing := map[string]bool{} // of existing doors
	stay := map[string]bool{}
	for _, d := range doors {
		stay[d.Name] = true
		p := have[d.Name]
		c := newChange(d, p)
		if p != nil && same(c.next.want, p.want) {
			continue // it may have other ports, which are not in its part
		}
		changing[d.Name] = p != nil
		changes = append(changes, c)
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if !stay[name] {
			gone = append(gone, name)
		}
	}
	if f.halted = len(changes)+len(gone) > 0 || !same(next, shared.want); !f.halted {
		return true, nil
	}
	// First, a port that leaves a changing door lets nobody in.
	if between, moves := betweenPorts(shared.want, next, changing); moves {
		err = f.share(between, nil)
	}
	if err == nil {
		err = inSteps(f, changes, f.changePart)
	}
	if err == nil {
		err = f.share(next, doors)
	}
	if err == nil {
		err = inSteps(f, gone, f.removePart)
	}
	if f.halted = err != nil; !f.halted {
		f.log.Info("fence raised", "doors", len(doors), "because", "other doors are to be guarded")
	}
	return true, err
}

// inSteps runs each change, several in a transaction, and lets others have their turn
// between transactions. The function that a change returns is called after its
// transaction.
func inSteps[T any](f *Fence, all []T, each func(*nft.Conn, *nft.Batch, T) (func(), error)) error {
	for len(all) > 0 {
		some := 0
		err := f.step(func(c *nft.Conn, b *nft.Batch) (func(), error) {
			var dones []func()
			for some = 0; some < len(all) && b.Size() < stepSize; some++ {
				done, err := each(c, b, all[some])
				if err != nil {
					return nil, err
				}
				dones = append(dones, done)
			}
			return func() {
				for _, done := range dones {
					done()
				}
			}, nil
		})
		if err != nil {
			return err
		}
		all = all[some:]
	}
	return nil
}

// step is one transaction.
func (f *Fence) step(fill func(*nft.Conn, *nft.Batch) (func(), error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.try(func(c *nft.Conn) error {
		b := c.Batch()
		done, err := fill(c, b)
		if err != nil {
			return err
		}
		if err := c.Commit(b); err != nil {
			return busy(err)
		}
		done()
		f.publish()
		return nil
	})
}

// change is a door's change from one part to the next. It is prepared before the fence is
// locked.
type change struct {
	door      Door
	was, next *part
}

func newChange(d Door, was *part) change {
	c := change{door: d, was: was}
	if was == nil {
		c.was = &part{base: &nft.Table{}}
	}
	c.next = newPart(d, c.was.widths)
	c.next.ports = c.was.ports // until share
	return c
}

// changePart gives a door its rules and sets.
func (f *Fence) changePart(conn *nft.Conn, b *nft.Batch, c change) (func(), error) {
	if now := f.doors[c.door.Name]; now != nil && now != c.was { // grants have changed it meanwhile
		c = newChange(c.door, now)
	}
	was, next := c.was, c.next
	kept, err := elementsToKeep(conn, next.want, was.base)
	if err != nil {
		return nil, err
	}
	plan(b, next.want, was.base, staleOf(next.want, was.base), kept)
	next.base, next.most = next.want, map[string]int{}
	for _, s := range next.want.Sets {
		next.most[s.Name] = max(was.most[s.Name], len(kept[s.Name]))
	}
	return func() { f.doors[c.door.Name] = next }, nil
}

// removePart removes a door that no port leads to any more.
func (f *Fence) removePart(_ *nft.Conn, b *nft.Batch, name string) (func(), error) {
	base := f.doors[name].base
	plan(b, &nft.Table{}, base, staleOf(&nft.Table{}, base), nil)
	return func() { delete(f.doors, name) }, nil
}

// share replaces what all doors share, and with it their ports.
func (f *Fence) share(next *nft.Table, doors []Door) error {
	return f.step(func(_ *nft.Conn, b *nft.Batch) (func(), error) {
		plan(b, next, f.shared.base, staleOf(next, f.shared.base), nil)
		return func() {
			f.shared = part{want: next, base: next}
			for _, d := range doors {
				p := *f.doors[d.Name]
				p.door, p.ports = d, d.Ports
				f.doors[d.Name] = &p
			}
		}, nil
	})
}

// exact says whether the kernel shows things as the fence wrote them, so that it need not
// be asked after a change.
func (f *Fence) exact() bool {
	for _, p := range f.doors {
		if p.base != p.want {
			return false
		}
	}
	return f.shared.base == f.shared.want
}

// same says whether two tables, or parts of them, are equal.
func same(a, b *nft.Table) bool { return len(differences(a, b)) == 0 }

// betweenPorts returns old without the ports that leave a changing door in the maps of
// doors: they are guarded still, so nobody comes in there. False: there are no such ports.
func betweenPorts(old, next *nft.Table, changing map[string]bool) (*nft.Table, bool) {
	t, moves := *old, false
	t.Sets = slices.Clone(old.Sets)
	for i, s := range t.Sets {
		if s.Def.Flags&unix.NFT_SET_MAP == 0 {
			continue
		}
		elems, some := between(s.Elems, next.Set(s.Name).Elems, changing)
		if some {
			t.Sets[i].Elems, moves = elems, true
		}
	}
	return &t, moves
}

// between is betweenPorts for one map of ports.
func between(old, next []nft.Element, changing map[string]bool) ([]nft.Element, bool) {
	var bounds []string // where an interval begins or ends
	for _, e := range slices.Concat(old, next) {
		bounds = append(bounds, e.Key)
	}
	slices.Sort(bounds)
	bounds = slices.Compact(bounds)
	chainAt := func(elems []nft.Element, key string) string {
		i, _ := slices.BinarySearchFunc(elems, key, func(e nft.Element, key string) int { return cmp.Or(cmp.Compare(e.Key, key), -1) })
		if i == 0 {
			return ""
		}
		return elems[i-1].Chain // the last that begins or ends here or before; an end has none
	}
	var out []nft.Element
	moves, last := false, ""
	for _, key := range bounds {
		chain := chainAt(old, key)
		if chain != "" && changing[doorOf(chain)] && chain != chainAt(next, key) {
			chain, moves = "", true
		}
		if chain == last {
			continue
		}
		if last != "" {
			out = append(out, nft.Element{Key: key, End: true})
		}
		if chain != "" {
			out = append(out, nft.Element{Key: key, Chain: chain})
		}
		last = chain
	}
	nft.SortElements(out)
	return out, moves
}
