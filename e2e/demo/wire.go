//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/lab"
)

// wire is the eavesdropper: the switch between the hosts, which has addresses of its own,
// too. Its methods may be called by several goroutines.
type wire struct {
	host   *lab.Host
	tapped *os.File // a packet socket, packet(7)
	done   chan struct{}

	mu   sync.Mutex
	seen []datagram // guarded by mu
}

// datagram is one of UDP.
type datagram struct {
	from, to netip.AddrPort
	payload  string
}

// newWire makes the switch.
func newWire(l *lab.Lab, name string, addrs ...string) (*wire, error) {
	h, err := l.Bridge(name, addrs...)
	return &wire{host: h, done: make(chan struct{})}, err
}

// tap records from now on what passes an interface, until close.
func (w *wire) tap(port string) error {
	return w.host.Do(func() error {
		i, err := net.InterfaceByName(port)
		if err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)) // htons
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(all))
		if err != nil {
			return fmt.Errorf("record what passes: %w", err)
		}
		w.tapped = os.NewFile(uintptr(fd), "packets of "+port)
		go w.record()
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	})
}

// record keeps what passes.
func (w *wire) record() {
	defer close(w.done)
	b := make([]byte, 1<<16)
	for {
		n, err := w.tapped.Read(b)
		if err != nil {
			return // closed
		}
		w.mu.Lock()
		if d, ok := decode(b[:n]); ok {
			w.seen = append(w.seen, d)
		}
		w.mu.Unlock()
	}
}

// close ends the recording.
func (w *wire) close() {
	if w.tapped != nil {
		w.tapped.Close()
		<-w.done
	}
}

// decode reads a datagram of UDP (RFC 768) from a packet of IP without options and extension
// headers (RFC 791, RFC 8200).
func decode(b []byte) (d datagram, ok bool) {
	var proto byte
	var from, to netip.Addr
	switch {
	case len(b) > 20 && b[0] == 0x45:
		proto, from, to = b[9], netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		b = b[20:min(len(b), int(binary.BigEndian.Uint16(b[2:])))]
	case len(b) > 40 && b[0]>>4 == 6:
		proto, from, to = b[6], netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		b = b[40:min(len(b), 40+int(binary.BigEndian.Uint16(b[4:])))]
	default:
		return d, false
	}
	if proto != unix.IPPROTO_UDP || len(b) < 8 {
		return d, false
	}
	ports := [2]uint16{binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])}
	return datagram{netip.AddrPortFrom(from, ports[0]), netip.AddrPortFrom(to, ports[1]), string(b[8:])}, true
}

// knocks are the datagrams so far to the port of the gateway's knock, and those from there.
func (w *wire) knocks(port string) (there, back []datagram) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.seen {
		switch {
		case fmt.Sprint(d.to.Port()) == port:
			there = append(there, d)
		case fmt.Sprint(d.from.Port()) == port:
			back = append(back, d)
		}
	}
	return there, back
}

// lost is how many packets were not recorded, since the socket's buffer was full.
func (w *wire) lost() (n uint32, err error) {
	raw, err := w.tapped.SyscallConn()
	if err != nil {
		return 0, err
	}
	e := raw.Control(func(fd uintptr) {
		var stats *unix.TpacketStats
		if stats, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = stats.Drops
		}
	})
	return n, errors.Join(e, err)
}

// resend sends datagrams again in their order, with the eavesdropper's source address, or
// with the one that they had, and returns what comes back to the eavesdropper until it is
// quiet for a while.
func (w *wire) resend(ctx context.Context, all []datagram, forged bool) (answers []datagram, err error) {
	socks := map[netip.AddrPort]*net.UDPConn{}
	defer func() {
		for _, c := range socks {
			c.Close()
		}
	}()
	for _, d := range all {
		from := netip.AddrPort{} // what the kernel chooses for this destination
		if forged {
			from = d.from
		} else if d.to.Addr().Is6() {
			from = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		} else {
			from = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
		}
		c := socks[from]
		if c == nil {
			if c, err = w.socket(ctx, from, forged); err != nil {
				return nil, err
			}
			socks[from] = c
		}
		if _, err := c.WriteToUDPAddrPort([]byte(d.payload), d.to); err != nil {
			return nil, err
		}
	}
	if forged {
		return nil, nil // whoever has the address gets the answers
	}
	b := make([]byte, 1<<16)
	for _, c := range socks {
		for {
			c.SetReadDeadline(time.Now().Add(dark))
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				break // quiet, or an error of ICMP's
			}
			answers = append(answers, datagram{from: from, payload: string(b[:n])})
		}
	}
	return answers, nil
}

// socket makes one of UDP on the eavesdropper; a forged one has an address of somebody
// else's (IP_TRANSPARENT in ip(7)).
func (w *wire) socket(ctx context.Context, from netip.AddrPort, forged bool) (c *net.UDPConn, err error) {
	listen := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) (err error) {
		if !forged {
			return nil
		}
		level, option := unix.SOL_IP, unix.IP_TRANSPARENT
		if network == "udp6" {
			level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
		e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
		return errors.Join(e, err)
	}}
	network := "udp4"
	if from.Addr().Is6() {
		network = "udp6"
	}
	err = w.host.Do(func() error {
		p, err := listen.ListenPacket(ctx, network, from.String())
		if err == nil {
			c = p.(*net.UDPConn)
		}
		return err
	})
	return c, err
}
