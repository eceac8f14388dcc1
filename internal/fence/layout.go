//go:build linux

package fence

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/port"
	"golang.org/x/sys/unix"
)

// Names inside the table. Everything that belongs to a door begins with "door-" and its
// name, and door names have no dot, so that names can be parsed unambiguously; nft can
// read all of them back as it prints them.
const (
	tableName   = "doorward"
	doorPrefix  = "door-"
	alwaysInfix = ".always."
	usedInfix   = ".used." // who has used a door of many ports
	turnInfix   = ".turn." // whose turn it is to spend a grant of single use

	handshakeTail = ".handshake" // the chain that has handshakes spend grants of single use
)

// priority is after connection tracking (-200) and before destination NAT (-100).
const priority = -150

// layoutVersion is the comment of the table. It changes whenever grants are stored in
// another way; a table of another version is replaced as a whole.
const layoutVersion = "doorward layout 3"

// turnFor is how long it is remembered whose turn it was.
const turnFor = 10 * time.Second

// How often the kernel frees timed-out and spent grants, in milliseconds. They stop
// counting at once, without it; each collection walks the whole set. A source with more
// than 16 dead elements is refused another (EBUSY: they are one chain of the hash), so
// spent ones are freed soon; there are never many.
const (
	gcInterval      = 30_000
	gcIntervalSpent = 1_000
)

// Types of keys, by nft's numbers (include/datatype.h), for its listings.
const (
	typeIPv4        = 7
	typeIPv6        = 8
	typeInetService = 13
	typeClassID     = 23
	typeBits        = 6 // of each type in a concatenation
)

// setConcat is NFT_SET_CONCAT.
const setConcat = 0x80

// family is the address family of sources: its number, and the offsets of the addresses
// in its header.
type family struct {
	name        string
	nfproto     byte
	bits        int
	keyType     uint32
	source, dst uint32 // offsets in the network header
}

func ipv4() family {
	return family{"v4", unix.NFPROTO_IPV4, 32, typeIPv4, 12, 16}
}

func ipv6() family {
	return family{"v6", unix.NFPROTO_IPV6, 128, typeIPv6, 8, 24}
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4()
	}
	return ipv6()
}

func families() []family { return []family{ipv4(), ipv6()} }

// is matches packets of the family.
func (f family) is() []nft.Expr {
	return []nft.Expr{nft.Meta(unix.NFT_META_NFPROTO), nft.Cmp(unix.NFT_CMP_EQ, f.nfproto)}
}

// loadSource loads the packet's source address into the first register.
func (f family) loadSource() nft.Expr {
	return nft.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.source, uint32(f.bits/8), unix.NFT_REG_1)
}

// width is where grants of one prefix length for one door live: in one hash
// set, whose elements are masked addresses.
type width struct {
	door   string
	family string
	bits   int
}

func (w width) set() string {
	return doorPrefix + w.door + "." + w.family + "." + strconv.Itoa(w.bits)
}

// what says what the rules of the width are for.
func (w width) what() string { return fmt.Sprintf("grants, IP%s/%d", w.family, w.bits) }

// parseWidth is the inverse of width.set.
func parseWidth(set string) (width, bool) {
	parts := strings.Split(strings.TrimPrefix(set, doorPrefix), ".")
	if len(parts) != 3 {
		return width{}, false
	}
	bits, err := strconv.Atoi(parts[2])
	w := width{parts[0], parts[1], bits}
	return w, err == nil && w.set() == set && w.valid()
}

func (w width) valid() bool {
	return slices.ContainsFunc(families(), func(f family) bool {
		return f.name == w.family && 0 <= w.bits && w.bits <= f.bits
	})
}

// manner is the part of a table that depends on the kernel.
type manner struct {
	flags uint32
	late  bool // see session
}

// layout is the table for doors, with sets for the given widths of grants
// besides those for single addresses, which every door has.
func layout(doors []Door, widths map[width]bool, m manner) *nft.Table {
	parts := map[string]*nft.Table{}
	for _, d := range doors {
		parts[d.Name] = layoutDoor(d, widths)
	}
	return whole(layoutShared(doors, m), parts)
}

// layoutShared is what all doors share; it knows only their ports.
func layoutShared(doors []Door, m manner) *nft.Table {
	t := &nft.Table{Flags: m.flags, Comment: layoutVersion}
	addBase(t, m.late)
	addPorts(t, doors)
	return t
}

// layoutDoor is what belongs to one door alone. It refers to nothing of other
// doors.
func layoutDoor(d Door, widths map[width]bool) *nft.Table {
	t := &nft.Table{}
	addDoor(t, d, widths)
	return t
}

// doorOf returns the door that the thing of that name belongs to, "" for what all share.
func doorOf(name string) string {
	rest, ok := strings.CutPrefix(name, doorPrefix)
	if !ok {
		return ""
	}
	door, _, _ := strings.Cut(rest, ".")
	return door
}

// whole joins what all doors share with their parts.
func whole(shared *nft.Table, parts map[string]*nft.Table) *nft.Table {
	t := *shared
	t.Counters, t.Sets, t.Chains = slices.Clone(t.Counters), slices.Clone(t.Sets), slices.Clone(t.Chains)
	for _, door := range slices.Sorted(maps.Keys(parts)) {
		p := parts[door]
		t.Counters = append(t.Counters, p.Counters...)
		t.Sets = append(t.Sets, p.Sets...)
		t.Chains = append(t.Chains, p.Chains...)
	}
	slices.Sort(t.Counters)
	return &t
}

// apart is the opposite of whole.
func apart(t *nft.Table) (shared *nft.Table, parts map[string]*nft.Table) {
	shared = &nft.Table{Flags: t.Flags, Owner: t.Owner, Comment: t.Comment}
	parts = map[string]*nft.Table{"": shared}
	of := func(name string) *nft.Table {
		door := doorOf(name)
		if parts[door] == nil {
			parts[door] = &nft.Table{}
		}
		return parts[door]
	}
	for _, n := range t.Counters {
		p := of(n)
		p.Counters = append(p.Counters, n)
	}
	for _, s := range t.Sets {
		p := of(s.Name)
		p.Sets = append(p.Sets, s)
	}
	for _, n := range t.Chains {
		p := of(n.Name)
		p.Chains = append(p.Chains, n)
	}
	delete(parts, "")
	return shared, parts
}

func concat(types ...uint32) uint32 {
	var t uint32
	for _, v := range types {
		t = t<<typeBits | v
	}
	return t
}

// addDoor adds the chain that judges what arrives at the door: it is left for another
// chain by what has a grant. What returns is refused. What completes a handshake is judged
// before by another chain where it spends the grant.
func addDoor(t *nft.Table, d Door, widths map[width]bool) {
	name := doorPrefix + d.Name
	n, ends := nft.Chain{Name: name}, nft.Chain{Name: name + handshakeTail}
	switch {
	case d.hasManyPorts() && d.handshakesSpend():
		addUsed(t, name, &ends)
	case d.hasManyPorts():
		addUsed(t, name, &n)
	}
	for _, f := range families() {
		elems := intervals(sources(d.Always, f))
		if len(elems) == 0 {
			continue
		}
		always := name + alwaysInfix + f.name
		t.Sets = append(t.Sets, nft.Set{
			Name:  always,
			Def:   nft.SetDef{Flags: unix.NFT_SET_INTERVAL, KeyType: f.keyType, KeyLen: uint32(f.bits / 8)},
			Elems: elems,
		})
		match := append(f.is(), f.loadSource(), nft.In(always))
		n.Rules = append(n.Rules, newRule("always, IP"+f.name, match, goTo(grantedChain)))
		ends.Rules = append(ends.Rules, newRule("always, IP"+f.name, match, goTo(enteredChain)))
	}
	for _, f := range families() {
		if d.SingleUse {
			t.Sets = append(t.Sets, turnSet(name+turnInfix+f.name, f))
		}
		for bits := f.bits; bits >= 0; bits-- {
			w := width{d.Name, f.name, bits}
			if bits != f.bits && !widths[w] {
				continue
			}
			t.Sets = append(t.Sets, grantSet(w, f, d.SingleUse))
			if d.SingleUse {
				n.Rules = append(n.Rules, d.onceRules(w, f)...)
				ends.Rules = append(ends.Rules, newRule(w.what(), hasGrant(w, f), spent(w), goTo(enteredChain)))
			} else {
				n.Rules = append(n.Rules, newRule(w.what(), hasGrant(w, f), goTo(grantedChain)))
			}
		}
	}
	t.Counters = append(t.Counters, name)
	n.Rules = append(n.Rules, newRule("strangers", []nft.Expr{nft.Count(name)}))
	t.Chains = append(t.Chains, n)
	if d.handshakesSpend() {
		t.Chains = append(t.Chains, ends)
	}
}

// handshakesSpend says whether what completes a handshake at the door spends a grant.
func (d Door) handshakesSpend() bool { return d.SingleUse && d.guards(port.TCP) }

// guards says whether the door has ports of a protocol.
func (d Door) guards(p port.Proto) bool {
	return slices.ContainsFunc(d.Ports, func(r port.Range) bool { return r.Proto == p })
}

func grantSet(w width, f family, singleUse bool) nft.Set {
	s := nft.Set{Name: w.set(), Def: nft.SetDef{
		Flags:      unix.NFT_SET_TIMEOUT,
		KeyType:    f.keyType,
		KeyLen:     uint32(f.bits / 8),
		GCInterval: gcInterval,
	}}
	if singleUse {
		s.Def.Flags |= unix.NFT_SET_EVAL
		s.Def.GCInterval = gcIntervalSpent
	}
	return s
}

// turnSet has an element for each grant that is being spent.
func turnSet(name string, f family) nft.Set {
	return nft.Set{Name: name, Def: nft.SetDef{
		Flags:      unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL,
		KeyType:    f.keyType,
		KeyLen:     uint32(f.bits / 8),
		GCInterval: gcInterval,
		Once:       true,
	}}
}

// hasGrant matches packets of sources that have a grant of the width.
func hasGrant(w width, f family) []nft.Expr {
	match := append(f.is(), f.loadSource())
	if w.bits != f.bits {
		match = append(match, nft.And(mask(w.bits, f.bits)...))
	}
	return append(match, nft.In(w.set()))
}

// spent continues after hasGrant, with the one packet that spends the grant. Two
// processors may find the grant before either removes it; only one gets the turn. In the
// moment in which a transaction takes effect, packets see its grants and cannot spend
// them yet: a packet that arrives then is dropped, and comes again.
func spent(w width) []nft.Expr {
	return []nft.Expr{nft.Add(doorPrefix+w.door+turnInfix+w.family, turnFor), nft.Delete(w.set()), nft.NotIn(w.set())}
}

// onceRules pass requests under a single-use grant. A request spends nothing, except
// where there is no handshake. A stray segment does not concern a single-use grant.
func (d Door) onceRules(w width, f family) (rules []nft.Rule) {
	if d.guards(port.TCP) {
		rules = append(rules, newRule(w.what()+", to ask", isSyn(unix.NFT_CMP_EQ), hasGrant(w, f), goTo(grantedChain)))
	}
	if d.guards(port.UDP) {
		rules = append(rules, newRule(w.what()+", for a flow", isProto(unix.IPPROTO_UDP), hasGrant(w, f), spent(w), goTo(grantedChain)))
	}
	return rules
}

func goTo(chain string) []nft.Expr { return []nft.Expr{nft.Verdict(unix.NFT_GOTO, chain)} }

func newRule(what string, parts ...[]nft.Expr) nft.Rule {
	return nft.Rule{What: what, Exprs: string(nft.Join(parts...))}
}

func mask(bits, of int) []byte {
	m := make([]byte, of/8)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}
