//go:build linux

package fence

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/doorward/doorward/internal/port"
	"golang.org/x/sys/unix"
)

// Names inside the table. Everything that belongs to a door begins with
// "door-" and its name, and door names have no dot, so that names are read back
// without doubt; all of them are words that nft reads again as it printed them.
const (
	tableName   = "doorward"
	baseChain   = "prerouting"
	midChain    = "midstream"
	doorPrefix  = "door-"
	alwaysInfix = ".always."
	standing    = "standing"
	doorsInfix  = "doors."
)

// layoutVersion stands as comment on the table. It changes whenever grants are
// kept in another way; a table of another version is replaced whole.
const layoutVersion = "doorward layout 1"

// How often the kernel frees timed-out and spent grants, in milliseconds. They
// stop counting at once, without it; each look walks the whole set. A source of
// which more than 16 lie dead is refused another (EBUSY: they are one chain of
// the hash), so what is spent is freed soon; and there it is never many.
const (
	gcInterval      = 30_000
	gcIntervalSpent = 1_000
)

// Types of keys as nft numbers them (its include/datatype.h), for its listings.
const (
	typeIPv4        = 7
	typeIPv6        = 8
	typeInetService = 13
	typeBits        = 6 // of each type in a concatenation
)

// setConcat is NFT_SET_CONCAT.
const setConcat = 0x80

// family is the address family of sources: its number, and where its header
// has the addresses.
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
func (f family) is() []expr {
	return []expr{meta(unix.NFT_META_NFPROTO), nfcmp(unix.NFT_CMP_EQ, f.nfproto)}
}

// loadSource puts the packet's source address into the first register.
func (f family) loadSource() expr {
	return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.source, uint32(f.bits/8), unix.NFT_REG_1)
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

// parseWidth reads what width.set wrote.
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

// layout is the table for doors, with sets for the given widths of grants
// besides those for single addresses, which every door has.
func layout(doors []Door, widths map[width]bool, flags uint32) *table {
	t := &table{flags: flags, comment: layoutVersion}
	t.addBase()
	for _, d := range doors {
		t.addDoor(d, widths)
	}
	t.addPorts(doors)
	slices.Sort(t.counters)
	return t
}

// addBase makes what all packets pass, and the standing sessions.
func (t *table) addBase() {
	proto := func(p byte) []expr {
		return append(isProto(p), destinationPort(), vmap(doorsInfix+port.Proto(p).String()))
	}
	unicast := nfcmp(unix.NFT_CMP_EQ, native(rtnUnicast)...)
	t.chains = append(t.chains, chain{
		name: baseChain,
		base: hook{"filter", unix.NF_INET_PRE_ROUTING, -150, nfAccept},
		rules: []rule{
			newRule("opened before", hasBit(unix.NFT_CT_STATE, ctEstablished), []expr{accept()}),
			newRule("this host itself",
				[]expr{meta(unix.NFT_META_IIF), nfcmp(unix.NFT_CMP_EQ, native(loopback)...), accept()}),
			newRule("to other hosts", []expr{
				fibType(unix.NFTA_FIB_F_DADDR), unicast,
				fibType(unix.NFTA_FIB_F_DADDR | unix.NFTA_FIB_F_IIF), unicast, accept()}),
			newRule("not a new connection", isSyn(unix.NFT_CMP_NEQ),
				[]expr{verdict(unix.NFT_JUMP, midChain)}),
			newRule("doors over TCP", proto(unix.IPPROTO_TCP)),
			newRule("doors over UDP", proto(unix.IPPROTO_UDP)),
		}})
	mid := chain{name: midChain}
	for _, f := range families() {
		name := standing + "." + f.name
		addr := uint32(f.bits / 8)
		t.sets = append(t.sets, set{
			name: name,
			def: setDef{flags: setConcat, keyLen: 2*addr + 8,
				keyType: concat(f.keyType, typeInetService, f.keyType, typeInetService)},
			lengths: []uint32{addr, 2, addr, 2},
		})
		// The fields of the key lie in consecutive 32-bit registers.
		r := uint32(unix.NFT_REG32_00)
		key := []expr{
			payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.source, addr, r),
			payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2, r+addr/4),
			payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.dst, addr, r+addr/4+1),
			payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, r+addr/2+1),
		}
		mid.rules = append(mid.rules, newRule("standing sessions, IP"+f.name,
			f.is(), isProto(unix.IPPROTO_TCP), key, []expr{in(name), accept()}))
	}
	mid.rules = append(mid.rules, newRule("not tracked, by the operator's wish",
		hasBit(unix.NFT_CT_STATE, ctUntracked), []expr{accept()}))
	t.chains = append(t.chains, mid)
}

func concat(types ...uint32) uint32 {
	var t uint32
	for _, v := range types {
		t = t<<typeBits | v
	}
	return t
}

// addDoor makes the chain that a packet to the door ends in.
func (t *table) addDoor(d Door, widths map[width]bool) {
	name := doorPrefix + d.Name
	c := chain{name: name}
	for _, f := range families() {
		spans := merge(d.Always, f)
		if len(spans) == 0 {
			continue
		}
		always := name + alwaysInfix + f.name
		t.sets = append(t.sets, set{
			name:  always,
			def:   setDef{flags: unix.NFT_SET_INTERVAL, keyType: f.keyType, keyLen: uint32(f.bits / 8)},
			elems: intervals(spans),
		})
		c.rules = append(c.rules, newRule("always, IP"+f.name, f.is(),
			[]expr{f.loadSource(), in(always), accept()}))
	}
	if d.SingleUse {
		// The first packet spends the grant and, once it has got through, is a
		// confirmed connection, of which more may come before any answer does.
		c.rules = append(c.rules, newRule("let in before",
			hasBit(unix.NFT_CT_STATUS, ctConfirmed), []expr{accept()}))
	}
	for _, f := range families() {
		for bits := f.bits; bits >= 0; bits-- {
			w := width{d.Name, f.name, bits}
			if bits != f.bits && !widths[w] {
				continue
			}
			t.sets = append(t.sets, grantSet(w, f, d.SingleUse))
			c.rules = append(c.rules, grantRule(w, f, d.SingleUse))
		}
	}
	t.counters = append(t.counters, name)
	c.rules = append(c.rules, refuse(name, d.Reject)...)
	t.chains = append(t.chains, c)
}

func grantSet(w width, f family, singleUse bool) set {
	s := set{name: w.set(), def: setDef{
		flags:      unix.NFT_SET_TIMEOUT,
		keyType:    f.keyType,
		keyLen:     uint32(f.bits / 8),
		gcInterval: gcInterval,
	}}
	if singleUse {
		s.def.flags |= unix.NFT_SET_EVAL
		s.def.gcInterval = gcIntervalSpent
		s.def.once = true
	}
	return s
}

func grantRule(w width, f family, singleUse bool) rule {
	match := append(f.is(), f.loadSource())
	if w.bits != f.bits {
		match = append(match, and(mask(w.bits, f.bits)...))
	}
	match = append(match, in(w.set()))
	if singleUse {
		// In the moment in which a transaction takes effect, packets see its
		// grants and cannot spend them yet: who comes then comes again. Of
		// packets that come at the same time one alone finds the grant (setDef).
		match = append(match, spend(w.set()), notIn(w.set()))
	}
	return newRule(fmt.Sprintf("grants, IP%s/%d", w.family, w.bits), match, []expr{accept()})
}

// refuse counts and refuses. Only what asks for a new connection is answered
// with a reset: one sent for a stray segment would end a live session.
func refuse(counter string, rejects bool) []rule {
	if !rejects {
		return []rule{newRule("strangers", []expr{count(counter), drop()})}
	}
	return []rule{
		newRule("strangers", []expr{count(counter)}),
		newRule("strangers over TCP", isSyn(unix.NFT_CMP_EQ), []expr{reset()}),
		newRule("strangers over UDP", isProto(unix.IPPROTO_UDP), []expr{unreachable()}),
		newRule("strangers without a connection", []expr{drop()}),
	}
}

// addPorts makes the two maps from ports to the doors' chains.
func (t *table) addPorts(doors []Door) {
	for _, p := range []port.Proto{port.TCP, port.UDP} {
		s := set{name: doorsInfix + p.String(), def: setDef{
			flags:    unix.NFT_SET_INTERVAL | unix.NFT_SET_MAP,
			keyType:  typeInetService,
			keyLen:   2,
			dataType: unix.NFT_DATA_VERDICT,
		}}
		for _, d := range doors {
			for _, r := range d.Ports {
				if r.Proto != p {
					continue
				}
				s.elems = append(s.elems, element{key: portKey(r.First), chain: doorPrefix + d.Name})
				if r.Last < 65535 {
					s.elems = append(s.elems, element{key: portKey(r.Last + 1), end: true})
				}
			}
		}
		sortElements(s.elems)
		t.sets = append(t.sets, s)
	}
}

func newRule(what string, parts ...[]expr) rule { return rule{what, string(join(parts...))} }

func portKey(p uint16) string { return string(binary.BigEndian.AppendUint16(nil, p)) }

func mask(bits, of int) []byte {
	m := make([]byte, of/8)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// span is a run of addresses of one family, both ends included.
type span struct{ first, last netip.Addr }

// merge turns the prefixes of one family into spans that neither overlap nor
// touch: an interval set takes no others.
func merge(prefixes []netip.Prefix, f family) []span {
	var spans []span
	for _, p := range prefixes {
		if p = canonical(p); familyOf(p.Addr()).name == f.name {
			spans = append(spans, span{p.Addr(), lastOf(p)})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return a.first.Compare(b.first) })
	var out []span
	for _, s := range spans {
		if n := len(out); n > 0 {
			if next := out[n-1].last.Next(); !next.IsValid() || s.first.Compare(next) <= 0 {
				if s.last.Compare(out[n-1].last) > 0 {
					out[n-1].last = s.last
				}
				continue
			}
		}
		out = append(out, s)
	}
	return out
}

func intervals(spans []span) []element {
	var e []element
	for _, s := range spans {
		e = append(e, element{key: string(s.first.AsSlice())})
		if next := s.last.Next(); next.IsValid() {
			e = append(e, element{key: string(next.AsSlice()), end: true})
		}
	}
	sortElements(e)
	return e
}

func sortElements(e []element) {
	slices.SortFunc(e, func(a, b element) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.chain, b.chain))
	})
}

// canonical masks a prefix and makes an IPv4 one of an IPv4-mapped one.
func canonical(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// checkDoors returns doors in the order of their names, or every reason why
// they cannot be guarded.
func checkDoors(doors []Door) ([]Door, error) {
	doors = slices.SortedFunc(slices.Values(doors), func(a, b Door) int { return cmp.Compare(a.Name, b.Name) })
	name := regexp.MustCompile(`^[a-z0-9_-]{1,24}$`)
	var errs []error
	taken := map[port.Range]string{}
	for i, d := range doors {
		if !name.MatchString(d.Name) {
			errs = append(errs, fmt.Errorf("door %q: a name has 1 to 24 of the characters a-z, 0-9, - and _", d.Name))
		}
		if i > 0 && doors[i-1].Name == d.Name {
			errs = append(errs, fmt.Errorf("door %q is there twice", d.Name))
		}
		for _, r := range d.Ports {
			if r.First == 0 || r.First > r.Last || r.Proto != port.TCP && r.Proto != port.UDP {
				errs = append(errs, fmt.Errorf("door %q: ports %q: allowed are 1 to 65535 of tcp or udp", d.Name, r))
			}
			for o := range maps.Keys(taken) {
				if r.Overlaps(o) {
					errs = append(errs, fmt.Errorf("door %q: ports %q are already guarded by door %q as %q", d.Name, r, taken[o], o))
				}
			}
			taken[r] = d.Name
		}
		for _, p := range d.Always {
			if !p.IsValid() {
				errs = append(errs, fmt.Errorf("door %q: always: a prefix is not valid", d.Name))
			}
		}
	}
	return doors, errors.Join(errs...)
}
