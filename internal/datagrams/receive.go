//go:build linux

package datagrams

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
)

const (
	atOnce      = 32 // datagrams read with one system call
	controlSize = 96 // more than in_pktinfo and in6_pktinfo take with their headers

	// How long reading pauses after a failure, and how many failures in a row are
	// allowed: trouble that is over by then was a shortage, or an error that somebody had
	// the kernel report to the socket (ss -K). Strangers cannot make it fail: a socket
	// that is not connected gets no ICMP errors (__udp4_lib_err in the kernel's
	// net/ipv4/udp.c).
	rest, maxFailures = 10 * time.Millisecond, 100
)

// batch is what datagrams are read into.
type batch struct {
	headers  [atOnce]header
	parts    [atOnce]unix.Iovec
	names    [atOnce]unix.RawSockaddrInet6 // has room for one of IPv4
	controls [atOnce][controlSize / 8]uint64
	payloads [atOnce][Longest]byte
	come     []arrival // what is not Junk
	replies  []header  // what a glance answers, in the same buffers
	answer   [LongestAnswer]byte
	send     func(fd uintptr) // sendReplies, which takes memory only once so
}

// header is struct mmsghdr, recvmmsg(2).
type header struct {
	unix.Msghdr
	length uint32
}

// arrival is a datagram in a batch.
type arrival struct {
	payload []byte
	path    knock.Path
	rank    knock.Rank
}

func newBatch() *batch {
	b := &batch{come: make([]arrival, 0, atOnce), replies: make([]header, 0, atOnce)}
	for i := range b.headers {
		h := &b.headers[i]
		b.parts[i].Base = &b.payloads[i][0]
		h.Iov, h.Control = &b.parts[i], (*byte)(unsafe.Pointer(&b.controls[i]))
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		h.SetIovlen(1)
	}
	b.send = b.sendReplies
	return b
}

// read reads what there is, without waiting.
func (b *batch) read(fd uintptr) (int, unix.Errno) {
	for i := range b.headers {
		h := &b.headers[i]
		h.Namelen, h.Flags = unix.SizeofSockaddrInet6, 0
		h.SetControllen(controlSize)
		b.parts[i].SetLen(Longest)
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.headers)), atOnce, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// receive reads from the socket until it is closed, or dead.
func (l *Listener) receive(s *socket) {
	var (
		b     *batch
		n     int
		errno unix.Errno
	)
	read := func(fd uintptr) bool {
		b, _ = l.batches.Get().(*batch)
		if n, errno = b.read(fd); errno != 0 {
			l.batches.Put(b) // a port without traffic has none
		}
		return errno != unix.EAGAIN
	}
	for failures := 0; failures < maxFailures; failures++ {
		if err := s.raw.Read(read); err != nil {
			if !s.closed.Load() { // the error for that is internal/poll's own
				l.dies(s, err)
			}
			return
		}
		if errno != 0 {
			time.Sleep(rest)
			continue
		}
		failures = -1
		s.rounds.Add(1)
		alone := l.sift(s, b, n)
		l.batches.Put(b)
		if alone != nil {
			l.pool.open(alone, l.open)
		}
		runtime.Gosched()
	}
	l.dies(s, fmt.Errorf("recvmmsg: %w", errno))
}

// dies marks a socket as unreadable, for Check to find.
func (l *Listener) dies(s *socket, err error) {
	l.log.Error("cannot read datagrams at a port for knocks; trying again", "port", s.port, "err", err)
	s.dead.Store(true)
}

// sift passes on those of the n datagrams in a batch that may be a knock, and answers
// those that a glance answers. One that the caller is to open it returns instead.
func (l *Listener) sift(s *socket, b *batch, n int) (alone *waiting) {
	by := s.opener.Load()
	if by == nil {
		l.foreign.Add(uint64(n))
		return nil
	}
	t := b.sift(s, by, n)
	l.foreign.Add(t.foreign)
	l.strange.Add(t.strange)
	l.withheld.Add(t.withheld)
	l.replied.Add(t.replied)
	if len(b.come) == 1 && by.brief {
		alone = l.pool.alone(&s.queue, s, by, b.come[0])
	}
	if len(b.come) > 0 && alone == nil {
		l.pool.put(&s.queue, s, by, b.come)
	}
	return alone
}

// tally is what became of the datagrams of a batch that do not wait to be opened.
type tally struct{ foreign, strange, replied, withheld uint64 }

// sift sets come to those of the first n that are not Junk, and sends the answers to
// those that are.
func (b *batch) sift(s *socket, by knock.Opener, n int) (t tally) {
	b.come, b.replies = b.come[:0], b.replies[:0]
	claimed, now := 0, time.Now()
	for i := range n {
		h := &b.headers[i]
		way, ok := b.way(i)
		if !ok || h.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			t.strange++
			continue
		}
		payload := b.payloads[i][:min(h.length, Longest)]
		room := min(len(payload), LongestAnswer)
		rank, answer := by.Glance(way.from.Addr(), payload, s.queue.busy(claimed), b.answer[:room:room])
		switch {
		case rank != knock.Junk:
			b.come = append(b.come, arrival{payload, way.path(s.port), rank})
			if rank == knock.Claimed {
				claimed++
			}
		case answer <= 0:
			t.foreign++
		case answer > room || !s.replies.may(way.from.Addr(), now):
			t.withheld++
		default:
			t.replied++
			b.reply(i, way, answer)
		}
	}
	if len(b.replies) > 0 {
		_ = s.raw.Control(b.send)
	}
	return t
}

// way is how a datagram came, before addresses have zones, which take memory.
type way struct {
	from netip.AddrPort
	to   netip.Addr
	link int // the interface
}

// way returns how datagram i came; false: nobody can have sent it, or it was not for this
// machine alone.
func (b *batch) way(i int) (w way, ok bool) {
	w.from = source(&b.names[i])
	w.to, w.link, ok = b.destination(i)
	from := w.from.Addr()
	return w, ok && w.from.Port() != 0 && from.Is4() == w.to.Is4() && from != w.to &&
		single(from) && single(w.to) && !from.IsLoopback()
}

// path is the way to a port, with zones. The interface is the zone of both addresses: a
// link-local address means something there alone.
func (w way) path(p uint16) knock.Path {
	zoned := func(a netip.Addr) netip.Addr {
		if a.Is6() && a.IsLinkLocalUnicast() {
			return a.WithZone(strconv.Itoa(w.link))
		}
		return a
	}
	return knock.Path{
		From: netip.AddrPortFrom(zoned(w.from.Addr()), w.from.Port()),
		To:   netip.AddrPortFrom(zoned(w.to), p),
		If:   w.link,
	}
}

// single says whether an address is that of a single machine. A network's broadcast
// address is not known here.
func single(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// source returns the sender's address. An IPv4-mapped one is an IPv4 address.
func source(name *unix.RawSockaddrInet6) netip.AddrPort {
	number := func(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }
	switch name.Family {
	case unix.AF_INET:
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), number(&four.Port))
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(name.Addr).Unmap(), number(&name.Port))
	}
	return netip.AddrPort{}
}

// destination returns the address that datagram i was sent to, and the interface that it
// arrived on. It is false for a broadcast or multicast over IPv4, where the address that
// the kernel would answer from is another, ip(7).
func (b *batch) destination(i int) (to netip.Addr, link int, ok bool) {
	control := unsafe.Slice((*byte)(unsafe.Pointer(&b.controls[i])), controlSize)
	control = control[:min(uint64(b.headers[i].Controllen), controlSize)]
	for len(control) >= unix.SizeofCmsghdr {
		h, data, next, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return netip.Addr{}, 0, false
		}
		control = next
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
			return netip.AddrFrom4(info.Addr), int(info.Ifindex), info.Addr == info.Spec_dst
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
			to, link, ok = netip.AddrFrom16(info.Addr), int(info.Ifindex), true
		}
	}
	return to, link, ok
}
