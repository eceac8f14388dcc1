//go:build linux

package fence

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/port"
)

// Door is what the fence must know about one door.
type Door struct {
	Name      string         // a-z, 0-9, - and _, 1 to 24 of them
	Ports     []port.Range   // guarded ports; no two doors share one
	Listen    []port.Range   // where its knocks are listened for, but not from this host itself
	Reject    bool           // refuse with TCP resets and ICMP errors, not with silence
	SingleUse bool           // the first completed connection spends a grant (at most 65,535 unspent)
	Always    []netip.Prefix // sources that need no grant
}

// Grant is permission for a source to open new connections to a door. An IPv4-mapped
// source means the IPv4 one, and bits after the prefix's length are ignored.
type Grant struct {
	Door   string
	Source netip.Prefix // length 0 is everybody of that family
	Until  time.Time    // by the monotonic clock if it has a reading
}

var doorName = regexp.MustCompile(`^[a-z0-9_-]{1,24}$`)

// checkDoors returns doors in the order of their names, or every reason why
// they cannot be guarded.
func checkDoors(doors []Door) ([]Door, error) {
	doors = slices.SortedFunc(slices.Values(doors), func(a, b Door) int { return cmp.Compare(a.Name, b.Name) })
	var errs []error
	for i, d := range doors {
		if !doorName.MatchString(d.Name) {
			errs = append(errs, fmt.Errorf("door %q: a name has 1 to 24 of the characters a-z, 0-9, - and _", d.Name))
		}
		if i > 0 && doors[i-1].Name == d.Name {
			errs = append(errs, fmt.Errorf("door %q is there twice", d.Name))
		}
		for _, r := range slices.Concat(d.Ports, d.Listen) {
			if r.First == 0 || r.First > r.Last || r.Proto != port.TCP && r.Proto != port.UDP {
				errs = append(errs, fmt.Errorf("door %q: ports %q: allowed are 1 to 65535 of tcp or udp", d.Name, r))
			}
		}
		for _, p := range d.Always {
			if !p.IsValid() {
				errs = append(errs, fmt.Errorf("door %q: always: a prefix is not valid", d.Name))
			}
		}
	}
	return doors, errors.Join(append(errs, overlaps(doors)...)...)
}

// overlaps names the ports that are guarded twice.
func overlaps(doors []Door) (errs []error) {
	type taken struct {
		by int // index in doors
		port.Range
	}
	var all []taken
	for i, d := range doors {
		for _, r := range d.Ports {
			all = append(all, taken{i, r})
		}
	}
	slices.SortStableFunc(all, func(a, b taken) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.First, b.First))
	})
	for i := 1; i < len(all); i++ {
		last, r := all[i-1], all[i] // last reaches furthest of the earlier ones
		if !r.Overlaps(last.Range) {
			continue
		}
		first, second := last, r
		if first.by > second.by {
			first, second = second, first
		}
		errs = append(errs, fmt.Errorf("door %q: ports %q are already guarded by door %q as %q",
			doors[second.by].Name, second.Range, doors[first.by].Name, first.Range))
		if last.Last > r.Last {
			all[i] = last
		}
	}
	return errs
}

// span is a range of keys of a set, of equal length, both ends included.
type span struct{ first, last string }

// intervals returns the elements of an interval set with the keys of spans. The kernel
// accepts none that overlap or touch, so those are merged.
func intervals(spans []span) (elems []nft.Element) {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	for i := 0; i < len(spans); {
		s := spans[i]
		end, more := after(s.last)
		for i++; i < len(spans) && (!more || spans[i].first <= end); i++ {
			if spans[i].last > s.last {
				s.last = spans[i].last
				end, more = after(s.last)
			}
		}
		elems = append(elems, nft.Element{Key: s.first})
		if more {
			elems = append(elems, nft.Element{Key: end, End: true})
		}
	}
	return elems
}

// after returns the next key; false if there is none.
func after(key string) (string, bool) {
	b := []byte(key)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i]++; b[i] != 0 {
			return string(b), true
		}
	}
	return "", false
}

// sources returns the addresses of one family in prefixes.
func sources(prefixes []netip.Prefix, f family) (spans []span) {
	for _, p := range prefixes {
		if p = canonical(p); familyOf(p.Addr()).name == f.name {
			spans = append(spans, span{string(p.Addr().AsSlice()), string(lastOf(p))})
		}
	}
	return spans
}

// canonical masks a prefix and turns an IPv4-mapped one into an IPv4 one.
func canonical(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) []byte {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}
