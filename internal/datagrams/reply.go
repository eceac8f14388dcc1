//go:build linux

package datagrams

import (
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A prefix gets so many answers a second from a port, of glances and of Open, and again as
// many of Open to what is Shown. All together get no more than a processor can send: about
// 200,000.
const repliesEach, replyLanes = 50, 4096

// replies bounds the answers of a port, or some of them. Its methods may be called from several
// goroutines.
type replies struct {
	mu     sync.Mutex
	spread spread
	sent   *[replyLanes]uint8 // in the second of the seed; nil: never any
}

// may says whether one more answer to a source may be sent, and counts it.
func (r *replies) may(source netip.Addr, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sent == nil {
		r.sent = new([replyLanes]uint8) // ports that answer nobody have none
	}
	if r.spread.fresh(now) {
		clear(r.sent[:])
	}
	sent := &r.sent[r.spread.of(source, replyLanes)]
	if *sent >= repliesEach {
		return false
	}
	*sent++
	return true
}

// reply makes the first n bytes of the batch's answer go back to the sender of datagram i,
// in whose buffers they are put.
func (b *batch) reply(i int, w way, n int) {
	copy(b.payloads[i][:], b.answer[:n])
	b.parts[i].SetLen(n)
	h := b.headers[i]
	h.Flags = 0
	control := unsafe.Slice((*byte)(unsafe.Pointer(&b.controls[i])), controlSize)
	h.SetControllen(putSource(control, w))
	b.replies = append(b.replies, h)
}

// putSource writes the control message that makes a datagram leave from the address that
// was asked, and returns its size. The routes decide on the interface, except where
// addresses mean nothing without one.
func putSource(control []byte, w way) int {
	link := 0
	if w.from.Addr().IsLinkLocalUnicast() || w.to.IsLinkLocalUnicast() {
		link = w.link
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	data := unsafe.Pointer(&control[unix.CmsgLen(0)])
	if w.from.Addr().Is4() {
		h.Level, h.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
		h.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
		*(*unix.Inet4Pktinfo)(data) = unix.Inet4Pktinfo{Ifindex: int32(link), Spec_dst: w.to.As4()}
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	}
	h.Level, h.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
	h.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	*(*unix.Inet6Pktinfo)(data) = unix.Inet6Pktinfo{Ifindex: uint32(link), Addr: w.to.As16()}
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}

// sendReplies sends what it can of the replies without waiting. One that the network
// refuses is not sent.
func (b *batch) sendReplies(fd uintptr) {
	for all := b.replies; len(all) > 0; {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&all[0])), uintptr(len(all)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			all = all[n:]
		case unix.EAGAIN:
			return // the network is slower than we are
		default:
			all = all[1:]
		}
	}
}
