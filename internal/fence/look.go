//go:build linux

package fence

import (
	"errors"
	"maps"
	"slices"

	nft "github.com/doorward/doorward/internal/nftables"
)

// lookTries is how often look reads the table at most before it believes what differs.
const lookTries = 4

// look names what is different in the kernel from what Guard put there, without holding
// up changes of grants. Those may happen meanwhile: a list of what is being changed may
// then lack things that are there, or show a door half in its old and half in its new
// form. So a door that differs is read again, and differs only if it does each time, or
// if nobody has changed anything while it was read. What somebody else has changed does.
// A door of which nothing is known after all that, since the fence itself was changing it,
// is left out, and then all is false.
func (f *Fence) look() (differ []string, all bool, err error) { return lookBy(f.compareOnce) }

// lookBy is look by means of compare, which is given the suspects among the doors; nil:
// every door, and what they share.
func lookBy(compare func(suspects map[string]bool) (comparison, error)) (differ []string, all bool, err error) {
	var c comparison
	var suspects map[string]bool
	seen := map[string]int{} // how often something differed
	for range lookTries {
		if c, err = compare(suspects); err != nil {
			return nil, false, err
		}
		if len(c.differ) == 0 && len(c.moved) == 0 || len(c.differ) > 0 && c.still {
			break
		}
		suspects = maps.Clone(c.moved)
		for name := range c.differ {
			suspects[name] = true
			seen[name]++
		}
	}
	all = len(c.moved) == 0
	for _, name := range slices.Sorted(maps.Keys(c.differ)) {
		if c.still || seen[name] == lookTries {
			differ = append(differ, c.differ[name]...)
		} else {
			all = false
		}
	}
	return differ, all, nil
}

// comparison is what one reading of the table has shown, by door; what belongs to none of
// them has the name "".
type comparison struct {
	differ map[string][]string // what is different from what Guard put there
	moved  map[string]bool     // what the fence itself has changed meanwhile: nothing is known of it
	still  bool                // nobody has changed the ruleset meanwhile
}

// compareOnce reads the table once, and compares the suspects among its doors, or all of
// them.
func (f *Fence) compareOnce(suspects map[string]bool) (comparison, error) {
	c := comparison{differ: map[string][]string{}, moved: map[string]bool{}}
	var before view
	var got *nft.Table
	err := f.ask(&f.asker, func(conn *nft.Conn) (err error) {
		step := f.mu.steps.Load()
		if before, err = f.guarded(); err != nil {
			return err
		}
		c.still, err = stillFor(conn, func() (err error) { got, err = conn.Read(); return err })
		c.still = c.still && f.mu.unheld(step) // else a change may be in the kernel, and not published yet
		return err
	})
	if err != nil && !errors.Is(err, nft.ErrInterrupted) {
		return c, err
	}
	now, err := f.guarded()
	if err != nil {
		return c, err
	}
	if got == nil {
		return c, errGone // which no change of the fence's makes of it
	}
	shared, parts := apart(got)
	note := func(name string, moved bool, want, got *nft.Table) {
		if suspects != nil && !suspects[name] {
			return
		}
		if moved {
			c.moved[name] = true
			return
		}
		if got == nil {
			got = &nft.Table{}
		}
		if d := differences(want, got); len(d) > 0 {
			c.differ[name] = d
		}
	}
	note("", before.shared.base != now.shared.base, before.shared.base, shared)
	for name, p := range before.doors {
		note(name, now.doors[name] != p, p.base, parts[name])
		delete(parts, name)
	}
	for name, strange := range parts {
		note(name, now.doors[name] != nil, &nft.Table{}, strange)
	}
	return c, nil
}

// stillFor calls read, and says whether nobody has changed the ruleset meanwhile, so that
// what was read is of one moment: its generation is still the same (nf_tables_api.c,
// nf_tables_commit). What packets and time do to sets is no change.
func stillFor(c *nft.Conn, read func() error) (bool, error) {
	before, err := c.Generation()
	if err != nil {
		return false, err
	}
	if err := read(); err != nil {
		return false, err
	}
	after, err := c.Generation()
	return err == nil && after == before, err
}
