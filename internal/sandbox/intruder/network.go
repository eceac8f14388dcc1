//go:build linux

package main

import (
	"errors"
	"net"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Constants that golang.org/x/sys/unix does not have.
const (
	protoSMC       = 256
	soReplaceRules = 64 // IPT_SO_SET_REPLACE, linux/netfilter_ipv4/ip_tables.h
)

// network are attempts to send data to somebody who has not connected, and to change the
// network's configuration.
func (t *target) network() []attempt {
	all := []attempt{
		{"connect out", t.connect},
		{"connect out by MPTCP", func() error { return t.dial(unix.SOCK_STREAM, unix.IPPROTO_MPTCP) }},
		{"connect out by the listener", t.turn},
		{"connect out by SMC", func() error { return socket(unix.AF_INET, unix.SOCK_STREAM, protoSMC) }},
		{"connect out by SCTP", func() error { return socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP) }},
		{"send data by fast open", func() error { return t.fastOpen(unix.Sendto) }},
		{"send a message by fast open", func() error {
			return t.fastOpen(func(fd int, p []byte, flags int, to unix.Sockaddr) error { return unix.Sendmsg(fd, p, nil, to, flags) })
		}},
		{"send a datagram", func() error { return t.dial(unix.SOCK_DGRAM, 0) }},
		{"open a datagram socket over IPv6", func() error { return socket(unix.AF_INET6, unix.SOCK_DGRAM, 0) }},
		{"open a raw socket", func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) }},
		{"open a ping socket", func() error { return socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP) }},
		{"open a packet socket", func() error { return socket(unix.AF_PACKET, unix.SOCK_RAW, 0) }},
		{"open a Bluetooth socket", func() error { return socket(unix.AF_BLUETOOTH, unix.SOCK_RAW, 0) }},
		{"open a socket to the hypervisor", func() error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0) }},
		{"open a crypto socket", func() error { return socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0) }},
		{"change routes", func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE) }},
		{"change IPsec", func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_XFRM) }},
		{"ask any driver", func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC) }},
		{"take an interface down", func() error { return control(unix.AF_INET, unix.SIOCSIFFLAGS) }},
		{"wait for fast open", func() error { return tcpOption(unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 1) }},
		{"change the protocol", func() error { return tcpOption(unix.IPPROTO_TCP, unix.TCP_ULP, 0) }},
		{"listen for others' addresses", func() error { return tcpOption(unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1) }},
		{"replace the packet filter of old", func() error { return tcpOption(unix.IPPROTO_IP, soReplaceRules, 0) }},
		{"mark its packets", func() error { return tcpOption(unix.SOL_SOCKET, unix.SO_MARK, 1) }},
		{"connect to an abstract socket", func() error { return dialUnix(t.abstract.Addr().String()) }},
	}
	if t.alone {
		all = append(all, attempt{"connect to a unix socket", func() error { return dialUnix("/run/doorward-nobody") }},
			attempt{"send to a unix socket", func() error { return socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0) }},
			attempt{"send to a unix socket from a pair", func() error {
				_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
				return err
			}})
	}
	return all
}

func (t *target) connect() error {
	c, err := net.DialTimeout("tcp", t.listener.Addr().String(), 5*time.Second)
	if err == nil {
		c.Close()
	}
	return err
}

// address returns the address to which the intruder would send what it knows.
func (t *target) address() unix.Sockaddr {
	a, _ := t.listener.Addr().(*net.TCPAddr)
	return &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())}
}

// dial connects with a socket of a kind.
func (t *target) dial(kind, proto int) error {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, t.address()); err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("what I know"))
	return err
}

// turn connects out with a socket that was a listener.
func (t *target) turn() error {
	l, ok := t.spare.(*net.TCPListener)
	if !ok {
		return errors.New("no TCP listener")
	}
	f, err := l.File()
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		return err
	}
	return unix.Connect(fd, t.address())
}

// fastOpen sends data with the SYN, which takes no call of connect(2).
func (t *target) fastOpen(send func(int, []byte, int, unix.Sockaddr) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return send(fd, []byte("what I know"), unix.MSG_FASTOPEN, t.address())
}

func tcpOption(level, name, value int) error {
	return option(unix.AF_INET, unix.SOCK_STREAM, 0, level, name, value)
}

func dialUnix(name string) error {
	c, err := net.Dial("unix", name)
	if err == nil {
		c.Close()
	}
	return err
}

// control makes an ioctl(2) request on a socket. A request for a network interface,
// netdevice(7), is for the loopback interface.
func control(family int, request uint) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var r [40]byte // struct ifreq, with no flags
	copy(r[:], "lo")
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(&r)))
	return failure(errno)
}
