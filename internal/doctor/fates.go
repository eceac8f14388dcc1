//go:build linux

package doctor

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/ruleset"
)

// strangers are addresses whose packets are judged: in public use, from all regions,
// and on no list of bogons. Nothing is ever sent to them.
var strangers = []netip.Addr{
	netip.MustParseAddr("24.48.0.1"), netip.MustParseAddr("62.210.0.1"),
	netip.MustParseAddr("101.0.64.1"), netip.MustParseAddr("186.0.128.1"),
	netip.MustParseAddr("2600:1f00::1"), netip.MustParseAddr("2a01:4f8::1"),
	netip.MustParseAddr("2400:cb00::1"), netip.MustParseAddr("2804:14c::1"),
}

// arrival is a way in which strangers' packets come in: the interface that a default
// route leads out of.
type arrival struct {
	ipv6  bool
	name  string // "" if it is not known
	index uint32
	here  []netip.Addr // what they are sent to
}

// arrivals returns the ways in. Where no route leads to strangers, an unknown interface
// stands for them.
func arrivals(own []netip.Addr) ([]arrival, error) {
	all, err := routes()
	if err != nil {
		return nil, err
	}
	var ways []arrival
	seen := map[arrivalKey]bool{}
	for _, r := range all {
		key := arrivalKey{r.to.Addr().Is6(), r.out}
		if r.to.Bits() != 0 || r.kind != unix.RTN_UNICAST || r.table != unix.RT_TABLE_MAIN || seen[key] {
			continue
		}
		seen[key] = true
		way := arrival{ipv6: key.ipv6, index: r.out}
		if i, err := net.InterfaceByIndex(int(r.out)); err == nil && i.Flags&net.FlagLoopback == 0 {
			way.name = i.Name
			way.here = interfaceAddresses(i, way.ipv6)
		} else {
			way.index = 0
		}
		ways = append(ways, way)
	}
	for _, ipv6 := range []bool{false, true} {
		is := func(w arrival) bool { return w.ipv6 == ipv6 }
		global := func(a netip.Addr) bool { return a.Is6() == ipv6 && a.IsGlobalUnicast() }
		if !slices.ContainsFunc(ways, is) && slices.ContainsFunc(own, global) {
			ways = append(ways, arrival{ipv6: ipv6})
		}
	}
	if len(ways) == 0 {
		ways = []arrival{{}, {ipv6: true}}
	}
	return ways, nil
}

type arrivalKey struct {
	ipv6 bool
	out  uint32
}

// interfaceAddresses returns a few addresses of an interface that strangers may send
// to.
func interfaceAddresses(i *net.Interface, ipv6 bool) (all []netip.Addr) {
	const few = 4
	found, err := i.Addrs()
	if err != nil {
		return nil
	}
	for _, f := range found {
		n, ok := f.(*net.IPNet)
		if !ok {
			continue
		}
		a, ok := netip.AddrFromSlice(n.IP)
		if a = a.Unmap(); ok && a.Is6() == ipv6 && a.IsGlobalUnicast() && len(all) < few {
			all = append(all, a)
		}
	}
	return all
}

// fate is what becomes of strangers' packets to some ports.
type fate struct {
	verdict Verdict // OK, Problem, or Warning if it depends
	ports   port.Range
	ipv6    bool
	at      ruleset.Place // where they are dropped, or what it depends on
	way     arrival
	chains  []*ruleset.Chain
}

// judge finds fates.
type judge struct {
	rules *ruleset.Ruleset
	own   []netip.Addr
	ways  []arrival
	from  []netip.Addr // whose packets are judged
	who   string       // what they are called: "strangers", or the one address
	other uint16       // a port that is none of those that are judged
}

// ownChain reports whether a chain is of the fence's own table, which is left out:
// doorward knows it better.
func ownChain(c *ruleset.Chain) bool { return c.Family == "inet" && c.Table == ownTable }

// fates returns what others' rules do with packets to the ports that strangers must
// reach; nothing if there are no such rules.
func fates(rules *ruleset.Ruleset, c *config.Config) []Finding {
	var deciding []string
	for _, ch := range rules.Chains {
		if slices.Contains([]string{"ingress", "prerouting", "input"}, ch.Hook) && ch.Family != "bridge" {
			deciding = append(deciding, ch.String())
		}
	}
	switch {
	case len(deciding) == 0:
		return nil
	case len(c.Doors) == 0:
		return []Finding{{Note, "firewall", fmt.Sprintf("other firewalls filter incoming traffic (%s): what they do with knocks can"+
			" be said once there are doors", strings.Join(deciding, "; ")), ""}}
	}
	j, finding := fromStrangers(rules)
	if j == nil {
		return []Finding{finding}
	}
	return j.fates(c.WayIn())
}

// fromStrangers returns a judge of the packets of strangers, by all ways on which they
// may come; nil if it cannot, and then the finding says why.
func fromStrangers(rules *ruleset.Ruleset) (*judge, Finding) {
	own, err := ownAddresses()
	if err != nil {
		return nil, Finding{Note, "firewall", fmt.Sprintf("this machine's addresses cannot be read: %v", err), ""}
	}
	ways, err := arrivals(own)
	if err != nil {
		return nil, Finding{Note, "firewall", err.Error(), ""}
	}
	return &judge{rules: rules, own: own, ways: ways, from: strangers, who: "strangers", other: 1}, Finding{}
}

// fates returns what becomes of packets to ports.
func (j *judge) fates(ports []port.Range) []Finding {
	j.avoid(ports)
	var all []fate
	for _, r := range ports {
		for _, ipv6 := range []bool{false, true} {
			all = append(all, j.ports(r, ipv6)...)
		}
	}
	return j.tell(all)
}

// avoid chooses a port that is none of these.
func (j *judge) avoid(ports []port.Range) {
	for slices.ContainsFunc(ports, func(r port.Range) bool { return r.First <= j.other && j.other <= r.Last }) {
		j.other++
	}
}

// ports judges a range, in parts if not all of it fares alike.
func (j *judge) ports(r port.Range, ipv6 bool) (all []fate) {
	f, there, split := j.one(r, ipv6)
	if !there {
		return nil
	}
	if !split || r.First == r.Last {
		return []fate{f}
	}
	middle := r.First + (r.Last-r.First)/2
	all = append(j.ports(port.Range{Proto: r.Proto, First: r.First, Last: middle}, ipv6),
		j.ports(port.Range{Proto: r.Proto, First: middle + 1, Last: r.Last}, ipv6)...)
	// What fares alike after all is one again.
	joined := all[:0]
	for _, f := range all {
		if n := len(joined); n > 0 && joined[n-1].verdict == f.verdict && joined[n-1].at == f.at {
			joined[n-1].ports.Last = f.ports.Last
			continue
		}
		joined = append(joined, f)
	}
	return joined
}

// one judges a range as a whole. there reports whether such packets come at all, and
// are for this machine; split, whether its ports fare differently.
func (j *judge) one(r port.Range, ipv6 bool) (f fate, there, split bool) {
	f = fate{verdict: OK, ports: r, ipv6: ipv6}
	passes, drops := 0, 0
	for _, way := range j.ways {
		if way.ipv6 != ipv6 {
			continue
		}
		for _, p := range j.packets(r, way) {
			a := j.rules.Judge(p)
			switch {
			case !a.Certain():
				split = split || slices.ContainsFunc(a.Doubts, func(p ruleset.Place) bool { return p.Why == ruleset.Port })
				f.verdict, f.at, f.way, f.chains = Warning, first(a.Doubts, a.DropAt), way, a.Chains
			case a.Drops:
				drops++
				if f.verdict != Warning {
					f.verdict, f.at, f.way, f.chains = Problem, first(a.DropAt), way, a.Chains
				}
			case a.Away:
				continue
			default:
				passes++
			}
			there = true
		}
	}
	if f.verdict != Problem {
		return f, there, split
	}
	if passes > 0 {
		f.verdict, f.at.Why = Warning, "source address, the destination address or the interface"
	} else if by, ok := j.meant(r, f.way); ok && len(j.from) > 1 {
		f.verdict, f.at = Warning, by
	}
	return f, there, split
}

// first returns the first place of several lists.
func first(lists ...[]ruleset.Place) ruleset.Place {
	for _, l := range lists {
		if len(l) > 0 {
			return l[0]
		}
	}
	return ruleset.Place{}
}

// meant returns the rule that lets some sources through to just these ports, if there
// is one: somebody may want that. A rule that lets a source through to all ports is
// about something else.
func (j *judge) meant(r port.Range, way arrival) (by ruleset.Place, ok bool) {
	a := j.rules.Judge(j.packet(r, way))
	other := j.rules.Judge(j.packet(port.Range{Proto: r.Proto, First: j.other, Last: j.other}, way))
	return first(a.Doubts), a.Passes && !other.Passes
}

// packet returns a packet from any source to any address of this machine.
func (j *judge) packet(r port.Range, way arrival) ruleset.Packet {
	return ruleset.Packet{IPv6: way.ipv6, Ports: r, Own: j.own, Interface: way.name, Index: way.index, Routed: way.name != ""}
}

// packets returns those from all sources that are judged.
func (j *judge) packets(r port.Range, way arrival) (all []ruleset.Packet) {
	here := way.here
	if len(here) == 0 {
		here = []netip.Addr{{}}
	}
	for _, from := range j.from {
		if from.Is6() != way.ipv6 {
			continue
		}
		for _, to := range here {
			p := j.packet(r, way)
			p.Source, p.Destination = from, to
			all = append(all, p)
		}
	}
	return all
}

// group are fates that are decided at one place, over one or both of IPv4 and
// IPv6.
type group struct {
	fate
	ports []port.Range
	over  string // " over IPv4", or "" for all that is judged
}

// groups puts fates together that can be reported as one.
func groups(all []fate, families int) []group {
	const over4, over6 = " over IPv4", " over IPv6"
	var found []group
	for _, f := range all {
		over := map[bool]string{false: over4, true: over6}[f.ipv6]
		i := slices.IndexFunc(all, func(o fate) bool { return o.same(f) && o.ports == f.ports && o.ipv6 != f.ipv6 })
		if i >= 0 || families == 1 {
			over = ""
		}
		if i >= 0 && f.ipv6 {
			continue // reported with the other
		}
		i = slices.IndexFunc(found, func(g group) bool { return g.same(f) && g.over == over })
		if i < 0 {
			found = append(found, group{fate: f, over: over})
			i = len(found) - 1
		}
		found[i].ports = append(found[i].ports, f.ports)
	}
	return found
}

// same reports whether two fates are the same, and decided at the same place.
func (f fate) same(o fate) bool { return f.verdict == o.verdict && f.at == o.at }

// tell turns fates into findings: one for each place.
func (j *judge) tell(all []fate) []Finding {
	families := map[bool]bool{}
	for _, w := range j.ways {
		families[w.ipv6] = true
	}
	var found []Finding
	for _, g := range groups(all, len(families)) {
		found = append(found, g.finding(j.rules, j.who))
	}
	slices.SortStableFunc(found, func(a, b Finding) int { return cmp.Compare(rank(b.Verdict), rank(a.Verdict)) })
	return found
}

func rank(v Verdict) int { return slices.Index([]Verdict{OK, Note, Warning, Problem}, v) }

// finding returns the finding about a group; who is whose packets they are.
func (g group) finding(rules *ruleset.Ruleset, who string) Finding {
	send := "send"
	if who != "strangers" {
		send = "sends"
	}
	ports := portList(g.ports) + g.over
	if g.verdict == OK {
		return Finding{OK, "firewall", fmt.Sprintf("other rules let %s through", ports), ""}
	}
	by := manager(g.at.Base, rules)
	where := g.at.Base.String()
	if by == "ufw" || by == "firewalld" {
		where = fmt.Sprintf("%s (%s)", by, where)
	}
	if g.verdict == Problem {
		return Finding{Problem, where, fmt.Sprintf("drops what %s %s to %s (%s): knocks and visitors do not arrive",
			who, send, ports, rule(g.at)), letThrough(by, g.at.Base, zone(g.chains), g.ports)}
	}
	at := g.at.Chain
	return Finding{Warning, where, fmt.Sprintf("may drop what %s %s to %s: it depends on the %s (%s)", who, send, ports, g.at.Why,
		rule(g.at)), fmt.Sprintf("nft -a list chain %s %s %s\nmake sure that it lets them through", at.Family, at.Table, at.Name)}
}

// rule returns which rule decides, in words.
func rule(at ruleset.Place) string {
	if at.Handle == 0 {
		return fmt.Sprintf("policy of chain %s", at.Chain.Name)
	}
	return fmt.Sprintf("rule with handle %d of chain %s", at.Handle, at.Chain.Name)
}
