//go:build linux

package datagrams

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
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
	come     []arrival // what may be for the opener
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
}

func newBatch() *batch {
	b := &batch{come: make([]arrival, 0, atOnce)}
	for i := range b.headers {
		h := &b.headers[i]
		b.parts[i].Base = &b.payloads[i][0]
		b.parts[i].SetLen(Longest)
		h.Iov, h.Control = &b.parts[i], (*byte)(unsafe.Pointer(&b.controls[i]))
		h.Name = (*byte)(unsafe.Pointer(&b.names[i]))
		h.SetIovlen(1)
	}
	return b
}

// read reads what there is, without waiting.
func (b *batch) read(fd uintptr) (int, unix.Errno) {
	for i := range b.headers {
		h := &b.headers[i]
		h.Namelen, h.Flags = unix.SizeofSockaddrInet6, 0
		h.SetControllen(controlSize)
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
		if err := s.raw.Read(read); errors.Is(err, os.ErrClosed) {
			return
		} else if err != nil {
			l.dies(s, err)
			return
		}
		if errno != 0 {
			time.Sleep(rest)
			continue
		}
		failures = -1
		s.rounds.Add(1)
		l.sift(s, b, n)
		l.batches.Put(b)
		runtime.Gosched()
	}
	l.dies(s, fmt.Errorf("recvmmsg: %w", errno))
}

// dies marks a socket as unreadable, for Check to find.
func (l *Listener) dies(s *socket, err error) {
	l.log.Error("cannot read datagrams at a port for knocks; trying again", "port", s.port, "err", err)
	s.dead.Store(true)
}

// sift passes on those of the n datagrams in a batch that may be a knock.
func (l *Listener) sift(s *socket, b *batch, n int) {
	by := s.opener.Load()
	if by == nil {
		l.foreign.Add(uint64(n))
		return
	}
	foreign, strange := b.sift(s.port, by, n)
	l.foreign.Add(foreign)
	l.strange.Add(strange)
	if len(b.come) > 0 {
		l.pool.put(s, by, b.come)
	}
}

// sift sets come to those of the first n that may be a knock at p, and counts the others.
func (b *batch) sift(p uint16, by knock.Opener, n int) (foreign, strange uint64) {
	b.come = b.come[:0]
	for i := range n {
		h := &b.headers[i]
		payload := b.payloads[i][:min(h.length, Longest)]
		if h.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			strange++
			continue
		}
		path, ok := b.path(i, p)
		if !ok {
			strange++
			continue
		}
		if rank, _ := by.Glance(path.From.Addr().WithZone(""), payload, false, nil); rank == knock.Junk {
			foreign++
			continue
		}
		b.come = append(b.come, arrival{payload, path})
	}
	return foreign, strange
}

// path returns the way that datagram i came to port p; false: nobody can have sent it, or
// it was not for this machine alone.
func (b *batch) path(i int, p uint16) (knock.Path, bool) {
	from := source(&b.names[i])
	to, link, ok := b.destination(i)
	if !ok || from.Port() == 0 || from.Addr().Is4() != to.Is4() || from.Addr() == to ||
		!single(from.Addr()) || !single(to) || from.Addr().IsLoopback() {
		return knock.Path{}, false
	}
	if to.IsLinkLocalUnicast() && to.Is6() {
		to = to.WithZone(strconv.Itoa(link))
	}
	return knock.Path{From: from, To: netip.AddrPortFrom(to, p), If: link}, true
}

// single says whether an address is that of a single machine. A network's broadcast
// address is not known here.
func single(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// source returns the sender's address, with the number of its interface as the zone of a
// link-local one. An IPv4-mapped one is an IPv4 address.
func source(name *unix.RawSockaddrInet6) netip.AddrPort {
	number := func(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }
	switch name.Family {
	case unix.AF_INET:
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), number(&four.Port))
	case unix.AF_INET6:
		a := netip.AddrFrom16(name.Addr).Unmap()
		if name.Scope_id != 0 && a.Is6() {
			a = a.WithZone(strconv.FormatUint(uint64(name.Scope_id), 10))
		}
		return netip.AddrPortFrom(a, number(&name.Port))
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
