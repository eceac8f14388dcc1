//go:build linux

package listen

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// FuzzSignals holds that the kernel's records of arrivals are read as its own
// struct has them: in their order, and none at all once signals were lost.
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
		listeners := map[int]*listener{3: {port: 1, fd: 3}, 4: {port: 2, fd: 4}, 0: {port: 3}}
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
			if l := listeners[int(info.Fd)]; l != nil {
				want = append(want, arrival{l, now})
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

// FuzzAddress holds that a visitor's address is the one in the kernel's struct,
// without zone and IPv4 as IPv4: what the fence lets in.
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

var listening = regexp.MustCompile(`^ *[^ ]+ +[^ :]*:0*([0-9A-Fa-f]{1,4}) +[^ ]+ +0A +[^ ]+ +[^ ]+ +[^ ]+ +([^ ]+) +[^ ]+ +([^ ]+)`)

// FuzzHolder holds that the holder of a port is looked for in all lines of the
// kernel's table that are of listeners, which come first.
func FuzzHolder(f *testing.F) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	line := func(addr string, port int, state string, uid, inode int) string {
		return fmt.Sprintf("   0: %s:%04X 00000000:0000 %s 00000000:00000000 00:00000000 00000000  %4d        0 %d 1 0 100 0 0 10 0\n",
			addr, port, state, uid, inode)
	}
	f.Add(head+line("0100007F", 22, "0A", 0, 77)+line("00000000", 80, "0A", 33, 78)+line("0100007F", 443, "01", 0, 79), uint16(80))
	f.Add(head+line("0100007F", 22, "01", 0, 77)+line("00000000", 80, "0A", 33, 78), uint16(80))
	f.Add(head, uint16(22))
	f.Add("", uint16(0))
	f.Add(head+"   0: :10016 0 0A 0 0 0 0 0 0\n", uint16(22))
	path := filepath.Join(f.TempDir(), "tcp")
	f.Fuzz(func(t *testing.T, text string, p uint16) {
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
			return // the kernel prints ASCII
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var want [2]string
		found := false
		lines := strings.Split(text, "\n")
		for _, l := range lines[min(1, len(lines)):] {
			m := listening.FindStringSubmatch(l)
			if f := strings.Fields(l); len(f) < 10 || f[3] != "0A" {
				break
			}
			if m == nil {
				continue
			}
			if n, err := strconv.ParseUint(m[1], 16, 16); err == nil && uint16(n) == p {
				want, found = [2]string{m[3], m[2]}, true
				break
			}
		}
		inode, uid, ok := findListener(path, p)
		if ok != found || ok && want != [2]string{inode, uid} {
			t.Fatalf("%q: port %d is held by %q of %q (%v), want %q (%v)", text, p, inode, uid, ok, want, found)
		}
	})
}
