//go:build linux

package fence

import (
	"encoding/binary"

	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/port"
	"golang.org/x/sys/unix"
)

// addPorts adds the maps from ports to the doors' chains, and the sets of ports.
func addPorts(t *nft.Table, doors []Door) {
	verdicts := nft.SetDef{Flags: unix.NFT_SET_INTERVAL | unix.NFT_SET_MAP,
		KeyType: typeInetService, KeyLen: 2, DataType: unix.NFT_DATA_VERDICT}
	plain := nft.SetDef{Flags: unix.NFT_SET_INTERVAL, KeyType: typeInetService, KeyLen: 2}
	var once []Door
	var guards, rejects, listens []port.Range
	for _, d := range doors {
		guards, listens = append(guards, d.Ports...), append(listens, d.Listen...)
		if d.handshakesSpend() {
			once = append(once, d)
		}
		if d.Reject {
			rejects = append(rejects, d.Ports...)
		}
	}
	of := func(name string, ranges []port.Range, p port.Proto) nft.Set {
		var spans []span
		for _, r := range ranges {
			if r.Proto == p {
				spans = append(spans, span{portKey(r.First), portKey(r.Last)})
			}
		}
		return nft.Set{Name: name, Def: plain, Elems: intervals(spans)}
	}
	t.Sets = append(t.Sets,
		portSet(doorsInfix+"tcp", verdicts, doors, port.TCP, ""),
		portSet(doorsInfix+"udp", verdicts, doors, port.UDP, ""),
		portSet(handshakes, verdicts, once, port.TCP, handshakeTail),
		of(guardedTCP, guards, port.TCP), of(guardedUDP, guards, port.UDP),
		of(rejectsTCP, rejects, port.TCP), of(rejectsUDP, rejects, port.UDP),
		of(listensTCP, listens, port.TCP), of(listensUDP, listens, port.UDP))
}

// portSet maps the ports of one protocol to the doors' chains, whose names have that tail.
func portSet(name string, def nft.SetDef, doors []Door, p port.Proto, tail string) nft.Set {
	s := nft.Set{Name: name, Def: def}
	for _, d := range doors {
		for _, r := range d.Ports {
			if r.Proto != p {
				continue
			}
			elems := intervals([]span{{portKey(r.First), portKey(r.Last)}})
			elems[0].Chain = doorPrefix + d.Name + tail
			s.Elems = append(s.Elems, elems...)
		}
	}
	nft.SortElements(s.Elems)
	return s
}

func portKey(p uint16) string { return string(binary.BigEndian.AppendUint16(nil, p)) }
