//go:build linux

package fence

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/conntrack"
	nft "github.com/doorward/doorward/internal/nftables"
	"golang.org/x/sys/unix"
)

// The chains that every door shares; the package comment shows them.
const (
	arriveChain    = "prerouting"
	inputChain     = "input"
	forwardChain   = "forward"
	outputChain    = "output"
	midChain       = "midstream"
	handshakeChain = "handshake"
	publishedChain = "published"
	grantedChain   = "granted"
	enteredChain   = "entered"
	refuseChain    = "refuse"
	answerChain    = "answer"
	rememberChain  = "remember"
	flowsChain     = "flows"
)

// Sets that belong to no door.
const (
	doorsInfix = "doors."     // ports to the doors' chains
	handshakes = "handshakes" // ports to the chains of those where a handshake spends the grant
	guardedTCP = "guarded.tcp"
	guardedUDP = "guarded.udp"
	rejectsTCP = "rejecting.tcp" // those of the guarded ports where strangers are refused with an answer
	rejectsUDP = "rejecting.udp"
	listensTCP = "listeners.tcp" // where knocks are listened for
	listensUDP = "listeners.udp"
	pendingSet = "pending." // connections whose handshake waits for the visitor
	acksSet    = "acks."    // visitors, and what an ACK of theirs that completes one acknowledges
	usedSet    = "used."    // TCP ports, and who has completed a connection to them
	flowsSet   = "flows."   // UDP flows that doors let in
	endedSet   = "ended."   // those of them that were ended
	cutSet     = "cut."     // forwarded TCP connections that were cut
)

// Labels of connections. A label is only ever a reason to pass packets that cannot make a
// connection.
const (
	labelsLen = conntrack.LabelsLen
	asked     = conntrack.Asked
	letIn     = conntrack.LetIn
)

// pendingFor is for how long after its SYN-ACK a handshake can be completed. A SYN cookie
// is good for two minutes (MAX_SYNCOOKIE_AGE in include/net/tcp.h); a request lives
// longer only while its SYN-ACK is retransmitted, at intervals no longer than that
// (TCP_RTO_MAX).
const pendingFor = 130 * time.Second

// pendingMost limits the handshakes that wait, for each family: 2,000 new ones a second,
// let in by doors, and 40 MB of the kernel's memory.
const pendingMost = 1 << 18

// addBase adds the base chains, which all packets traverse.
func addBase(t *nft.Table, late bool) {
	t.Chains = append(t.Chains, arrive(), input(), forward(), output(), midstream(late), handshake(), published(),
		flows(), granted(), entered(), refuse(), answer(), remember())
	for _, f := range families() {
		t.Sets = append(t.Sets, f.tupleSet(pendingSet, pendingMost), f.ackSet(), f.userSet(), f.tupleSet(flowsSet, flowsMost),
			f.tupleSet(endedSet, endedMost), f.tupleSet(cutSet, cutMost))
	}
}

// tupleSet is a set of connections, in the form that visitor loads.
func (f family) tupleSet(name string, size uint32) nft.Set {
	addr := uint32(f.bits / 8)
	return nft.Set{
		Name: name + f.name,
		Def: nft.SetDef{Flags: setConcat | unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, KeyLen: 2*addr + 8,
			KeyType: concat(f.keyType, typeInetService, f.keyType, typeInetService), GCInterval: gcInterval},
		Lengths: []uint32{addr, 2, addr, 2},
		Size:    size,
	}
}

// ackSet has a visitor and a number for each. The number has the type of priorities (see
// numbered), since nft cannot read back a plain integer in a concatenation.
func (f family) ackSet() nft.Set {
	addr := uint32(f.bits / 8)
	return nft.Set{
		Name: acksSet + f.name,
		Def: nft.SetDef{Flags: setConcat | unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, KeyLen: addr + 4,
			KeyType: concat(f.keyType, typeClassID), GCInterval: gcInterval},
		Lengths: []uint32{addr, 4},
		Size:    pendingMost,
	}
}

func baseHook(number uint32) nft.Hook {
	return nft.Hook{Kind: "filter", Number: number, Priority: priority, Policy: nft.PolicyAccept}
}

func fromItself(match ...[]nft.Expr) []nft.Expr {
	return slices.Concat([]nft.Expr{nft.Meta(unix.NFT_META_IIF), nft.Cmp(unix.NFT_CMP_EQ, nft.Native(loopback)...)}, slices.Concat(match...))
}

// isFlow passes datagrams that belong to a flow. Datagrams to ports that no door guards
// never do.
func isFlow() nft.Rule {
	return newRule("flows", isProto(unix.IPPROTO_UDP), []nft.Expr{destinationPort(), nft.In(guardedUDP), nft.Verdict(unix.NFT_JUMP, flowsChain)})
}

// toDoors hands the packet to the door of its destination port, and refuses it if that
// does not let it in. A guarded port without a door lets nobody in.
func toDoors() []nft.Rule {
	to := func(p byte, then ...nft.Expr) []nft.Expr {
		return slices.Concat(isProto(p), []nft.Expr{destinationPort()}, then)
	}
	return []nft.Rule{
		newRule("doors over TCP", to(unix.IPPROTO_TCP, nft.VMap(doorsInfix+"tcp"))),
		newRule("doors over UDP", to(unix.IPPROTO_UDP, nft.VMap(doorsInfix+"udp"))),
		newRule("strangers over TCP", to(unix.IPPROTO_TCP, nft.In(guardedTCP)), goTo(refuseChain)),
		newRule("strangers over UDP", to(unix.IPPROTO_UDP, nft.In(guardedUDP)), goTo(refuseChain)),
	}
}

// refuse refuses. Only a request for a new connection is answered with a reset: one sent
// for a stray segment would end a live session.
func refuse() nft.Chain {
	return nft.Chain{Name: refuseChain, Rules: []nft.Rule{
		newRule("with a reset", isSyn(unix.NFT_CMP_EQ), []nft.Expr{destinationPort(), nft.In(rejectsTCP), nft.Reset()}),
		newRule("with an error", isProto(unix.IPPROTO_UDP), []nft.Expr{destinationPort(), nft.In(rejectsUDP), nft.Unreachable()}),
		newRule("silently", []nft.Expr{nft.Drop()}),
	}}
}

func arrive() nft.Chain {
	unicast := nft.Cmp(unix.NFT_CMP_EQ, nft.Native(rtnUnicast)...)
	return nft.Chain{
		Name: arriveChain,
		Base: baseHook(unix.NF_INET_PRE_ROUTING),
		Rules: slices.Concat(
			[]nft.Rule{newRule("this host itself", fromItself(), []nft.Expr{nft.Accept()})},
			isCut(),
			[]nft.Rule{
				newRule("judged where it ends", isSyn(unix.NFT_CMP_NEQ), []nft.Expr{nft.Accept()}),
			},
			[]nft.Rule{isFlow(), newRule("to other hosts", []nft.Expr{
				nft.FibType(unix.NFTA_FIB_F_DADDR), unicast,
				nft.FibType(unix.NFTA_FIB_F_DADDR | unix.NFTA_FIB_F_IIF), unicast, nft.Accept()})},
			toDoors()),
	}
}

func input() nft.Chain {
	return nft.Chain{
		Name: inputChain,
		Base: baseHook(unix.NF_INET_LOCAL_IN),
		Rules: slices.Concat(
			[]nft.Rule{
				newRule("knocks of this host itself", fromItself(isProto(unix.IPPROTO_TCP)),
					[]nft.Expr{destinationPort(), nft.In(listensTCP), nft.Reset()}),
				newRule("datagrams of this host itself", fromItself(isProto(unix.IPPROTO_UDP)),
					[]nft.Expr{destinationPort(), nft.In(listensUDP), nft.Unreachable()}),
				newRule("this host itself", fromItself(), []nft.Expr{nft.Accept()}),
				newRule("not a new connection", isSyn(unix.NFT_CMP_NEQ),
					[]nft.Expr{destinationPort(), nft.In(guardedTCP), nft.Verdict(unix.NFT_JUMP, midChain)}),
				isFlow(),
			},
			toDoors()),
	}
}

// forward judges the handshakes of published ports, whose first packet was
// judged before its address was translated.
func forward() nft.Chain {
	n := nft.Chain{Name: forwardChain, Base: baseHook(unix.NF_INET_FORWARD)}
	n.Rules = append(n.Rules, newRule("answers of published ports", hasFlags(tcpSynAck, unix.NFT_CMP_EQ, tcpSynAck),
		[]nft.Expr{nft.CT(unix.NFT_CT_DIRECTION), nft.Cmp(unix.NFT_CMP_EQ, ctReply)}, hasLabel(asked),
		[]nft.Expr{nft.Verdict(unix.NFT_GOTO, answerChain)}))
	for _, f := range families() {
		n.Rules = append(n.Rules, newRule("handshakes, IP"+f.name, continues(f), []nft.Expr{nft.Verdict(unix.NFT_JUMP, publishedChain)}))
	}
	return n
}

// published has the door judge what completes a handshake at a published port, which is
// the one before translation.
func published() nft.Chain {
	n := nft.Chain{Name: publishedChain}
	for _, f := range families() {
		n.Rules = append(n.Rules, newRule("other numbers, IP"+f.name, f.is(), isProto(unix.IPPROTO_TCP), f.acknowledges(),
			[]nft.Expr{nft.NotIn(acksSet + f.name)}, noPriority(), []nft.Expr{nft.Verdict(unix.NFT_RETURN, "")}))
	}
	at := nft.CTOf(unix.NFT_CT_PROTO_DST, ctOriginal)
	n.Rules = append(append(n.Rules, enters(at)...),
		newRule("doors", isProto(unix.IPPROTO_TCP), []nft.Expr{at, nft.VMap(doorsInfix + "tcp")}),
		newRule("strangers", isProto(unix.IPPROTO_TCP), []nft.Expr{at, nft.In(guardedTCP)}, goTo(refuseChain)),
		newRule("no door's", noPriority()))
	return n
}

// enters notes who completes a connection to a port, which at loads into the first
// register, and spends a single-use grant for it.
func enters(at nft.Expr) (rules []nft.Rule) {
	for _, f := range families() {
		rules = append(rules, f.uses(at))
	}
	return append(rules, newRule("grants of single use", isProto(unix.IPPROTO_TCP), []nft.Expr{at, nft.VMap(handshakes)}))
}

// output records what is sent to visitors: the answers in handshakes, which flows have
// been answered, and that a server goes on sending.
func output() nft.Chain {
	n := nft.Chain{Name: outputChain, Base: baseHook(unix.NF_INET_LOCAL_OUT), Rules: []nft.Rule{
		newRule("answers", []nft.Expr{nft.Meta(unix.NFT_META_OIF), nft.Cmp(unix.NFT_CMP_NEQ, nft.Native(loopback)...)},
			hasFlags(tcpSynAck, unix.NFT_CMP_EQ, tcpSynAck),
			[]nft.Expr{inSegment(0, 2), nft.In(guardedTCP), nft.Verdict(unix.NFT_GOTO, answerChain)}),
	}}
	for _, f := range families() {
		udp := slices.Concat(f.is(), isProto(unix.IPPROTO_UDP))
		n.Rules = append(n.Rules,
			newRule("answered, IP"+f.name, udp, hasLabel(letIn), f.host(), []nft.Expr{nft.Update(flowsSet+f.name, flowFor)}),
			newRule("still going on, IP"+f.name, udp, f.host(), []nft.Expr{nft.In(flowsSet + f.name), nft.Update(flowsSet+f.name, flowFor)}),
			newRule("still ended, IP"+f.name, udp, f.host(), []nft.Expr{nft.In(endedSet + f.name), nft.Update(endedSet+f.name, flowFor)}))
	}
	return n
}

// midstream separates what may complete a handshake from what belongs to a connection;
// only the latter is passed. What returns completes a handshake, which the fence may not
// have seen begin, or is a stray segment. A reset may come from anybody: it makes no
// connection and is never answered, and it is how a visitor's host aborts what a forger
// began in its name (RFC 9293, section 3.5.2, group 2).
func midstream(late bool) nft.Chain {
	n := nft.Chain{Name: midChain, Rules: []nft.Rule{
		newRule("resets", hasFlags(tcpRst, unix.NFT_CMP_EQ, tcpRst), []nft.Expr{nft.Accept()}),
		newRule("sessions", session(late), []nft.Expr{nft.Accept()}),
	}}
	for _, f := range families() {
		n.Rules = append(n.Rules, newRule("handshakes, IP"+f.name, completes(f), goTo(handshakeChain)))
	}
	n.Rules = append(n.Rules,
		newRule("no more than a listener", socketBound(false), []nft.Expr{nft.Verdict(unix.NFT_RETURN, "")}),
		newRule("let in", hasLabel(letIn), []nft.Expr{nft.Accept()}))
	return n
}

// handshake judges what completes a handshake with this host where that spends a grant. What
// returns is judged by the door.
func handshake() nft.Chain {
	return nft.Chain{Name: handshakeChain, Rules: enters(destinationPort())}
}

// session matches what belongs to a live session: early demultiplexing has found a socket
// that somebody holds, and it is a full socket bound to one address. Where that lookup is
// off (late), any full socket bound to one address matches, and a listener on that
// address alone cannot be distinguished from a session.
func session(late bool) []nft.Expr {
	if late {
		return append(isProto(unix.IPPROTO_TCP), socketBound(true)...)
	}
	return append([]nft.Expr{nft.Meta(unix.NFT_META_SKUID), nft.Cmp(unix.NFT_CMP_NEQ, nft.Native(nobody)...)}, socketBound(true)...)
}

// lateDemux says whether the kernel does not look for a packet's socket before the input
// hook (ip_early_demux and tcp_early_demux in the kernel's
// Documentation/networking/ip-sysctl.rst; both are on by default). A setting that cannot
// be read counts as on.
func lateDemux() bool {
	for _, name := range []string{"ip_early_demux", "tcp_early_demux"} {
		v, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
		if err == nil && strings.TrimSpace(string(v)) == "0" {
			return true
		}
	}
	return false
}

// completes matches the segment that can complete a handshake: it acknowledges a SYN-ACK
// that was sent to its sender lately (RFC 9293, section 3.10.7.4). Nobody else knows the
// number, so a forged segment spends nothing. A number that was sent to somebody else does
// not count: connection tracking does not call every segment outside a connection's window
// invalid (nf_conntrack_proto_tcp.c, NFCT_TCP_IGNORE).
func completes(f family) []nft.Expr {
	return slices.Concat(continues(f), f.acknowledges(), []nft.Expr{nft.In(acksSet + f.name)})
}

// acknowledges loads a visitor's address and the number that their segment acknowledges
// into the registers.
func (f family) acknowledges() []nft.Expr {
	return append([]nft.Expr{inSegment(offsetAck, 4), nft.SetMeta(unix.NFT_META_PRIORITY)}, f.numbered(f.source)...)
}

// continues matches a segment between the ends of a handshake that waits for the visitor.
func continues(f family) []nft.Expr {
	return slices.Concat(f.is(), hasFlags(tcpSynRstAck, unix.NFT_CMP_EQ, tcpAck),
		[]nft.Expr{nft.CT(unix.NFT_CT_STATE), nft.And(nft.Native(ctInvalid)...), nft.Cmp(unix.NFT_CMP_EQ, 0, 0, 0, 0)},
		f.visitor(), []nft.Expr{nft.In(pendingSet + f.name)})
}

// numbered loads an address, which is at an offset of the header, and the packet's
// priority into the registers. The priority carries a number for a moment (see ackSet):
// only in segments of handshakes, and whatever is sent on has none.
func (f family) numbered(addr uint32) []nft.Expr {
	size := uint32(f.bits / 8)
	return []nft.Expr{nft.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, addr, size, unix.NFT_REG_1),
		nft.MetaTo(unix.NFT_META_PRIORITY, unix.NFT_REG32_00+size/4)}
}

func noPriority() []nft.Expr {
	return []nft.Expr{nft.Immediate(0, 0, 0, 0), nft.SetMeta(unix.NFT_META_PRIORITY)}
}

// visitor loads a visitor's connection into the registers: their address and port, and
// the address and port they came to.
func (f family) visitor() []nft.Expr { return f.endpoints(f.source, 0, f.dst, 2) }

// host is visitor for a packet to the visitor.
func (f family) host() []nft.Expr { return f.endpoints(f.dst, 2, f.source, 0) }

func (f family) endpoints(addr1, port1, addr2, port2 uint32) []nft.Expr {
	r, size := uint32(unix.NFT_REG32_00), uint32(f.bits/8)
	return []nft.Expr{
		nft.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, addr1, size, r),
		nft.Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, port1, 2, r+size/4),
		nft.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, addr2, size, r+size/4+1),
		nft.Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, port2, 2, r+size/2+1),
	}
}

// granted passes on what a door lets in, except a SYN that would make a connection by
// itself: TCP Fast Open, with its option or with data (RFC 7413). Its sender tries again
// without that (section 4.1.3.1).
func granted() nft.Chain {
	n := nft.Chain{Name: grantedChain}
	for _, f := range families() {
		n.Rules = append(n.Rules, newRule("handshakes, IP"+f.name, completes(f), goTo(enteredChain)))
	}
	for _, kind := range []uint8{tcpFastOpen, tcpExperiment} {
		n.Rules = append(n.Rules, newRule(fmt.Sprintf("no fast open, option %d", kind),
			isSyn(unix.NFT_CMP_EQ), hasOption(kind), []nft.Expr{nft.Drop()}))
	}
	for words := byte(5); words <= 15; words++ { // the header's length
		n.Rules = append(n.Rules, newRule(fmt.Sprintf("no data behind a header of %d bytes", 4*int(words)),
			isSyn(unix.NFT_CMP_EQ),
			[]nft.Expr{inSegment(offsetLength, 1), nft.And(0xf0), nft.Cmp(unix.NFT_CMP_EQ, words<<4),
				inSegment(4*uint32(words), 1), nft.Cmp(unix.NFT_CMP_GTE, 0), nft.Drop()}))
	}
	n.Rules = append(n.Rules, cutNoMore()...)
	n.Rules = append(n.Rules, newRule("asked", isSyn(unix.NFT_CMP_EQ), setLabel(asked), []nft.Expr{nft.Accept()}))
	for _, f := range families() {
		n.Rules = append(n.Rules, newRule("ended no more, IP"+f.name, f.is(), isProto(unix.IPPROTO_UDP), f.visitor(),
			[]nft.Expr{nft.In(endedSet + f.name), nft.Update(flowsSet+f.name, flowFor), nft.Delete(endedSet + f.name)}))
	}
	n.Rules = append(n.Rules,
		newRule("let in without a handshake", isProto(unix.IPPROTO_UDP), setLabel(letIn), []nft.Expr{nft.Accept()}),
		newRule("the rest", []nft.Expr{nft.Accept()}))
	return n
}

// entered passes on a completed handshake, which is no longer pending.
func entered() nft.Chain {
	n := nft.Chain{Name: enteredChain}
	for _, f := range families() {
		n.Rules = append(n.Rules, newRule("pending no more, IP"+f.name,
			f.is(), isProto(unix.IPPROTO_TCP), f.visitor(), []nft.Expr{nft.Delete(pendingSet + f.name)}))
	}
	n.Rules = append(n.Rules, newRule("let in", noPriority(), setLabel(letIn), []nft.Expr{nft.Accept()}))
	return n
}

// answer finds what acknowledges a SYN-ACK: its sequence number and one. The kernel's
// rules can flip bits but not add; adding one means flipping the lowest zero and the ones
// below it.
func answer() nft.Chain {
	n := nft.Chain{Name: answerChain}
	number := func(v uint64) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
	for ones := range 33 {
		below, zero := uint64(1)<<ones-1, uint64(1)<<ones
		n.Rules = append(n.Rules, newRule(fmt.Sprintf("to be acknowledged, %d ones", ones),
			isProto(unix.IPPROTO_TCP),
			[]nft.Expr{inSegment(offsetSequence, 4), nft.And(number(below | zero)...), nft.Cmp(unix.NFT_CMP_EQ, number(below)...),
				inSegment(offsetSequence, 4), nft.Xor(number(below | zero)...), nft.SetMeta(unix.NFT_META_PRIORITY)},
			goTo(rememberChain)))
	}
	return n
}

// remember remembers a handshake that waits for the visitor. When there is no room the
// answer is not sent, and is retransmitted in a second.
func remember() nft.Chain {
	n := nft.Chain{Name: rememberChain}
	for _, f := range families() {
		n.Rules = append(n.Rules, newRule("pending, IP"+f.name, f.is(), isProto(unix.IPPROTO_TCP),
			f.host(), []nft.Expr{nft.Update(pendingSet+f.name, pendingFor)},
			f.numbered(f.dst), []nft.Expr{nft.Update(acksSet+f.name, pendingFor)}, noPriority(), []nft.Expr{nft.Accept()}))
	}
	n.Rules = append(n.Rules, newRule("no room", []nft.Expr{nft.Drop()}))
	return n
}
