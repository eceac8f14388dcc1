// Package port has the plain types that name what a door guards and what a
// knock touches: a transport protocol, one port of it, a range of ports. It
// imports no other package of doorward, so that the pure cores may use it.
package port

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Proto is a transport protocol, by its IANA protocol number.
type Proto uint8

// The protocols that have ports and that doorward guards.
const (
	TCP Proto = 6
	UDP Proto = 17
)

// String returns "tcp" or "udp", as the configuration spells it.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return "proto-" + strconv.Itoa(int(p))
}

// Port is one port of one protocol.
type Port struct {
	Proto  Proto
	Number uint16 // 1 to 65535
}

// String returns "22/tcp".
func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Number, p.Proto) }

// Range is one or more consecutive ports of one protocol: First to Last, both
// included, 1 ≤ First ≤ Last.
type Range struct {
	Proto       Proto
	First, Last uint16
}

// String returns "22/tcp" or "60000-61000/udp", which ParseRange reads back.
func (r Range) String() string {
	if r.First == r.Last {
		return Port{r.Proto, r.First}.String()
	}
	return fmt.Sprintf("%d-%d/%s", r.First, r.Last, r.Proto)
}

// Contains reports whether p is one of the range's ports.
func (r Range) Contains(p Port) bool {
	return r.Proto == p.Proto && r.First <= p.Number && p.Number <= r.Last
}

// Within reports whether p is a port of one of ranges.
func Within(ranges []Range, p Port) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool { return r.Contains(p) })
}

// Has reports whether one of ranges is of proto.
func Has(ranges []Range, proto Proto) bool {
	return slices.ContainsFunc(ranges, func(r Range) bool { return r.Proto == proto })
}

// Overlaps reports whether the two ranges share a port.
func (r Range) Overlaps(o Range) bool {
	return r.Proto == o.Proto && r.First <= o.Last && o.First <= r.Last
}

// ParseRange reads "22/tcp" or "60000-61000/udp". The protocol must be there:
// a guarded port whose protocol was guessed is a port left open.
func ParseRange(s string) (Range, error) {
	ports, proto, ok := strings.Cut(s, "/")
	if !ok {
		return Range{}, fmt.Errorf("%q has no protocol: write \"%s/tcp\" or \"%s/udp\"", s, s, s)
	}
	var r Range
	switch proto {
	case "tcp":
		r.Proto = TCP
	case "udp":
		r.Proto = UDP
	default:
		return Range{}, fmt.Errorf("%q: protocol %q is not known: allowed are tcp and udp", s, proto)
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	var err error
	if r.First, err = parseNumber(first); err != nil {
		return Range{}, fmt.Errorf("%q: %w", s, err)
	}
	if r.Last, err = parseNumber(last); err != nil {
		return Range{}, fmt.Errorf("%q: %w", s, err)
	}
	if r.First > r.Last {
		return Range{}, fmt.Errorf("%q: the range runs backwards: write \"%d-%d/%s\"", s, r.Last, r.First, proto)
	}
	return r, nil
}

// parseNumber reads a port number, 1 to 65535, in plain decimal digits.
func parseNumber(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("port %q: allowed are 1 to 65535", s)
	}
	return uint16(n), nil
}
