package door

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"slices"
	"time"
)

// grantTable holds who has a grant at a door, and on whose behalf. A grant takes about
// seventy bytes, without any pointer. When the last one ends, the memory is released.
type grantTable struct {
	of      index
	grants  slab[grant]
	ends    expiryQueue
	more    map[int32][]claim // of those that have more than one claim, or none yet
	parties claimants
}

// grant is one source's.
type grant struct {
	source place
	by     int32 // whose claim it is, if there is just one, which ends with it; else 0
	since  int64 // when the source first had it
}

// claim is one of several parties', by its number.
type claim struct {
	by    int32
	until int64
}

func newGrantTable(epoch time.Time, who func(by string) string) grantTable {
	if who == nil {
		who = func(by string) string { return by }
	}
	b := grantTable{ends: expiryQueue{epoch: epoch}, parties: claimants{who: who}}
	b.clear()
	return b
}

// clear ends all grants, at the cost of one.
func (b *grantTable) clear() {
	*b = grantTable{of: index{seed: maphash.MakeSeed()}, ends: expiryQueue{epoch: b.ends.epoch}, more: make(map[int32][]claim),
		parties: claimants{number: make(map[claimant]int32), named: make(map[string][]int32), who: b.parties.who}}
}

// find returns the number of a source's grant.
func (b *grantTable) find(source netip.Prefix) (int32, bool) {
	n := b.of.find(placeOf(source), &b.grants)
	return n, n >= 0
}

// open returns the number of a source's grant, which begins if there is none.
func (b *grantTable) open(source netip.Prefix, since, until time.Time) int32 {
	if n, has := b.find(source); has {
		return n
	}
	n := b.grants.put(grant{source: placeOf(source), since: b.ends.nanos(since)})
	b.of.put(n, &b.grants)
	b.ends.add(n, until)
	return n
}

// claims are those to a grant, by whose they are.
func (b *grantTable) claims(n int32) []claim {
	if by := b.grants.at(n).by; by > 0 {
		return []claim{{by, b.ends.until(n)}}
	}
	return b.more[n]
}

// claimOf returns the index in claims of a party, whatever name and knock it used, -1 for
// none.
func (b *grantTable) claimOf(claims []claim, by string) int {
	return slices.IndexFunc(claims, func(c claim) bool { return b.parties.same(b.parties.at(c.by).by, by) })
}

// claim adds a party's claim to a grant until a moment, in place of its earlier claim.
func (b *grantTable) claim(n int32, p claimant, until time.Time) {
	c := claim{b.parties.take(p), b.ends.nanos(until)}
	all := b.claims(n)
	if i := b.claimOf(all, p.by); i >= 0 {
		b.parties.leave(all[i].by)
		all[i] = c
	} else {
		all = append(all, c)
		slices.SortFunc(all, func(x, y claim) int { return cmp.Compare(b.parties.at(x.by).by, b.parties.at(y.by).by) })
	}
	b.set(n, all)
	b.ends.renew(n)
}

// unclaim removes one of several claims.
func (b *grantTable) unclaim(n int32, i int) {
	all := b.claims(n)
	b.parties.leave(all[i].by)
	b.set(n, slices.Delete(all, i, i+1))
}

// othersLast says whether one of the other claims lasts beyond now.
func (b *grantTable) othersLast(now time.Time, claims []claim, mine int) bool {
	for i, c := range claims {
		if i != mine && c.until > b.ends.nanos(now) {
			return true
		}
	}
	return false
}

// set stores the claims to a grant, which ends with the last of them.
func (b *grantTable) set(n int32, claims []claim) {
	g := b.grants.at(n)
	latest := slices.MaxFunc(claims, func(x, y claim) int { return cmp.Compare(x.until, y.until) })
	if len(claims) == 1 {
		g.by = claims[0].by
		delete(b.more, n)
	} else {
		g.by, b.more[n] = 0, claims
	}
	b.ends.move(n, b.ends.epoch.Add(time.Duration(latest.until)))
}

// drop ends a grant, and returns who had claimed it.
func (b *grantTable) drop(n int32) []string {
	var by []string
	for _, c := range b.claims(n) {
		by = append(by, b.parties.at(c.by).by)
		b.parties.leave(c.by)
	}
	b.of.drop(n, &b.grants)
	delete(b.more, n)
	b.ends.remove(n)
	if b.grants.drop(n); b.of.used == 0 {
		b.clear()
	}
	return by
}

// whose returns on whose behalf a grant is; of several it is the first, but for presence,
// which did not ask for it.
func (b *grantTable) whose(n int32) (by string) {
	for _, c := range b.claims(n) {
		if by = b.parties.at(c.by).by; by != byPresence {
			break
		}
	}
	return by
}

// until returns when a grant ends, by the clock of now.
func (b *grantTable) until(now time.Time, n int32) time.Time {
	return b.ends.time(now, b.ends.until(n))
}

// claimant is on whose behalf a grant is claimed, and by which knock, "" if that is not
// known or there was none.
type claimant struct{ by, knock string }

// claimants gives each party a number, above 0, for as long as it is in use: they are
// few, however many grants there are.
type claimants struct {
	number map[claimant]int32
	all    slab[shared]
	named  map[string][]int32 // the numbers by who they are, whatever name and knock it was
	who    func(by string) string
}

// same says whether two names are one's.
func (ps *claimants) same(a, b string) bool { return a == b || ps.who(a) == ps.who(b) }

type shared struct {
	claimant
	uses int
}

func (ps *claimants) at(n int32) claimant { return ps.all.at(n - 1).claimant }

// take returns a party's number, and counts one more use.
func (ps *claimants) take(p claimant) int32 {
	n, ok := ps.number[p]
	if !ok {
		n = 1 + ps.all.put(shared{claimant: p})
		ps.number[p] = n
		who := ps.who(p.by)
		ps.named[who] = append(ps.named[who], n)
	}
	ps.all.at(n-1).uses++
	return n
}

// leave ends one use of a party's number.
func (ps *claimants) leave(n int32) {
	e := ps.all.at(n - 1)
	if e.uses--; e.uses == 0 {
		delete(ps.number, e.claimant)
		who := ps.who(e.by)
		rest := slices.DeleteFunc(ps.named[who], func(m int32) bool { return m == n })
		if ps.named[who] = rest; len(rest) == 0 {
			delete(ps.named, who)
		}
		ps.all.drop(n - 1)
	}
}

// place is a source without a pointer, which a netip.Prefix has. The zero place is
// everybody.
type place struct {
	addr [16]byte
	bits uint8
	four bool
}

func placeOf(source netip.Prefix) place {
	if source == Any {
		return place{}
	}
	a := source.Addr()
	return place{a.As16(), uint8(source.Bits()), a.Is4()}
}

func (p place) source() netip.Prefix {
	if p == (place{}) {
		return Any
	}
	a := netip.AddrFrom16(p.addr)
	if p.four {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, int(p.bits))
}

// may says whether a claim of p's can be what the same party earned by a knock: one from
// before a restart does not say by which knock.
func (ps *claimants) may(p, other claimant) bool {
	return ps.same(p.by, other.by) && (p.knock == other.knock || p.knock == "")
}
