//go:build linux

package fence

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	nft "github.com/doorward/doorward/internal/nftables"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nstest"
)

// attacker makes TCP segments over IPv4 byte by byte, with any source address, and sees
// everything that arrives in its namespace.
type attacker struct {
	t        testing.TB
	out, see int
}

// segment is a TCP segment.
type segment struct {
	from, to netip.AddrPort
	flags    byte
	seq, ack uint32
	options  []byte
	data     []byte
}

const (
	fin = 0x01
	syn = 0x02
	rst = 0x04
	psh = 0x08
	ack = 0x10
)

// attackersMark is the mark of the attacker's packets, which mute lets pass.
const attackersMark = 7

// newAttacker returns an attacker in n.
func newAttacker(t testing.TB, n *nstest.NS) *attacker {
	t.Helper()
	a := &attacker{t: t}
	n.Do(func() (err error) {
		if a.out, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW); err != nil {
			return err
		}
		if err = unix.SetsockoptInt(a.out, unix.SOL_SOCKET, unix.SO_MARK, attackersMark); err != nil {
			return err
		}
		a.see, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(binary.BigEndian.Uint16(nft.Native(unix.ETH_P_IP)[:2])))
		if err != nil {
			return err
		}
		return unix.SetsockoptTimeval(a.see, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000})
	})
	t.Cleanup(func() { unix.Close(a.out); unix.Close(a.see) })
	return a
}

// mute keeps the namespace's own kernel from sending anything from the ports, and from
// giving any of them to a client, so that it does not interfere with the attacker.
func mute(n *nstest.NS, ports string) {
	n.Run("sysctl", "-q", "net.ipv4.ip_local_reserved_ports="+ports)
	n.Run("nft", "table inet mute { chain o { type filter hook output priority -400; tcp sport "+ports+" meta mark != 7 drop\n}\n}")
}

func (a *attacker) send(s segment) {
	a.t.Helper()
	length := 20 + len(s.options)
	b := binary.BigEndian.AppendUint16(nil, s.from.Port())
	b = binary.BigEndian.AppendUint16(b, s.to.Port())
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = binary.BigEndian.AppendUint32(b, s.ack)
	b = append(b, byte(length/4<<4), s.flags, 0xff, 0xff, 0, 0, 0, 0)
	b = append(append(b, s.options...), s.data...)
	src, dst := s.from.Addr().As4(), s.to.Addr().As4()
	pseudo := append(append(append([]byte{}, src[:]...), dst[:]...), 0, unix.IPPROTO_TCP, byte(len(b)>>8), byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, unix.IPPROTO_TCP, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(b)))
	ip = append(append(ip, src[:]...), dst[:]...)
	if err := unix.Sendto(a.out, append(ip, b...), 0, &unix.SockaddrInet4{Addr: dst}); err != nil {
		a.t.Fatal(err)
	}
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// hear waits for a segment from one end to another that has the flags.
func (a *attacker) hear(from, to netip.AddrPort, flags byte, wait time.Duration) (segment, bool) {
	b := make([]byte, 2048)
	for end := time.Now().Add(wait); time.Now().Before(end); {
		n, _, err := unix.Recvfrom(a.see, b, 0)
		if err != nil || n < 40 || b[9] != unix.IPPROTO_TCP {
			continue
		}
		src, _ := netip.AddrFromSlice(b[12:16])
		dst, _ := netip.AddrFromSlice(b[16:20])
		tcp := b[int(b[0]&15)*4 : n]
		s := segment{
			from:  netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp)),
			to:    netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:])),
			flags: tcp[13], seq: binary.BigEndian.Uint32(tcp[4:]), ack: binary.BigEndian.Uint32(tcp[8:]),
			data: slices.Clone(tcp[int(tcp[12]>>4)*4:]),
		}
		if s.from == from && s.to == to && s.flags&(syn|fin|rst) == flags&(syn|fin|rst) {
			return s, true
		}
	}
	return segment{}, false
}

// connection is a connection between the attacker and a host, as the attacker sees it.
type connection struct {
	*attacker
	from, to netip.AddrPort
	seq, ack uint32 // next to send, next to receive
}

// ask sends a SYN, and reports whether it was answered.
func (a *attacker) ask(from, to netip.AddrPort, seq uint32) (*connection, bool) {
	a.send(segment{from: from, to: to, flags: syn, seq: seq})
	s, ok := a.hear(to, from, syn|ack, silence)
	if !ok {
		return nil, false
	}
	return &connection{a, from, to, seq + 1, s.seq + 1}, s.ack == seq+1
}

// complete sends the ACK that completes the handshake.
func (c *connection) complete() { c.segment(ack, nil) }

func (c *connection) segment(flags byte, data []byte) {
	c.send(segment{from: c.from, to: c.to, flags: flags, seq: c.seq, ack: c.ack, data: data})
}

// lives reports whether a connection exists, however slow a busy machine is: it sends
// data again and again, as TCP does, until they come back.
func (c *connection) lives() bool {
	c.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if c.echoes() {
			return true
		}
	}
	return false
}

// echoes reports whether data that are sent come back soon, so that a connection exists.
// Where there must be one, lives is more reliable.
func (c *connection) echoes() bool {
	c.t.Helper()
	c.segment(psh|ack, []byte("hello"))
	for end := time.Now().Add(silence); time.Now().Before(end); {
		s, ok := c.hear(c.to, c.from, ack, silence)
		if ok && s.ack == c.seq+5 && string(s.data) == "hello" {
			c.seq, c.ack = c.seq+5, c.ack+5
			return true
		}
	}
	return false
}

// socketsOf returns how many connections the host has with an address.
func socketsOf(n *nstest.NS, peer string) int {
	lines := 0
	for _, b := range n.Run("ss", "-Htn", "state", "connected", "exclude", "syn-recv", "dst", peer) {
		if b == '\n' {
			lines++
		}
	}
	return lines
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
