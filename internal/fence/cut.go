//go:build linux

package fence

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/conntrack"
	nft "github.com/doorward/doorward/internal/nftables"
	"golang.org/x/sys/unix"
)

// cutFor is how long after its last segment it is remembered that a forwarded connection was
// cut. A visitor whose host goes on sending gives up in far less (tcp_retries2 in the
// kernel's Documentation/networking/ip-sysctl.rst: some 15 minutes).
const cutFor = 24 * time.Hour

// cutMost is how many of them are remembered of each family: 10 MB of the kernel's memory.
const cutMost = 1 << 16

// Ends are the two ends of a TCP connection as the visitor sees them, before any
// translation.
type Ends struct{ Visitor, Host netip.AddrPort }

// isCut drops what goes on coming of connections that were cut. It has to be remembered:
// without an entry, connection tracking takes a connection up in mid-stream and translates
// it as before (sysctl nf_conntrack_tcp_loose). A request for a new one between the same
// ends is judged like any other (cutNoMore).
func isCut() (rules []nft.Rule) {
	for _, f := range families() {
		rules = append(rules, newRule("cut, IP"+f.name, f.is(), isSyn(unix.NFT_CMP_NEQ),
			[]nft.Expr{destinationPort(), nft.In(guardedTCP)}, f.visitor(),
			[]nft.Expr{nft.In(cutSet + f.name), nft.Update(cutSet+f.name, cutFor), nft.Drop()}))
	}
	return rules
}

// cutNoMore forgets that a connection was cut when a door lets its ends ask for another.
func cutNoMore() (rules []nft.Rule) {
	for _, f := range families() {
		rules = append(rules, newRule("cut no more, IP"+f.name, f.is(), isSyn(unix.NFT_CMP_EQ), f.visitor(),
			[]nft.Expr{nft.In(cutSet + f.name), nft.Delete(cutSet + f.name)}))
	}
	return rules
}

// Cut ends those of these TCP connections that are translated to somewhere else, as those to
// published ports of containers are, and no others: it removes their entries from
// connection tracking, and drops what goes on coming from the visitor, so that what
// the server still sends is never acknowledged. Neither side gets a reset, since nobody here
// knows its sequence numbers. Connections that end in a socket of this host are left out:
// their sockets are the sessions. After an error some may go on.
//
// It reads all translated TCP entries of both families once: at most nf_conntrack_max.
func (f *Fence) Cut(ends []Ends) error {
	if len(ends) == 0 {
		return nil
	}
	wanted := make(map[conntrack.Tuple]bool, len(ends))
	for _, e := range ends {
		wanted[conntrack.Tuple{From: e.Visitor, To: e.Host}] = true
	}
	err := f.ask(&f.asker, func(c *nft.Conn) (err error) {
		for _, fam := range families() {
			err = errors.Join(err, f.cut(conntrack.Over(c.Netlink), fam, wanted))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("fence: cut forwarded connections: %w", err)
	}
	return nil
}

// cut is Cut for one family. They are recorded before their entries go, so that every
// segment finds one or the other.
func (f *Fence) cut(tracker *conntrack.Conn, fam family, wanted map[conntrack.Tuple]bool) error {
	var found []conntrack.Entry
	err := tracker.List(conntrack.Filter{Family: fam.nfproto, Proto: unix.IPPROTO_TCP, Status: conntrack.DstNAT}, func(e conntrack.Entry) {
		if wanted[e.Original] {
			found = append(found, e)
		}
	})
	if err != nil {
		return err
	}
	for some := range slices.Chunk(found, endAtOnce) {
		err := f.step(func(_ *nft.Conn, b *nft.Batch) (func(), error) {
			var noted []nft.Element
			for _, e := range some {
				noted = append(noted, nft.Element{Key: tupleIn(e.Original).key(), Left: cutFor})
			}
			b.SetElements(cutSet+fam.name, noted)
			return func() {}, nil
		})
		if err != nil {
			return fmt.Errorf("note %d of them as cut: %w", len(some), err)
		}
		for _, e := range some {
			if err := tracker.Delete(e); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	return nil
}
