//go:build linux

package fence

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
	"golang.org/x/sys/unix"
)

// Change makes changes in one transaction. Giving a grant again sets its end to Until,
// whether later or earlier than before. The remaining time is computed when it is the
// call's turn: a grant that has run out by then, or has less than a millisecond left,
// is not given but revoked. Revoking a grant that does not exist is not an error, and
// the revoked grants' Until is ignored. Who has used a door is not forgotten with its
// grants. If the table was removed or damaged the call fails with nothing changed, and
// Guard restores the table.
func (f *Fence) Change(c Changes) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do("change grants", func(conn *nft.Conn) error {
		if f.shared.want == nil {
			return errNoDoors
		}
		err := f.changeNow(conn, c)
		if errors.Is(err, unix.ENOENT) {
			// Before Linux 6.8 a grant may run out in the middle of a transaction, and
			// then cannot be deleted.
			err = f.changeNow(conn, c)
		}
		return err
	})
}

// changeNow makes the changes with the time that each grant has left at this moment.
func (f *Fence) changeNow(conn *nft.Conn, c Changes) error {
	edits, err := f.edits(time.Now(), c.Give, c.Revoke)
	if err != nil {
		return err
	}
	for _, door := range c.Empty {
		if f.doors[door] == nil {
			return fmt.Errorf("door %q is not guarded", door)
		}
	}
	return f.change(conn, c.Empty, edits)
}

// edits sorts grants by the set that they are in. An element without time left is
// removed. Of several about the same source and door the last one counts.
func (f *Fence) edits(now time.Time, give, revoke []Grant) (map[width][]nft.Element, error) {
	type place struct {
		width width
		key   string
	}
	edits := map[width][]nft.Element{}
	seen := make(map[place]int, len(give)+len(revoke)) // index in edits
	put := func(g Grant, left time.Duration) error {
		w, key, err := placeOf(f.doors, g)
		if err != nil {
			return err
		}
		i, again := seen[place{w, key}]
		if !again {
			i = len(edits[w])
			seen[place{w, key}] = i
			edits[w] = append(edits[w], nft.Element{Key: key})
		}
		edits[w][i].Left = left
		return nil
	}
	for _, g := range revoke {
		if err := put(g, 0); err != nil {
			return nil, err
		}
	}
	for _, g := range give {
		if err := put(g, max(0, g.Until.Sub(now).Truncate(time.Millisecond))); err != nil {
			return nil, err
		}
	}
	return edits, nil
}

// placeOf is the set and the key of a grant.
func placeOf(doors map[string]*part, g Grant) (width, string, error) {
	if doors[g.Door] == nil {
		return width{}, "", fmt.Errorf("door %q is not guarded", g.Door)
	}
	if !g.Source.IsValid() {
		return width{}, "", fmt.Errorf("door %q: the grant's source is no valid prefix", g.Door)
	}
	w, key := widthOf(g)
	return w, key, nil
}

// widthOf is place for a grant whose door and source are known to be valid.
func widthOf(g Grant) (width, string) {
	p := canonical(g.Source)
	return width{g.Door, familyOf(p.Addr()).name, p.Bits()}, string(p.Addr().AsSlice())
}

// fewElements is how many elements of a set are removed one by one, which takes the
// kernel a millisecond. For more it is quicker to replace the set: its old elements are
// freed after the transaction.
const fewElements = 1000

// change empties doors and makes the edits, with sets and rules for new prefix lengths.
func (f *Fence) change(c *nft.Conn, empty []string, edits map[width][]nft.Element) error {
	b := c.Batch()
	next := f.newParts(b, empty, edits)
	for w, elems := range edits {
		p := f.doors[w.door]
		if next[w.door] != nil {
			p = next[w.door]
		}
		if p.want.Set(w.set()) == nil { // there is nothing to revoke
			continue
		}
		if turns := doorPrefix + w.door + turnInfix + w.family; p.want.Set(turns) != nil {
			newTurns(b, turns, elems)
		}
		b.SetElements(w.set(), elems)
		p.most[w.set()] += len(elems)
	}
	switch err := c.Commit(b); {
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("a door with single_use holds no more than 65,535 unspent grants of one kind: "+
			"wait until some are spent or run out: %w", err)
	case err != nil:
		return busy(err)
	}
	return f.changed(c, next)
}

// newParts plans the emptying of doors, and sets for new prefix lengths. It returns the
// parts of the doors for which this changes more than elements of sets.
func (f *Fence) newParts(b *nft.Batch, empty []string, edits map[width][]nft.Element) map[string]*part {
	missing := map[string]map[width]bool{} // widths that a door has to have
	for w, elems := range edits {
		if f.doors[w.door].want.Set(w.set()) == nil && slices.ContainsFunc(elems, isGiven) {
			if missing[w.door] == nil {
				missing[w.door] = map[width]bool{}
			}
			missing[w.door][w] = true
		}
	}
	next := map[string]*part{}
	for _, door := range slices.Compact(slices.Sorted(slices.Values(empty))) {
		if again := f.doors[door].empty(b); len(again) > 0 {
			next[door] = f.doors[door].renew(b, missing[door], again)
			delete(missing, door)
		}
	}
	for _, door := range slices.Sorted(maps.Keys(missing)) {
		next[door] = f.doors[door].renew(b, missing[door], nil)
	}
	return next
}

// empty removes all grants from the sets that hold few, and returns the other sets.
func (p *part) empty(b *nft.Batch) (again []string) {
	for _, s := range p.want.Sets {
		if _, grants := parseWidth(s.Name); !grants || p.most[s.Name] == 0 {
			continue
		}
		if p.most[s.Name] > fewElements {
			again = append(again, s.Name)
			continue
		}
		b.FlushSet(s.Name)
	}
	return again
}

// renew returns the part with more widths, and with new sets in place of those that are
// to be recreated.
func (p *part) renew(b *nft.Batch, more map[width]bool, again []string) *part {
	widths := maps.Clone(p.widths)
	if widths == nil {
		widths = map[width]bool{}
	}
	maps.Copy(widths, more)
	next := newPart(p.door, widths)
	next.ports = p.ports
	plan(b, next.want, p.base, staleOf(next.want, p.base, again...), nil)
	next.base, next.most = next.want, maps.Clone(p.most)
	for _, s := range again {
		next.most[s] = 0
	}
	return next
}

// changed replaces the old parts with the new. A kernel that does not show things as they
// were written is asked what it shows.
func (f *Fence) changed(c *nft.Conn, next map[string]*part) error {
	if len(next) == 0 {
		return nil
	}
	exact := f.exact()
	maps.Copy(f.doors, next)
	f.publish()
	if exact {
		return nil
	}
	got, err := c.Read()
	switch {
	case err != nil:
		return err
	case got == nil:
		return errors.New("the table disappeared while it was being changed")
	}
	f.settle(&f.shared, f.doors, got)
	return nil
}

func isGiven(e nft.Element) bool { return e.Left > 0 }

// newTurns forgets whose turn it was to spend the earlier grants of the sources that are
// given one now.
func newTurns(b *nft.Batch, turns string, elems []nft.Element) {
	var keys []nft.Element
	for _, e := range elems {
		if isGiven(e) {
			keys = append(keys, nft.Element{Key: e.Key})
		}
	}
	b.SetElements(turns, keys)
}

// Grants iterates over all live grants of the named doors in the kernel, of all doors if
// none is named, in no particular order, each with its end as seen from now; one without
// an end, which only another program can have put there, has a zero Until. If grants were
// given, revoked or renewed meanwhile, a few may be missing, or come twice; the latter also
// while the kernel makes a set's table larger, which takes a moment after many were given
// (rhashtable_walk_start_check in lib/rhashtable.c). An error ends the iteration.
func (f *Fence) Grants(doors []string) iter.Seq2[Grant, error] {
	return func(yield func(Grant, error) bool) {
		wanted := true
		_, err := f.list(doors, func(g Grant) { wanted = wanted && yield(g, nil) })
		if err != nil && wanted {
			yield(Grant{}, err)
		}
	}
}

// list calls each with all live grants of the named doors, of all if there are
// none, as Grants says, while it reads them: no more of them than fit into 32 KiB
// are in memory. It says whether the list is of one moment; if grants were given,
// revoked or renewed meanwhile, few may have been passed over, or come twice, and of
// a door that was emptied or changed more may have been passed over. No
// other call waits for it but another of its kind, and each may take its time.
//
// Its time grows faster than the number of grants of one door and family, since
// the kernel walks a set from its beginning for each message: to a tenth of a
// second for 100,000 and 20 seconds for a million.
func (f *Fence) list(doors []string, each func(Grant)) (ofOneMoment bool, err error) {
	before, err := f.guarded()
	if err != nil {
		return false, fmt.Errorf("fence: read grants: %w", err)
	}
	var sets []width
	for _, name := range slices.Sorted(maps.Keys(before.doors)) {
		if len(doors) > 0 && !slices.Contains(doors, name) {
			continue
		}
		for _, s := range before.doors[name].want.Sets {
			if w, ok := parseWidth(s.Name); ok {
				sets = append(sets, w)
			}
		}
	}
	ofOneMoment = true
	for _, w := range sets {
		err := f.ask(&f.lister, func(c *nft.Conn) error {
			return c.EachElement(w.set(), func(e nft.Element) {
				if g, ok := grantOf(w, e); ok {
					each(g)
				}
			})
		})
		switch {
		case errors.Is(err, nft.ErrInterrupted),
			// The door was emptied, changed or removed meanwhile.
			errors.Is(err, unix.ENOENT) && f.view.Load().doors[w.door] != before.doors[w.door]:
			ofOneMoment = false
		case err != nil:
			return false, fmt.Errorf("fence: read grants: %w", err)
		}
	}
	return ofOneMoment, nil
}

// grantOf returns the grant of an element, if it has any time left.
func grantOf(w width, e nft.Element) (Grant, bool) {
	addr, ok := netip.AddrFromSlice([]byte(e.Key))
	if !ok || e.Left <= 0 && e.Timed {
		return Grant{}, false
	}
	g := Grant{Door: w.door, Source: netip.PrefixFrom(addr, w.bits)}
	if e.Timed {
		g.Until = time.Now().Add(e.Left)
	}
	return g, true
}
