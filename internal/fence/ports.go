//go:build linux

package fence

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/doorward/doorward/internal/port"
	"golang.org/x/sys/unix"
)

// addPorts makes the maps from ports to the doors' chains, and the sets of ports.
func (t *table) addPorts(doors []Door) {
	verdicts := setDef{flags: unix.NFT_SET_INTERVAL | unix.NFT_SET_MAP,
		keyType: typeInetService, keyLen: 2, dataType: unix.NFT_DATA_VERDICT}
	plain := setDef{flags: unix.NFT_SET_INTERVAL, keyType: typeInetService, keyLen: 2}
	asks := func(d Door) string { return doorPrefix + d.Name }
	ends := func(d Door) string { return doorPrefix + d.Name + handshakeTail }
	t.sets = append(t.sets,
		portSet(doorsInfix+"tcp", verdicts, doors, port.TCP, asks),
		portSet(doorsInfix+"udp", verdicts, doors, port.UDP, asks),
		portSet(handshakes, verdicts, doors, port.TCP, ends))
	guarded, heard := set{name: guardedSet, def: plain}, set{name: listenerSet, def: plain}
	var listen []port.Range
	var ranges []port.Range
	for _, d := range doors {
		for _, r := range d.Ports {
			if r.Proto == port.TCP {
				ranges = append(ranges, r)
			}
		}
		for _, p := range d.Listen {
			listen = append(listen, port.Range{Proto: port.TCP, First: p, Last: p})
		}
	}
	guarded.elems, heard.elems = portIntervals(ranges), portIntervals(listen)
	t.sets = append(t.sets, guarded, heard)
}

// portSet maps the ports of one protocol to chains.
func portSet(name string, def setDef, doors []Door, p port.Proto, to func(Door) string) set {
	s := set{name: name, def: def}
	for _, d := range doors {
		for _, r := range d.Ports {
			if r.Proto != p {
				continue
			}
			s.elems = append(s.elems, element{key: portKey(r.First), chain: to(d)})
			if r.Last < 65535 {
				s.elems = append(s.elems, element{key: portKey(r.Last + 1), end: true})
			}
		}
	}
	sortElements(s.elems)
	return s
}

// portIntervals merges ranges that overlap or touch: an interval set takes no
// others.
func portIntervals(ranges []port.Range) []element {
	slices.SortFunc(ranges, func(a, b port.Range) int { return cmp.Compare(a.First, b.First) })
	var merged []port.Range
	for _, r := range ranges {
		if n := len(merged); n > 0 && int(r.First) <= int(merged[n-1].Last)+1 {
			merged[n-1].Last = max(merged[n-1].Last, r.Last)
			continue
		}
		merged = append(merged, r)
	}
	var e []element
	for _, r := range merged {
		e = append(e, element{key: portKey(r.First)})
		if r.Last < 65535 {
			e = append(e, element{key: portKey(r.Last + 1), end: true})
		}
	}
	return e
}

func portKey(p uint16) string { return string(binary.BigEndian.AppendUint16(nil, p)) }
