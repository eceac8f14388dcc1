package door

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// What a door remembers of grants that have ended, to find what let somebody in who is
// first seen only now. It takes half a megabyte at most.
const (
	maxEnded       = 1 << 12           // grants
	maxEndedAtDark = Listed            // of those that end when the door goes dark: the latest
	endedFor       = 150 * time.Second // how long they are remembered
)

// Admission is a grant that let somebody in.
type Admission struct {
	Source netip.Prefix
	Whose  []string  // on whose behalf it is, or was, as Held has it; sorted
	Since  time.Time // when the source was given it
}

// LetIn returns the grant that let an address in at some moment from since to now: of
// several the one for the fewest sources, and preferably one that stands. False: none is
// known. It costs a lookup for each prefix length, and a walk through the grants that
// ended since then.
func (d *Door) LetIn(now, since time.Time, a netip.Addr) (Admission, bool) {
	a = a.Unmap().WithZone("")
	for bits := a.BitLen(); bits > 0; bits-- {
		if n, has := d.grants.find(netip.PrefixFrom(a, bits).Masked()); has {
			return d.grants.admission(n), true
		}
	}
	if n, has := d.grants.find(Any); has {
		return d.grants.admission(n), true
	}
	return d.endedGrants.letIn(since, a)
}

// admission returns a current grant as the one that lets somebody in.
func (b *grantTable) admission(n int32) Admission {
	g := b.grants.at(n)
	l := Admission{Source: g.source.source(), Since: b.ends.epoch.Add(time.Duration(g.since))}
	for _, c := range b.claims(n) {
		l.Whose = append(l.Whose, b.parties.at(c.by).String())
	}
	if len(l.Whose) > 1 { // presence extends the grant, but did not ask for it
		l.Whose = slices.DeleteFunc(l.Whose, func(who string) bool { return who == byPresence })
	}
	slices.Sort(l.Whose)
	return l
}

// String returns, for people, on whose behalf it is: who, and by which knock where a door
// has several of a kind: "touch-2", "operator alice (uid 1000)".
func (p claimant) String() string {
	kind, who, _ := strings.Cut(p.by, " ")
	if p.knock == "" || !strings.HasPrefix(p.knock, kind) {
		return p.by
	}
	return strings.TrimSpace(p.knock + " " + who)
}

// endedGrants are the latest grants that have ended, oldest first.
type endedGrants []endedGrant

type endedGrant struct {
	Admission
	ended time.Time
}

// add remembers a grant that ends.
func (p *endedGrants) add(now time.Time, l Admission) {
	first := max(0, len(*p)+1-maxEnded)
	for first < len(*p) && now.Sub((*p)[first].ended) > endedFor {
		first++
	}
	*p = append((*p)[first:], endedGrant{l, now})
}

// letIn is LetIn among these.
func (p endedGrants) letIn(since time.Time, a netip.Addr) (Admission, bool) {
	var best *endedGrant
	for i := len(p) - 1; i >= 0 && !p[i].ended.Before(since); i-- {
		o := &p[i]
		if (o.Source == Any || o.Source.Contains(a)) && (best == nil || o.Source.Bits() > best.Source.Bits()) {
			best = o
		}
	}
	if best == nil {
		return Admission{}, false
	}
	return best.Admission, true
}
