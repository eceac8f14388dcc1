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

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Changes are to take effect at once, in this order. Doors in Empty lose all their
// grants.
type Changes struct {
	Empty        []string
	Revoke, Give []Grant
}

// Change empties doors, and then revokes and gives grants, in one transaction. To
// give a grant again sets its end to Until, be that later or sooner than before. What
// is left until then is reckoned when it is the call's turn: what has run out by
// then, or has less than a millisecond left, is not given, and is revoked. Revoking
// what is not there is fine, and the revoked grants' Until means nothing. When the
// table was removed or damaged the call fails with nothing changed, and Guard puts
// the table back.
func (f *Fence) Change(all Changes) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do("change grants", func(c *conn) error {
		if f.want == nil {
			return errNoDoors
		}
		err := f.changeNow(c, all)
		if errors.Is(err, unix.ENOENT) {
			// Before Linux 6.8 a grant may run out in the midst of a
			// transaction, and is not there to be deleted.
			err = f.changeNow(c, all)
		}
		return err
	})
}

// changeNow carries the call out with what is left of each grant at this moment.
func (f *Fence) changeNow(c *conn, all Changes) error {
	edits, err := f.edits(time.Now(), all.Give, all.Revoke)
	if err != nil {
		return err
	}
	return f.change(c, all.Empty, edits)
}

// edits sorts grants by the set that they are in. An element without time left
// is to go. Of several about the same source and door the last one counts.
func (f *Fence) edits(now time.Time, give, revoke []Grant) (map[width][]element, error) {
	type place struct {
		width width
		key   string
	}
	edits := map[width][]element{}
	seen := make(map[place]int, len(give)+len(revoke)) // index in edits
	put := func(g Grant, left time.Duration) error {
		w, key, err := f.place(g)
		if err != nil {
			return err
		}
		i, again := seen[place{w, key}]
		if !again {
			i = len(edits[w])
			seen[place{w, key}] = i
			edits[w] = append(edits[w], element{key: key})
		}
		edits[w][i].left = left
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

// place is the set and the key of a grant.
func (f *Fence) place(g Grant) (width, string, error) {
	if !slices.ContainsFunc(f.doors, func(d Door) bool { return d.Name == g.Door }) {
		return width{}, "", fmt.Errorf("door %q is not guarded", g.Door)
	}
	if !g.Source.IsValid() {
		return width{}, "", fmt.Errorf("door %q: the grant's source is no valid prefix", g.Door)
	}
	w, key := widthOf(g)
	return w, key, nil
}

// widthOf is place for a grant whose door and source are known to be good.
func widthOf(g Grant) (width, string) {
	p := canonical(g.Source)
	return width{g.Door, familyOf(p.Addr()).name, p.Bits()}, string(p.Addr().AsSlice())
}

// change carries the edits out, with sets and rules for lengths that are new.
func (f *Fence) change(c *conn, empty []string, edits map[width][]element) error {
	widths := maps.Clone(f.widths)
	for w, elems := range edits {
		if f.want.set(w.set()) == nil && slices.ContainsFunc(elems, isGiven) {
			widths[w] = true
		}
	}
	b, want := &batch{}, f.want
	if len(widths) != len(f.widths) {
		want = layout(f.doors, widths, f.manner)
		want.plan(b, f.base, nil)
	}
	for _, s := range f.want.sets {
		if w, ok := parseWidth(s.name); ok && slices.Contains(empty, w.door) {
			b.add("empty set "+s.name, unix.NFT_MSG_DELSETELEM, 0, inTable().with(unix.NFTA_SET_ELEM_LIST_SET, s.name))
		}
	}
	for w, elems := range edits {
		if want.set(w.set()) == nil { // there is nothing to revoke
			continue
		}
		if turns := doorPrefix + w.door + turnInfix + w.family; want.set(turns) != nil {
			newTurns(b, turns, elems)
		}
		editElements(b, w.set(), elems)
	}
	switch err := c.commit(b); {
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("a door with single_use holds no more than 65,535 unspent grants of one kind: "+
			"wait until some are spent or run out: %w", err)
	case err != nil:
		return busy(err)
	}
	if want != f.want {
		return f.guarded(c, f.doors, widths, want)
	}
	return nil
}

func isGiven(e element) bool { return e.left > 0 }

// newTurns forgets whose turn it was to spend the grants before those that are
// given now.
func newTurns(b *batch, turns string, elems []element) {
	var keys []element
	for _, e := range elems {
		if isGiven(e) {
			keys = append(keys, element{key: e.key})
		}
	}
	editElements(b, turns, keys)
}

// editElements gives elements their time, and removes those that have none left.
// An element's time cannot be changed before Linux 6.12, and one that is not
// there cannot be deleted before 6.3; to add, which leaves alone what is there,
// to delete and to add again works everywhere, and as it is one transaction no
// packet sees the gap.
func editElements(b *batch, set string, elems []element) {
	for part := range slices.Chunk(elems, maxElements) {
		list := elementList(set, part)
		b.add("add to set "+set, unix.NFT_MSG_NEWSETELEM, netlink.Create, list)
		b.add("delete from set "+set, unix.NFT_MSG_DELSETELEM, 0, list)
		if !slices.ContainsFunc(part, func(e element) bool { return !isGiven(e) }) {
			b.add("add to set "+set, unix.NFT_MSG_NEWSETELEM, netlink.Create, list)
			continue
		}
		given := slices.DeleteFunc(slices.Clone(part), func(e element) bool { return !isGiven(e) })
		addElements(b, set, given)
	}
}

// Grants lists all live grants as allGrants reads them.
func (f *Fence) Grants() iter.Seq2[Grant, error] {
	return func(yield func(Grant, error) bool) {
		all, err := f.allGrants()
		if err != nil {
			yield(Grant{}, err)
			return
		}
		for _, g := range all {
			if !yield(g, nil) {
				return
			}
		}
	}
}

// allGrants reads all live grants from the kernel, in no order, each with its end as
// seen from now. One that has no end, which only another program can have put
// there, has a zero Until. While others change the ruleset without pause, few may
// be missing. No other call waits for it but Ends: its time grows faster than
// the number, since the kernel walks a set from its beginning for each message of
// 32 KiB, to tenths of a second for 100,000 grants and a minute for a million.
func (f *Fence) allGrants() ([]Grant, error) {
	var grants []Grant
	err := f.read(func(c *conn, want *table) (err error) {
		for _, s := range want.sets {
			w, ok := parseWidth(s.name)
			if !ok {
				continue
			}
			if grants, err = c.readGrants(grants, w); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("fence: read grants: %w", err)
	}
	return grants, nil
}

// read runs one reading over the connection that is there for them, beside all
// that changes the table. It is handed the table that is to be.
func (f *Fence) read(reading func(*conn, *table) error) error {
	f.reads.Lock()
	defer f.reads.Unlock()
	f.mu.Lock()
	want := f.want
	c, err := f.connectReader()
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if want == nil {
		return errNoDoors
	}
	err = reading(c, want)
	if isBroken(err) {
		f.mu.Lock()
		c.nl.Close()
		f.reader = nil
		f.mu.Unlock()
	}
	return err
}

// readGrants appends the grants of one width.
func (c *conn) readGrants(grants []Grant, w width) ([]Grant, error) {
	elems, err := c.readElements(w.set())
	if err != nil && !errors.Is(err, errInterrupted) {
		return nil, err
	}
	now := time.Now()
	for _, e := range elems {
		addr, ok := netip.AddrFromSlice([]byte(e.key))
		if !ok || e.left <= 0 && e.timed {
			continue
		}
		g := Grant{Door: w.door, Source: netip.PrefixFrom(addr, w.bits)}
		if e.timed {
			g.Until = now.Add(e.left)
		}
		grants = append(grants, g)
	}
	return grants, nil
}
