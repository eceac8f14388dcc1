//go:build linux

package fence

import (
	"errors"
	"fmt"
	"slices"

	nft "github.com/doorward/doorward/internal/nftables"
	"golang.org/x/sys/unix"
)

// Guard makes the kernel's table guard doors, whatever it is like now; if it does
// already, nothing is changed. Doors that stay keep their grants, with their time; those
// of others are removed. (It is up to the caller to give grants again that went with a
// table that somebody removed.)
//
// If the kernel has what Guard put there before, the change is made in parts of a few
// doors, between which other calls get their turn. A port that is guarded before and
// after is guarded all the time, by either door's old or new rules, or lets nobody in:
// packets meet the new rules of a door only at ports that it has in both. After an error
// some doors may be as before and others as they are to be, which Check reports, until
// the next Guard. Otherwise everything is one transaction.
func (f *Fence) Guard(doors []Door) error {
	doors, err := checkDoors(doors)
	if err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	f.guarding.Lock()
	defer f.guarding.Unlock()
	late := lateDemux()
	if changed, all, err := f.look(); err == nil && all && len(changed) == 0 {
		done, err := f.guardInParts(doors, late)
		if err != nil {
			return fmt.Errorf("fence: guard: %w", err)
		}
		if done {
			return nil
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.manner.late = late
	err = f.do("guard", func(c *nft.Conn) error { return f.guardAtOnce(c, doors) })
	f.halted = f.halted && err != nil
	return err
}

// guardAtOnce is Guard in one transaction, whatever the table is like now.
func (f *Fence) guardAtOnce(c *nft.Conn, doors []Door) error {
	got, err := c.Read()
	if err != nil {
		return err
	}
	next := partsFor(doors, got)
	shared := &part{want: layoutShared(doors, f.manner)}
	want := whole(shared.want, sides(next, wanted))
	right := want // as the kernel would show it
	if f.shared.want != nil {
		if before := f.wholeOf(wanted); len(differences(want, before)) == 0 {
			right = f.wholeOf(shown)
		}
	}
	different := differences(right, got)
	if len(different) == 0 {
		f.settle(shared, next, got)
		return nil
	}
	kept, err := elementsToKeep(c, want, got)
	if err != nil {
		return err
	}
	b := c.Batch()
	planTable(b, want, got, kept)
	if err := c.Commit(b); err != nil {
		return busy(err)
	}
	why := summary(different)
	if f.shared.want == nil && !guards(got) { // nothing is wrong where nothing was
		why = "no door was guarded"
	}
	f.log.Info("fence raised", "doors", len(doors), "because", why)
	// How the kernel shows it: not all versions show all of it the same.
	base, err := c.Read()
	if err != nil {
		return err
	}
	if base == nil {
		return errors.New("the table disappeared while it was being made")
	}
	f.settle(shared, next, base)
	f.owned.Store(f.manner.flags != 0)
	return nil
}

// settle records the parts that the kernel has now, and how it shows them.
func (f *Fence) settle(shared *part, doors map[string]*part, got *nft.Table) {
	var bases map[string]*nft.Table
	shared.base, bases = apart(got)
	for name, p := range doors {
		p.base, p.most = bases[name], map[string]int{}
		for _, s := range p.base.Sets {
			p.most[s.Name] = s.Count
			if s.Count < 0 { // nobody knows
				p.most[s.Name] = fewElements + 1
			}
		}
		p.literal()
	}
	shared.literal()
	f.shared, f.doors = *shared, doors
	f.publish()
}

// literal keeps only one table if the kernel shows everything as it was written.
func (p *part) literal() {
	if same(p.want, p.base) {
		p.base = p.want
	}
}

// partsFor returns the doors' parts, with sets for those widths of grants that got has.
func partsFor(doors []Door, got *nft.Table) map[string]*part {
	widths := map[string]map[width]bool{}
	if got != nil {
		for _, s := range got.Sets {
			if w, ok := parseWidth(s.Name); ok {
				if widths[w.door] == nil {
					widths[w.door] = map[width]bool{}
				}
				widths[w.door][w] = true
			}
		}
	}
	parts := map[string]*part{}
	for _, d := range doors {
		parts[d.Name] = newPart(d, widths[d.Name])
	}
	return parts
}

func newPart(d Door, widths map[width]bool) *part {
	return &part{door: d, ports: d.Ports, widths: widths, want: layoutDoor(d, widths)}
}

// wholeOf joins one side of all parts.
func (f *Fence) wholeOf(side func(*part) *nft.Table) *nft.Table {
	return whole(side(&f.shared), sides(f.doors, side))
}

func sides(parts map[string]*part, side func(*part) *nft.Table) map[string]*nft.Table {
	of := make(map[string]*nft.Table, len(parts))
	for name, p := range parts {
		of[name] = side(p)
	}
	return of
}

func wanted(p *part) *nft.Table { return p.want }
func shown(p *part) *nft.Table  { return p.base }

// Stands says whether the kernel's table guards doors already, because an earlier fence
// left it there and nobody has removed its chains since. It does not say which doors, or
// whether Guard would change anything: it is for deciding what to do first at a start.
func (f *Fence) Stands() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stands := false
	err := f.do("look for a table that stands", func(c *nft.Conn) error {
		got, err := c.Read()
		stands = err == nil && judgesLike(layoutShared(nil, manner{f.manner.flags, lateDemux()}), got)
		return err
	})
	return stands, err
}

// judgesLike says whether got, a table that is not dormant and has doors, has the chains
// that all tables have as they are in want.
func judgesLike(want, got *nft.Table) bool {
	if got == nil || got.Flags&unix.NFT_TABLE_F_DORMANT != 0 {
		return false
	}
	for _, w := range want.Chains {
		g := got.Chain(w.Name)
		if g == nil || g.Base != w.Base || !slices.Equal(g.Rules, w.Rules) {
			return false
		}
	}
	return guards(got)
}

// guards says whether the table has doors.
func guards(t *nft.Table) bool {
	return t != nil && slices.ContainsFunc(t.Chains, func(c nft.Chain) bool { return doorOf(c.Name) != "" })
}

// errHalted is Check's error where nobody but the fence changed the table.
var errHalted = errors.New("a change of doors stopped halfway: some are guarded as before, others as they should be now")

// Check returns nil if the kernel's table is exactly what Guard put there, and otherwise
// an error that names what differs. It does not look at grants. It waits for a Guard that
// is under way; changes of grants do not wait for it, unless something differs.
func (f *Fence) Check() error {
	f.guarding.Lock()
	defer f.guarding.Unlock()
	if f.halted {
		return errHalted
	}
	if changed, all, err := f.look(); err == nil && all && len(changed) == 0 {
		return nil
	}
	// Once more, with changes by this fence locked out.
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.do("check", func(c *nft.Conn) error {
		if f.shared.want == nil {
			return errNoDoors
		}
		got, err := c.Read()
		if err != nil {
			return err
		}
		if d := differences(f.wholeOf(shown), got); len(d) > 0 {
			return fmt.Errorf("table inet %s was changed: %s", tableName, summary(d))
		}
		return nil
	})
}

var errGone = errors.New("the table is gone")
