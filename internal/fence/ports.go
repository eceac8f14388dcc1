//go:build linux

package fence

import (
	"cmp"
	"encoding/binary"
	"slices"

	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/port"
	"golang.org/x/sys/unix"
)

// addPorts makes the maps from ports to the doors' chains, and the sets of ports.
func addPorts(t *nft.Table, doors []Door) {
	verdicts := nft.SetDef{Flags: unix.NFT_SET_INTERVAL | unix.NFT_SET_MAP,
		KeyType: typeInetService, KeyLen: 2, DataType: unix.NFT_DATA_VERDICT}
	plain := nft.SetDef{Flags: unix.NFT_SET_INTERVAL, KeyType: typeInetService, KeyLen: 2}
	asks := func(d Door) string { return doorPrefix + d.Name }
	ends := func(d Door) string { return doorPrefix + d.Name + handshakeTail }
	t.Sets = append(t.Sets,
		portSet(doorsInfix+"tcp", verdicts, doors, port.TCP, asks),
		portSet(doorsInfix+"udp", verdicts, doors, port.UDP, asks),
		portSet(handshakes, verdicts, doors, port.TCP, ends))
	var guards, listens []port.Range
	for _, d := range doors {
		guards, listens = append(guards, d.Ports...), append(listens, d.Listen...)
	}
	of := func(name string, ranges []port.Range, p port.Proto) nft.Set {
		return nft.Set{Name: name, Def: plain, Elems: portIntervals(ranges, p)}
	}
	t.Sets = append(t.Sets,
		of(guardedTCP, guards, port.TCP), of(guardedUDP, guards, port.UDP),
		of(listensTCP, listens, port.TCP), of(listensUDP, listens, port.UDP))
}

// portSet maps the ports of one protocol to chains.
func portSet(name string, def nft.SetDef, doors []Door, p port.Proto, to func(Door) string) nft.Set {
	s := nft.Set{Name: name, Def: def}
	for _, d := range doors {
		for _, r := range d.Ports {
			if r.Proto != p {
				continue
			}
			s.Elems = append(s.Elems, nft.Element{Key: portKey(r.First), Chain: to(d)})
			if r.Last < 65535 {
				s.Elems = append(s.Elems, nft.Element{Key: portKey(r.Last + 1), End: true})
			}
		}
	}
	nft.SortElements(s.Elems)
	return s
}

// portIntervals merges ranges of one protocol that overlap or touch: an interval
// set takes no others.
func portIntervals(ranges []port.Range, p port.Proto) []nft.Element {
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
	var e []nft.Element
	for _, r := range merged {
		e = append(e, nft.Element{Key: portKey(r.First)})
		if r.Last < 65535 {
			e = append(e, nft.Element{Key: portKey(r.Last + 1), End: true})
		}
	}
	return e
}

func portKey(p uint16) string { return string(binary.BigEndian.AppendUint16(nil, p)) }
