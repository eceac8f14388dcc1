package door

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// What a door remembers of grants that have ended, for who asks what has let somebody
// in whom they have met only now. It takes half a megabyte at the most.
const (
	maxEnded    = 1 << 12           // grants
	maxDarkened = Listed            // of those that end when the door goes dark: the latest
	endedFor    = 150 * time.Second // is how long they are remembered
)

// Leave is a grant as what let somebody in.
type Leave struct {
	Source netip.Prefix
	Whose  []string  // on whose behalf it is, or was, as Held has it; sorted
	Since  time.Time // when the source was given it
}

// LetIn returns the grant that let an address in at some moment from since to now:
// of several the one for the fewest, and rather one that stands. False: none is known.
// It costs a lookup for each length of a prefix, and a walk through the grants that
// ended since then.
func (d *Door) LetIn(now, since time.Time, a netip.Addr) (Leave, bool) {
	a = a.Unmap().WithZone("")
	for bits := a.BitLen(); bits > 0; bits-- {
		if n, has := d.book.find(netip.PrefixFrom(a, bits).Masked()); has {
			return d.book.leave(n), true
		}
	}
	if n, has := d.book.find(Any); has {
		return d.book.leave(n), true
	}
	return d.bygones.letIn(since, a)
}

// leave is a grant that stands as what lets somebody in.
func (b *book) leave(n int32) Leave {
	g := b.grants.at(n)
	l := Leave{Source: g.source.source(), Since: b.ends.epoch.Add(time.Duration(g.since))}
	for _, c := range b.claims(n) {
		l.Whose = append(l.Whose, b.parties.at(c.by).String())
	}
	if len(l.Whose) > 1 { // who is in has it drawn out, and did not ask for it
		l.Whose = slices.DeleteFunc(l.Whose, func(who string) bool { return who == byPresence })
	}
	slices.Sort(l.Whose)
	return l
}

// String is on whose behalf for people: who, and by which knock where a door has
// several of a kind: "touch-2", "operator alice (uid 1000)".
func (p party) String() string {
	kind, who, _ := strings.Cut(p.by, " ")
	if p.knock == "" || !strings.HasPrefix(p.knock, kind) {
		return p.by
	}
	return strings.TrimSpace(p.knock + " " + who)
}

// bygone are the latest grants that have ended, oldest first.
type bygone []over

type over struct {
	Leave
	ended time.Time
}

// add remembers a grant that ends.
func (p *bygone) add(now time.Time, l Leave) {
	first := max(0, len(*p)+1-maxEnded)
	for first < len(*p) && now.Sub((*p)[first].ended) > endedFor {
		first++
	}
	*p = append((*p)[first:], over{l, now})
}

// letIn is LetIn, of these.
func (p bygone) letIn(since time.Time, a netip.Addr) (Leave, bool) {
	var best *over
	for i := len(p) - 1; i >= 0 && !p[i].ended.Before(since); i-- {
		o := &p[i]
		if (o.Source == Any || o.Source.Contains(a)) && (best == nil || o.Source.Bits() > best.Source.Bits()) {
			best = o
		}
	}
	if best == nil {
		return Leave{}, false
	}
	return best.Leave, true
}
