package port

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Local are the ports that the kernel assigns to sockets that ask for none: those
// of ip_local_port_range but not of ip_local_reserved_ports, for TCP and UDP,
// IPv4 and IPv6 alike (ip-sysctl.rst of the kernel).
type Local struct {
	First, Last uint16
	kept        []span // in order, apart from each other
}

// span is ports from first to last, both included.
type span struct{ first, last uint16 }

// ReadLocal reads the two files below the machine's root directory.
func ReadLocal(root fs.FS) (Local, error) {
	const dir = "proc/sys/net/ipv4/"
	ports, err := fs.ReadFile(root, dir+"ip_local_port_range")
	if err != nil {
		return Local{}, err // a kernel without IPv4
	}
	reserved, _ := fs.ReadFile(root, dir+"ip_local_reserved_ports") // without it nothing is reserved
	return ParseLocal(string(ports), string(reserved))
}

// ParseLocal reads the two files as the kernel writes them: "32768\t60999" and
// "1,2-4,10". None may be reserved.
func ParseLocal(portRange, reserved string) (Local, error) {
	var l Local
	f := strings.Fields(portRange)
	if len(f) != 2 {
		return l, fmt.Errorf("%q is no ip_local_port_range: want two numbers", portRange)
	}
	s, err := parseSpan(f[0] + "-" + f[1])
	if err != nil {
		return l, err
	}
	l.First, l.Last = s.first, s.last
	for text := range strings.SplitSeq(strings.TrimSpace(reserved), ",") {
		if text == "" {
			continue
		}
		s, err := parseSpan(text)
		if err != nil {
			return Local{}, err
		}
		l.kept = append(l.kept, s)
	}
	l.kept = joined(l.kept)
	return l, nil
}

// parseSpan reads "7" and "7-9".
func parseSpan(text string) (span, error) {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	a, err := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if err != nil || err2 != nil || a > b {
		return span{}, fmt.Errorf("%q is no port and no range of ports", text)
	}
	return span{uint16(a), uint16(b)}, nil
}

// joined puts spans in order and joins those that touch.
func joined(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return int(a.first) - int(b.first) })
	var all []span
	for _, s := range spans {
		if n := len(all) - 1; n >= 0 && int(s.first) <= int(all[n].last)+1 {
			all[n].last = max(all[n].last, s.last)
			continue
		}
		all = append(all, s)
	}
	return all
}

// Gives returns the parts of r that the kernel may assign, in their order.
func (l Local) Gives(r Range) []Range {
	var parts []Range
	at, last := int(max(r.First, l.First)), int(min(r.Last, l.Last))
	add := func(end int) {
		if at <= min(end, last) {
			parts = append(parts, Range{Proto: r.Proto, First: uint16(at), Last: uint16(min(end, last))})
		}
	}
	for _, k := range l.kept {
		add(int(k.first) - 1)
		at = max(at, int(k.last)+1)
	}
	add(last)
	return parts
}

// Reserving returns the value for ip_local_reserved_ports that reserves more ports, of
// whatever protocol, besides those that are reserved already.
func (l Local) Reserving(more []Range) string {
	all := slices.Clone(l.kept)
	for _, r := range more {
		all = append(all, span{r.First, r.Last})
	}
	var words []string
	for _, s := range joined(all) {
		word := strconv.Itoa(int(s.first))
		if s.last != s.first {
			word = fmt.Sprintf("%d-%d", s.first, s.last)
		}
		words = append(words, word)
	}
	return strings.Join(words, ",")
}
