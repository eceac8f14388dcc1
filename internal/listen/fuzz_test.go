//go:build linux

package listen

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// FuzzSignals checks that the kernel's records of arrivals are read as its own struct
// has them: in their order, and none at all once signals were lost.
func FuzzSignals(f *testing.F) {
	record := func(signal uint32, fd int32) []byte {
		var b bytes.Buffer
		if err := binary.Write(&b, binary.NativeEndian, unix.SignalfdSiginfo{Signo: signal, Fd: fd}); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	some, lost := record(uint32(arrived), 3), record(uint32(unix.SIGIO), 4)
	f.Add([]byte{})
	f.Add(some)
	f.Add(some[:signalSize-1])
	f.Add(slices.Concat(some, record(uint32(arrived), 4), some, record(uint32(arrived), 9), record(uint32(arrived), -1)))
	f.Add(slices.Concat(some, lost, some))
	f.Fuzz(func(t *testing.T, b []byte) {
		listeners := map[int]*socket{3: {port: 1, fd: 3}, 4: {port: 2, fd: 4}, 0: {port: 3}}
		a := &arrivals{log: slog.New(slog.DiscardHandler)}
		now := time.Unix(1, 0)
		a.add(b, listeners, now)

		var want []arrival
		lost := false
		for r := bytes.NewReader(b); ; {
			var info unix.SignalfdSiginfo
			if binary.Read(r, binary.NativeEndian, &info) != nil {
				break
			}
			lost = lost || unix.Signal(info.Signo) == unix.SIGIO
			if s := listeners[int(info.Fd)]; s != nil {
				want = append(want, arrival{s, now})
			}
		}
		if lost {
			want = nil
		}
		var got []arrival
		for x, ok := a.first(); ok; x, ok = a.first() {
			got = append(got, x)
			a.pop()
		}
		if a.lost != lost || !slices.Equal(got, want) {
			t.Fatalf("arrivals %v, lost %v; want %v, lost %v", got, a.lost, want, lost)
		}
	})
}

// FuzzAddress checks that a visitor's address is the one in the kernel's struct, without
// a zone, and IPv4 as IPv4: what the fence lets in.
func FuzzAddress(f *testing.F) {
	for _, a := range []string{"192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::1", "::", "::1"} {
		f.Add(netip.MustParseAddr(a).AsSlice(), uint32(2))
	}
	f.Fuzz(func(t *testing.T, b []byte, zone uint32) {
		want, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		var got netip.Addr
		if want.Is4() {
			got = address(&unix.SockaddrInet4{Addr: want.As4()})
		} else {
			got = address(&unix.SockaddrInet6{Addr: want.As16(), ZoneId: zone})
		}
		mapped := append(make([]byte, 10), 255, 255) // RFC 4291, section 2.5.5.2
		if tail, is := bytes.CutPrefix(b, mapped); is {
			b = tail
		}
		if !bytes.Equal(got.AsSlice(), b) || got.Zone() != "" {
			t.Fatalf("address %s, want that of %x", got, b)
		}
	})
}
