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
func addPorts(t *Table, doors []Door) {
	verdicts := SetDef{flags: unix.NFT_SET_INTERVAL | unix.NFT_SET_MAP,
		keyType: typeInetService, keyLen: 2, dataType: unix.NFT_DATA_VERDICT}
	plain := SetDef{flags: unix.NFT_SET_INTERVAL, keyType: typeInetService, keyLen: 2}
	asks := func(d Door) string { return doorPrefix + d.Name }
	ends := func(d Door) string { return doorPrefix + d.Name + handshakeTail }
	t.sets = append(t.sets,
		portSet(doorsInfix+"tcp", verdicts, doors, port.TCP, asks),
		portSet(doorsInfix+"udp", verdicts, doors, port.UDP, asks),
		portSet(handshakes, verdicts, doors, port.TCP, ends))
	var guards, listens []port.Range
	for _, d := range doors {
		guards, listens = append(guards, d.Ports...), append(listens, d.Listen...)
	}
	of := func(name string, ranges []port.Range, p port.Proto) Set {
		return Set{name: name, def: plain, elems: portIntervals(ranges, p)}
	}
	t.sets = append(t.sets,
		of(guardedTCP, guards, port.TCP), of(guardedUDP, guards, port.UDP),
		of(listensTCP, listens, port.TCP), of(listensUDP, listens, port.UDP))
}

// portSet maps the ports of one protocol to chains.
func portSet(name string, def SetDef, doors []Door, p port.Proto, to func(Door) string) Set {
	s := Set{name: name, def: def}
	for _, d := range doors {
		for _, r := range d.Ports {
			if r.Proto != p {
				continue
			}
			s.elems = append(s.elems, Element{key: portKey(r.First), chain: to(d)})
			if r.Last < 65535 {
				s.elems = append(s.elems, Element{key: portKey(r.Last + 1), end: true})
			}
		}
	}
	sortElements(s.elems)
	return s
}

// portIntervals merges ranges of one protocol that overlap or touch: an interval
// set takes no others.
func portIntervals(ranges []port.Range, p port.Proto) []Element {
	ranges = slices.DeleteFunc(slices.Clone(ranges), func(r port.Range) bool { return r.Proto != p })
	slices.SortFunc(ranges, func(a, b port.Range) int { return cmp.Compare(a.First, b.First) })
	var merged []port.Range
	for _, r := range ranges {
		if n := len(merged); n > 0 && int(r.First) <= int(merged[n-1].Last)+1 {
			merged[n-1].Last = max(merged[n-1].Last, r.Last)
			continue
		}
		merged = append(merged, r)
	}
	var e []Element
	for _, r := range merged {
		e = append(e, Element{key: portKey(r.First)})
		if r.Last < 65535 {
			e = append(e, Element{key: portKey(r.Last + 1), end: true})
		}
	}
	return e
}

func portKey(p uint16) string { return string(binary.BigEndian.AppendUint16(nil, p)) }
