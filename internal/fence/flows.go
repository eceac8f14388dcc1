//go:build linux

package fence

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/conntrack"
	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/port"
	"golang.org/x/sys/unix"
)

// flowFor is how long after its last datagram it is remembered that a flow was let in, or
// that it was ended. A server may resume a flow that connection tracking has forgotten,
// but it does not wait a day to do so.
const flowFor = 24 * time.Hour

// unansweredFor is flowFor for a flow in which the server has not answered before its
// end: it answers within minutes, or not at all, as with forged datagrams.
const unansweredFor = 10 * time.Minute

// How many flows of each family are remembered: 10 MB and 40 MB of the kernel's
// memory.
const (
	flowsMost = 1 << 16
	endedMost = 1 << 18
)

// flows passes datagrams of a flow that was let in: the door's label is on its
// entry in connection tracking. When that has forgotten the entry, and the server
// is the first to send, there is another one, in the other direction and without a
// label; the visitor's datagrams are answers in it. They pass if the flow was let
// in before, and need a grant if it was ended. All other answers are those to the
// host's own clients, whose ports may lie in a guarded range, or of flows from
// before the fence.
func flows() nft.Chain {
	n := nft.Chain{Name: flowsChain}
	established := func(f family) []nft.Expr {
		return slices.Concat(f.is(), isProto(unix.IPPROTO_UDP), hasBit(unix.NFT_CT_STATE, ctEstablished))
	}
	for _, f := range families() {
		n.Rules = append(n.Rules, newRule("let in, IP"+f.name,
			established(f), hasLabel(letIn), f.visitor(), []nft.Expr{nft.Update(flowsSet+f.name, flowFor), nft.Accept()}))
	}
	n.Rules = append(n.Rules, newRule("let in, without an answer or more room", hasLabel(letIn), []nft.Expr{nft.Accept()}))
	for _, f := range families() {
		n.Rules = append(n.Rules,
			newRule("ended, IP"+f.name, established(f), f.visitor(),
				[]nft.Expr{nft.In(endedSet + f.name), nft.Update(endedSet+f.name, flowFor), nft.Verdict(unix.NFT_RETURN, "")}),
			newRule("let in before, IP"+f.name, established(f), f.visitor(),
				[]nft.Expr{nft.In(flowsSet + f.name), nft.Update(flowsSet+f.name, flowFor)}, setLabel(letIn), []nft.Expr{nft.Accept()}))
	}
	n.Rules = append(n.Rules, newRule("answers", hasBit(unix.NFT_CT_STATE, ctEstablished), []nft.Expr{nft.Accept()}))
	return n
}

// EndFlows ends the UDP flows for which doors have let these sources in: it records them
// as ended, and removes their entries from connection tracking. Further datagrams need a
// grant again, whatever the server goes on sending. A source that has another grant, or
// is in always, comes in again. Until is ignored. A flow from before the fence first
// went up is not known to have come in through a door, and goes on; over TCP a live
// socket is the session, which the fence does not end. After an error flows may go on,
// or be resumed by their server.
//
// It reads all entries of both families once, however many sources there are: at most
// nf_conntrack_max, of which the kernel returns only UDP (since Linux 5.8), and at most
// 65,536 flows of each family. Changes of grants do not wait for it. To end all flows of
// a door, name 0.0.0.0/0 and ::/0.
func (f *Fence) EndFlows(ends []Grant) error {
	v, err := f.guarded()
	var sources flowSources
	if err == nil {
		sources, err = v.flowSources(ends)
	}
	if err == nil {
		err = f.ask(&f.asker, func(c *nft.Conn) (err error) {
			for _, fam := range families() {
				err = errors.Join(err, f.endFlows(c, fam, sources))
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("fence: end flows: %w", err)
	}
	return nil
}

// flowSources are the sources whose flows end, by port.
type flowSources struct {
	ports map[netip.Prefix][]port.Range
	bits  map[int]bool // the lengths of those prefixes
}

func (v view) flowSources(ends []Grant) (flowSources, error) {
	s := flowSources{map[netip.Prefix][]port.Range{}, map[int]bool{}}
	for _, e := range ends {
		if _, _, err := placeOf(v.doors, e); err != nil {
			return s, err
		}
		s.add(e.Source, v.doors[e.Door].ports)
	}
	return s, nil
}

func (s flowSources) add(source netip.Prefix, ports []port.Range) {
	source = canonical(source)
	s.bits[source.Bits()] = true
	s.ports[source] = append(s.ports[source], ports...)
}

// have says whether the visitor is one of the sources, and came to its ports. It costs
// the same however many sources there are.
func (s flowSources) have(t tuple) bool {
	to := port.Port{Proto: port.UDP, Number: t.to.Port()}
	for bits := range s.bits {
		source, err := t.from.Addr().Prefix(bits)
		if err == nil && port.Within(s.ports[source], to) {
			return true
		}
	}
	return false
}

// endFlows ends the flows of one family. The flows are recorded as ended first, so that
// every datagram finds an entry or a record; if that fails the entries are removed all
// the same.
func (f *Fence) endFlows(c *nft.Conn, fam family, sources flowSources) error {
	tracker := conntrack.Over(c.Netlink)
	flows, err := trackedFlows(tracker, fam, sources)
	if err != nil {
		return err
	}
	noted := f.noteEnded(c, fam, flows, sources)
	for _, e := range flows {
		// It may have ended in between. One that was created again is recorded, too.
		if err := tracker.Delete(e); err != nil && !errors.Is(err, unix.ENOENT) {
			return errors.Join(noted, err)
		}
	}
	return noted
}

// trackedFlows returns the flows of the sources that connection tracking knows.
func trackedFlows(tracker *conntrack.Conn, fam family, sources flowSources) ([]conntrack.Entry, error) {
	var flows []conntrack.Entry
	err := tracker.List(conntrack.Filter{Family: fam.nfproto, Proto: unix.IPPROTO_UDP}, func(e conntrack.Entry) {
		if len(tuplesOf(e, sources)) > 0 {
			flows = append(flows, e)
		}
	})
	return flows, err
}

// endAtOnce is how many flows are recorded as ended in one transaction.
const endAtOnce = 2000

// noteEnded records these flows as ended, and those that were let in before and that
// connection tracking has forgotten.
func (f *Fence) noteEnded(c *nft.Conn, fam family, tracked []conntrack.Entry, sources flowSources) error {
	before, err := c.ReadElements(flowsSet + fam.name)
	if err != nil && !errors.Is(err, nft.ErrInterrupted) {
		return err
	}
	left := map[string]time.Duration{} // by key; a list may contain one twice
	for _, e := range tracked {
		for _, t := range tuplesOf(e, sources) {
			left[t.key()] = unansweredFor
			if e.Status&conntrack.SeenReply != 0 {
				left[t.key()] = flowFor
			}
		}
	}
	over := map[string]bool{}
	for _, e := range before {
		if t, ok := tupleOf(e.Key); ok && sources.have(t) {
			left[e.Key], over[e.Key] = flowFor, true
		}
	}
	for keys := range slices.Chunk(slices.Sorted(maps.Keys(left)), endAtOnce) {
		err := f.step(func(_ *nft.Conn, b *nft.Batch) (func(), error) {
			var noted, gone []nft.Element
			for _, key := range keys {
				noted = append(noted, nft.Element{Key: key, Left: left[key]})
				if over[key] {
					gone = append(gone, nft.Element{Key: key})
				}
			}
			b.SetElements(endedSet+fam.name, noted)
			b.SetElements(flowsSet+fam.name, gone)
			return func() {}, nil
		})
		switch {
		case errors.Is(err, unix.ENFILE):
			return fmt.Errorf("no more than 262,144 ended flows are remembered, and of these %d, over IP%s, some go on if their server goes on: "+
				"stop the service, or wait a day: %w", len(left), fam.name, err)
		case err != nil:
			return fmt.Errorf("note the flows as ended: %w", err)
		}
	}
	return nil
}

// tuple is the visitor's address and port, and those they sent to; for an entry of
// connection tracking it is open which side is the visitor.
type tuple struct{ from, to netip.AddrPort }

func tupleIn(t conntrack.Tuple) tuple { return tuple{t.From, t.To} }

// key is the tuple as family.visitor has it: each field takes whole registers.
func (t tuple) key() string {
	var b []byte
	for _, end := range []netip.AddrPort{t.from, t.to} {
		b = append(b, end.Addr().AsSlice()...)
		b = append(binary.BigEndian.AppendUint16(b, end.Port()), 0, 0)
	}
	return string(b)
}

// tupleOf is the inverse of key.
func tupleOf(key string) (tuple, bool) {
	end := func(b string) netip.AddrPort {
		addr, _ := netip.AddrFromSlice([]byte(b[:len(b)-4]))
		return netip.AddrPortFrom(addr, binary.BigEndian.Uint16([]byte(b[len(b)-4:])))
	}
	if len(key) != 2*(4+4) && len(key) != 2*(16+4) {
		return tuple{}, false
	}
	t := tuple{end(key[:len(key)/2]), end(key[len(key)/2:])}
	return t, t.key() == key
}

// tuplesOf returns what the visitor's datagrams look like if an entry is a flow of
// the sources: before and after translation of the address they are sent to. The
// visitor has begun it, or the server has.
func tuplesOf(e conntrack.Entry, sources flowSources) []tuple {
	if e.Proto != unix.IPPROTO_UDP || !e.LetIn {
		return nil
	}
	original, reply := tupleIn(e.Original), tupleIn(e.Reply)
	var found []tuple
	for _, as := range [][]tuple{
		{original, {original.from, reply.from}},
		{reply, {reply.from, original.from}},
	} {
		if slices.ContainsFunc(as, sources.have) {
			found = append(found, slices.Compact(as)...)
		}
	}
	return found
}
