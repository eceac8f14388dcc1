//go:build linux

package fence

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Change revokes and then gives grants, in one transaction. To give a grant
// again sets its time to For, be that more or less than what is left; a For
// below a millisecond ends it. Revoking what is not there is fine, and the
// revoked grants' For means nothing. When the table was removed or damaged the
// call fails with nothing changed, and Guard puts the table back.
func (f *Fence) Change(give, revoke []Grant) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do("change grants", func(c *conn) error {
		if f.want == nil {
			return errNoDoors
		}
		edits, err := f.edits(give, revoke)
		if err != nil {
			return err
		}
		err = f.change(c, edits)
		if errors.Is(err, unix.ENOENT) {
			// Before Linux 6.8 a grant may run out in the midst of a
			// transaction, and is not there to be deleted.
			err = f.change(c, edits)
		}
		return err
	})
}

// edits sorts grants by the set that they are in. An element without time left
// is to go. Of several about the same source and door the last one counts.
func (f *Fence) edits(give, revoke []Grant) (map[width][]element, error) {
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
		if err := put(g, max(0, g.For.Truncate(time.Millisecond))); err != nil {
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
	p := canonical(g.Source)
	return width{g.Door, familyOf(p.Addr()).name, p.Bits()}, string(p.Addr().AsSlice()), nil
}

// change carries the edits out, with sets and rules for lengths that are new.
func (f *Fence) change(c *conn, edits map[width][]element) error {
	widths := maps.Clone(f.widths)
	for w, elems := range edits {
		if f.want.set(w.set()) == nil && slices.ContainsFunc(elems, isGiven) {
			widths[w] = true
		}
	}
	b, want := &batch{}, f.want
	if len(widths) != len(f.widths) {
		want = layout(f.doors, widths, f.flags)
		want.plan(b, f.base, nil)
	}
	for w, elems := range edits {
		if want.set(w.set()) != nil { // else there is nothing to revoke
			editElements(b, w.set(), elems)
		}
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

// Grants reads all live grants from the kernel, in no order. One that has no
// end, which only another program can have put there, has a For of 0. While
// others change the ruleset without pause, few may be missing. No other call
// waits for it: its time grows faster than the number, to tenths of a second for
// 100,000 grants and a minute for a million.
func (f *Fence) Grants() ([]Grant, error) {
	f.reads.Lock()
	defer f.reads.Unlock()
	grants, err := f.grants()
	if err != nil {
		return nil, fmt.Errorf("fence: read grants: %w", err)
	}
	return grants, nil
}

func (f *Fence) grants() ([]Grant, error) {
	f.mu.Lock()
	want := f.want
	c, err := f.connectReader()
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if want == nil {
		return nil, errNoDoors
	}
	var grants []Grant
	for _, s := range want.sets {
		w, ok := parseWidth(s.name)
		if !ok {
			continue
		}
		if grants, err = c.readGrants(grants, w); err != nil {
			if isBroken(err) {
				f.mu.Lock()
				c.nl.Close()
				f.reader = nil
				f.mu.Unlock()
			}
			return nil, err
		}
	}
	return grants, nil
}

// readGrants appends the grants of one width.
func (c *conn) readGrants(grants []Grant, w width) ([]Grant, error) {
	elems, err := c.readElements(w.set())
	if err != nil && !errors.Is(err, errInterrupted) {
		return nil, err
	}
	for _, e := range elems {
		addr, ok := netip.AddrFromSlice([]byte(e.key))
		if ok && (e.left > 0 || !e.timed) {
			grants = append(grants, Grant{w.door, netip.PrefixFrom(addr, w.bits), e.left})
		}
	}
	return grants, nil
}
