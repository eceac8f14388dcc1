package door

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Standing is how a source stands with a door at a moment.
type Standing struct {
	Saved
	Covers    []Claim   // claims to the grants that let all of the source in, by their source, then By
	Penalties []Penalty // current ones of the source, of a network that it lies in, or of everybody; by source, then Name
	Waits     bool      // a grant that would let all of it in has been asked for, and waits for the service
}

// Explain returns how a source stands with the door. Its cost does not grow with the
// number of grants and penalties: a grant that contains the source is looked up under
// each prefix length.
func (d *Door) Explain(now time.Time, source netip.Prefix) Standing {
	return Standing{Saved: d.saved, Covers: d.covers(now, source), Penalties: d.penalties.standingOf(now, source),
		Waits: slices.ContainsFunc(d.waiting, func(r request) bool { return r.source == Any || within(source, r.source) })}
}

// covers returns the claims that are not over by now to grants with a source in them.
func (d *Door) covers(now time.Time, source netip.Prefix) []Claim {
	if d.Granted() == 0 {
		return nil
	}
	wider := []netip.Prefix{Any}
	if source != Any {
		for bits := source.Bits(); bits > 0; bits-- {
			wider = append(wider, netip.PrefixFrom(source.Addr(), bits).Masked())
		}
	}
	var all []Claim
	b := &d.grants
	for _, w := range wider {
		n, has := b.find(w)
		if !has {
			continue
		}
		for _, c := range b.claims(n) {
			if until := b.ends.time(now, c.until); now.Before(until) {
				all = append(all, Claim{Source: w, By: b.parties.at(c.by).by, Until: until})
			}
		}
	}
	slices.SortFunc(all, func(a, b Claim) int { return cmp.Or(a.Source.Compare(b.Source), cmp.Compare(a.By, b.By)) })
	return all
}

// standingOf returns the current penalties because of which a source is ignored.
func (ps *penalties) standingOf(now time.Time, source netip.Prefix) []Penalty {
	wider := append(blocks(source), source, Any)
	slices.SortFunc(wider, netip.Prefix.Compare)
	var all []Penalty
	for _, w := range slices.Compact(wider) {
		for _, name := range slices.Sorted(maps.Keys(ps.names)) {
			n, has := ps.of[target{name, w}]
			if !has || !ps.stand.has(n) {
				continue
			}
			if p := *ps.all.at(n); now.Before(p.Until) {
				all = append(all, p)
			}
		}
	}
	return all
}
