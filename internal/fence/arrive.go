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
	"github.com/doorward/doorward/internal/port"
	"golang.org/x/sys/unix"
)

// The chains that every door shares; the package comment shows them.
const (
	arriveChain  = "prerouting"
	inputChain   = "input"
	forwardChain = "forward"
	outputChain  = "output"
	midChain     = "midstream"
	askChain     = "ask"
	enteredChain = "entered"
	answerChain  = "answer"
	flowsChain   = "flows"
)

// Sets that belong to no door.
const (
	doorsInfix = "doors."     // ports to the chain that judges what asks
	handshakes = "handshakes" // ports to the chain that judges what completes a handshake
	guardedTCP = "guarded.tcp"
	guardedUDP = "guarded.udp"
	listensTCP = "listeners.tcp" // where knocks are heard
	listensUDP = "listeners.udp"
	pendingSet = "pending." // connections whose handshake waits for the visitor
	acksSet    = "acks"     // what an ACK that completes one acknowledges
	flowsSet   = "flows."   // flows over UDP that doors let in
	endedSet   = "ended."   // and those of them that were ended
)

// Labels of connections. A label is only ever a reason to pass what cannot make a
// connection.
const (
	labelsLen = conntrack.LabelsLen
	asked     = conntrack.Asked
	letIn     = conntrack.LetIn
)

// pendingFor is for how long after its SYN-ACK a handshake can be completed. A
// SYN cookie is good for two minutes (MAX_SYNCOOKIE_AGE in include/net/tcp.h);
// a request lives longer only while its SYN-ACK is sent again, of which the
// pauses are no longer (TCP_RTO_MAX).
const pendingFor = 130 * time.Second

// pendingMost bounds the handshakes that wait, for each family: 2,000 new ones a
// second, let in by doors, and 40 MB of the kernel's memory.
const pendingMost = 1 << 18

// addBase makes what all packets pass.
func addBase(t *Table, late bool) {
	t.chains = append(t.chains, arrive(), input(), forward(), output(), midstream(late), flows(), ask(), entered(), answer())
	for _, f := range families() {
		t.sets = append(t.sets, f.tupleSet(pendingSet, pendingMost), f.tupleSet(flowsSet, flowsMost), f.tupleSet(endedSet, endedMost))
	}
	t.sets = append(t.sets, Set{
		name:  acksSet,
		def:   SetDef{flags: unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, keyType: typeInteger, keyLen: 4, gcInterval: gcInterval},
		size:  2 * pendingMost,
		udata: typeofAck(),
	})
}

// tupleSet has connections as visitor sees them.
func (f family) tupleSet(name string, size uint32) Set {
	addr := uint32(f.bits / 8)
	return Set{
		name: name + f.name,
		def: SetDef{flags: setConcat | unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, keyLen: 2*addr + 8,
			keyType: concat(f.keyType, typeInetService, f.keyType, typeInetService), gcInterval: gcInterval},
		lengths: []uint32{addr, 2, addr, 2},
		size:    size,
	}
}

func baseHook(number uint32) Hook { return Hook{"filter", number, priority, nfAccept} }

func fromItself(match ...[]expr) []expr {
	return slices.Concat([]expr{meta(unix.NFT_META_IIF), nfcmp(unix.NFT_CMP_EQ, native(loopback)...)}, slices.Concat(match...))
}

// isFlow passes datagrams that belong to a flow. What comes to other ports than
// doors guard is none of theirs.
func isFlow() Rule {
	return newRule("flows", isProto(unix.IPPROTO_UDP), []expr{destinationPort(), in(guardedUDP), verdict(unix.NFT_JUMP, flowsChain)})
}

// toDoors hands the packet to the door of its destination port.
func toDoors() []Rule {
	proto := func(p port.Proto) []expr {
		return append(isProto(byte(p)), destinationPort(), vmap(doorsInfix+p.String()))
	}
	return []Rule{newRule("doors over TCP", proto(port.TCP)), newRule("doors over UDP", proto(port.UDP))}
}

func arrive() Chain {
	unicast := nfcmp(unix.NFT_CMP_EQ, native(rtnUnicast)...)
	return Chain{
		name: arriveChain,
		base: baseHook(unix.NF_INET_PRE_ROUTING),
		rules: slices.Concat(
			[]Rule{
				newRule("this host itself", fromItself(), []expr{accept()}),
				newRule("judged where it ends", isSyn(unix.NFT_CMP_NEQ), []expr{accept()}),
			},
			[]Rule{isFlow(), newRule("to other hosts", []expr{
				fibType(unix.NFTA_FIB_F_DADDR), unicast,
				fibType(unix.NFTA_FIB_F_DADDR | unix.NFTA_FIB_F_IIF), unicast, accept()})},
			toDoors()),
	}
}

func input() Chain {
	return Chain{
		name: inputChain,
		base: baseHook(unix.NF_INET_LOCAL_IN),
		rules: slices.Concat(
			[]Rule{
				newRule("knocks of this host itself", fromItself(isProto(unix.IPPROTO_TCP)),
					[]expr{destinationPort(), in(listensTCP), reset()}),
				newRule("datagrams of this host itself", fromItself(isProto(unix.IPPROTO_UDP)),
					[]expr{destinationPort(), in(listensUDP), unreachable()}),
				newRule("this host itself", fromItself(), []expr{accept()}),
				newRule("not a new connection", isSyn(unix.NFT_CMP_NEQ),
					[]expr{destinationPort(), in(guardedTCP), verdict(unix.NFT_JUMP, midChain)}),
				isFlow(),
			},
			toDoors()),
	}
}

// forward judges the handshakes of published ports, whose first packet was
// judged before its address was translated.
func forward() Chain {
	n := Chain{name: forwardChain, base: baseHook(unix.NF_INET_FORWARD)}
	n.rules = append(n.rules, newRule("answers of published ports", hasFlags(tcpSynAck, unix.NFT_CMP_EQ, tcpSynAck),
		[]expr{ct(unix.NFT_CT_DIRECTION), nfcmp(unix.NFT_CMP_EQ, ctReply)}, hasLabel(asked),
		[]expr{verdict(unix.NFT_GOTO, answerChain)}))
	for _, f := range families() {
		n.rules = append(n.rules, newRule("handshakes, IP"+f.name, completes(f),
			[]expr{ctOf(unix.NFT_CT_PROTO_DST, ctOriginal), vmap(handshakes)}))
	}
	return n
}

// output notes what is said to visitors: the answers in handshakes, which flows
// have been answered, and that a server does not leave off.
func output() Chain {
	n := Chain{name: outputChain, base: baseHook(unix.NF_INET_LOCAL_OUT), rules: []Rule{
		newRule("answers", []expr{meta(unix.NFT_META_OIF), nfcmp(unix.NFT_CMP_NEQ, native(loopback)...)},
			hasFlags(tcpSynAck, unix.NFT_CMP_EQ, tcpSynAck),
			[]expr{inSegment(0, 2), in(guardedTCP), verdict(unix.NFT_GOTO, answerChain)}),
	}}
	for _, f := range families() {
		udp := slices.Concat(f.is(), isProto(unix.IPPROTO_UDP))
		n.rules = append(n.rules,
			newRule("answered, IP"+f.name, udp, hasLabel(letIn), f.host(), []expr{keep(flowsSet+f.name, flowFor)}),
			newRule("still going on, IP"+f.name, udp, f.host(), []expr{in(flowsSet + f.name), keep(flowsSet+f.name, flowFor)}),
			newRule("still ended, IP"+f.name, udp, f.host(), []expr{in(endedSet + f.name), keep(endedSet+f.name, flowFor)}))
	}
	return n
}

// midstream tells what may complete a handshake from what belongs to a
// connection; the latter alone is passed. What returns is a stray, or completes
// what began without a word of the fence. A reset arrives from anybody: it makes
// nothing and is never answered, and how a visitor's host gives up what a forger
// began in its name (RFC 9293, section 3.5.2, group 2).
func midstream(late bool) Chain {
	n := Chain{name: midChain, rules: []Rule{
		newRule("resets", hasFlags(tcpRst, unix.NFT_CMP_EQ, tcpRst), []expr{accept()}),
		newRule("sessions", session(late), []expr{accept()}),
	}}
	for _, f := range families() {
		n.rules = append(n.rules, newRule("handshakes, IP"+f.name, completes(f),
			[]expr{destinationPort(), vmap(handshakes)}))
	}
	n.rules = append(n.rules,
		newRule("no more than a listener", socketBound(false), []expr{verdict(unix.NFT_RETURN, "")}),
		newRule("let in", hasLabel(letIn), []expr{accept()}))
	return n
}

// session matches what belongs to a live session: early demultiplexing has found a
// socket that somebody holds, and it is full and bound to one address. Where that
// lookup is off (late), whatever full socket is bound to one address will do, and
// a listener on that address alone is not told from a session.
func session(late bool) []expr {
	if late {
		return append(isProto(unix.IPPROTO_TCP), socketBound(true)...)
	}
	return append([]expr{meta(unix.NFT_META_SKUID), nfcmp(unix.NFT_CMP_NEQ, native(nobody)...)}, socketBound(true)...)
}

// lateDemux says whether the kernel does not look for a packet's socket before
// the input hook (ip_early_demux and tcp_early_demux in the kernel's
// Documentation/networking/ip-sysctl.rst; both are on unless somebody says so).
// What cannot be read is on.
func lateDemux() bool {
	for _, name := range []string{"ip_early_demux", "tcp_early_demux"} {
		v, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
		if err == nil && strings.TrimSpace(string(v)) == "0" {
			return true
		}
	}
	return false
}

// completes matches the segment that can complete a handshake: it acknowledges a
// SYN-ACK that its sender was sent lately (RFC 9293, section 3.10.7.4). Nobody
// else knows the number, so that a forged segment spends nothing. A number that
// was sent to another connection is outside of this one's window, and the segment
// is no valid one to connection tracking then.
func completes(f family) []expr {
	return slices.Concat(f.is(), hasFlags(tcpSynRstAck, unix.NFT_CMP_EQ, tcpAck),
		[]expr{ct(unix.NFT_CT_STATE), and(native(ctInvalid)...), nfcmp(unix.NFT_CMP_EQ, 0, 0, 0, 0)},
		f.visitor(), []expr{in(pendingSet + f.name), inSegment(offsetAck, 4), in(acksSet)})
}

// visitor puts a visitor's connection into the registers: their address and
// port, and the address and port they came to.
func (f family) visitor() []expr { return f.endpoints(f.source, 0, f.dst, 2) }

// host is visitor for a packet to the visitor.
func (f family) host() []expr { return f.endpoints(f.dst, 2, f.source, 0) }

func (f family) endpoints(addr1, port1, addr2, port2 uint32) []expr {
	r, size := uint32(unix.NFT_REG32_00), uint32(f.bits/8)
	return []expr{
		payload(unix.NFT_PAYLOAD_NETWORK_HEADER, addr1, size, r),
		payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, port1, 2, r+size/4),
		payload(unix.NFT_PAYLOAD_NETWORK_HEADER, addr2, size, r+size/4+1),
		payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, port2, 2, r+size/2+1),
	}
}

// ask lets what a door lets ask pass on. A SYN that would make a connection by
// itself does not: TCP fast open, with its option or with data (RFC 7413). Its
// sender asks again without (section 4.1.3.1).
func ask() Chain {
	n := Chain{name: askChain}
	for _, kind := range []uint8{tcpFastOpen, tcpExperiment} {
		n.rules = append(n.rules, newRule(fmt.Sprintf("no fast open, option %d", kind),
			isSyn(unix.NFT_CMP_EQ), hasOption(kind), []expr{drop()}))
	}
	for words := byte(5); words <= 15; words++ { // the header's length
		n.rules = append(n.rules, newRule(fmt.Sprintf("no data behind a header of %d bytes", 4*int(words)),
			isSyn(unix.NFT_CMP_EQ),
			[]expr{inSegment(offsetLength, 1), and(0xf0), nfcmp(unix.NFT_CMP_EQ, words<<4),
				inSegment(4*uint32(words), 1), nfcmp(unix.NFT_CMP_GTE, 0), drop()}))
	}
	n.rules = append(n.rules, newRule("asked", isSyn(unix.NFT_CMP_EQ), setLabel(asked), []expr{accept()}))
	for _, f := range families() {
		n.rules = append(n.rules, newRule("ended no more, IP"+f.name, f.is(), isProto(unix.IPPROTO_UDP), f.visitor(),
			[]expr{in(endedSet + f.name), keep(flowsSet+f.name, flowFor), spend(endedSet + f.name)}))
	}
	n.rules = append(n.rules,
		newRule("let in without a handshake", isProto(unix.IPPROTO_UDP), setLabel(letIn), []expr{accept()}),
		newRule("the rest", []expr{accept()}))
	return n
}

// entered lets a completed handshake pass on, which is pending no more.
func entered() Chain {
	n := Chain{name: enteredChain}
	for _, f := range families() {
		n.rules = append(n.rules, newRule("pending no more, IP"+f.name,
			f.is(), isProto(unix.IPPROTO_TCP), f.visitor(), []expr{spend(pendingSet + f.name)}))
	}
	n.rules = append(n.rules, newRule("let in", setLabel(letIn), []expr{accept()}))
	return n
}

// answer remembers what acknowledges a SYN-ACK: its sequence number and one. The
// kernel's rules can turn bits over but not count; to count one up is to turn
// over the lowest zero and the ones below it. When there is no room the answer is
// not sent, and comes again in a second.
func answer() Chain {
	n := Chain{name: answerChain}
	for _, f := range families() {
		n.rules = append(n.rules, newRule("pending, IP"+f.name,
			f.is(), isProto(unix.IPPROTO_TCP), f.host(), []expr{keep(pendingSet+f.name, pendingFor)}))
	}
	number := func(v uint64) []byte { return binary.BigEndian.AppendUint32(nil, uint32(v)) }
	for ones := range 33 {
		below, zero := uint64(1)<<ones-1, uint64(1)<<ones
		n.rules = append(n.rules, newRule(fmt.Sprintf("to be acknowledged, %d ones", ones),
			isProto(unix.IPPROTO_TCP),
			[]expr{inSegment(offsetSequence, 4), and(number(below | zero)...), nfcmp(unix.NFT_CMP_EQ, number(below)...),
				inSegment(offsetSequence, 4), xor(number(below | zero)...), keep(acksSet, pendingFor), accept()}))
	}
	n.rules = append(n.rules, newRule("no room", []expr{drop()}))
	return n
}

// typeofAck has nft list the set of numbers by what they are, since a plain
// integer is no type that it reads again: the user data of "typeof tcp ackseq",
// as libnftnl encodes it (include/udata.h) and nft writes it (src/payload.c).
func typeofAck() []byte {
	tlv := func(typ byte, v []byte) []byte { return append([]byte{typ, byte(len(v))}, v...) }
	const bigEndian, payloadExpr, tcp, ackseq, bits = 2, 7, 8, 4, 32
	return slices.Concat(
		tlv(0, native(bigEndian)),
		tlv(3, slices.Concat(
			tlv(0, native(payloadExpr)),
			tlv(1, slices.Concat(tlv(0, native(tcp)), tlv(1, native(ackseq)), tlv(4, native(bits)))))))
}
