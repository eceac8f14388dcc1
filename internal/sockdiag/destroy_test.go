//go:build linux

package sockdiag

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
)

// The connections that are named end, with a reset for both sides, and no others; one that
// is not there is no error.
func TestDestroy(t *testing.T) {
	server, visitor := nstest.Gate(t)
	l := server.Listen("tcp", ":22")
	type pair struct{ in, out net.Conn }
	connect := func(address string) (p pair) {
		p.out = visitor.Dial("tcp", address)
		var err error
		if p.in, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.in.Close() })
		return p
	}
	four, six, stays := connect("192.0.2.1:22"), connect("[2001:db8::1]:22"), connect("192.0.2.1:22")
	ends := func(p pair) Ends {
		local, remote := netip.MustParseAddrPort(p.in.LocalAddr().String()), netip.MustParseAddrPort(p.in.RemoteAddr().String())
		return Ends{netip.AddrPortFrom(local.Addr().Unmap(), local.Port()), netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())}
	}
	gone := Ends{netip.MustParseAddrPort("192.0.2.1:22"), netip.MustParseAddrPort("192.0.2.2:1")}
	server.Do(func() error { return Destroy([]Ends{ends(four), gone, ends(six)}) })
	for name, p := range map[string]pair{"IPv4": four, "IPv6": six} {
		if _, err := p.in.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("%s: the server reads %v, want that it was aborted", name, err)
		}
		if _, err := p.out.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: the visitor reads %v, want a reset", name, err)
		}
	}
	if _, err := stays.in.Write([]byte("x")); err != nil {
		t.Errorf("another connection: %v", err)
	}
	if _, err := io.ReadFull(stays.out, make([]byte, 1)); err != nil {
		t.Errorf("another connection: %v", err)
	}
	if err := Destroy(nil); err != nil {
		t.Errorf("nothing to end: %v", err)
	}
}
