//go:build linux

package sockdiag

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tape"
)

// diagMsg is struct inet_diag_msg as linux/inet_diag.h has it, for the second
// reader. Ports and addresses are in network byte order, the rest in the host's.
type diagMsg struct {
	Family, State, Timer, Retrans   uint8
	Sport, Dport                    [2]byte
	Src, Dst                        [16]byte
	If                              uint32
	Cookie                          [2]uint32
	Expires, RQueue, WQueue, UID, I uint32
}

func (m diagMsg) bytes(t testing.TB) []byte {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (m diagMsg) end(port [2]byte, addr [16]byte) netip.AddrPort {
	a := netip.AddrFrom16(addr)
	if m.Family == 2 {
		a = netip.AddrFrom4([4]byte(addr[:4]))
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(port[0])<<8|uint16(port[1]))
}

// FuzzSockets checks that a dump of sockets is read as the header file lays it out,
// or refused as a whole.
func FuzzSockets(f *testing.F) {
	four := diagMsg{Family: 2, State: 1, Sport: [2]byte{0, 22}, Src: [16]byte{192, 0, 2, 1}, Dst: [16]byte{192, 0, 2, 2}, UID: 1000, I: 9}
	six := diagMsg{Family: 10, State: 8, Sport: [2]byte{8, 174}, Src: [16]byte{0x20, 1, 0x0d, 0xb8}, I: 1}
	mapped := diagMsg{Family: 10, State: 10, Sport: [2]byte{0, 22}, Src: [16]byte{10: 255, 11: 255, 12: 192, 14: 2}}
	for _, ports := range []string{"", "\x00\x16\x00\x00", "\x00\x01\xff\xfe", "\x08\xae\x00\x00\x00\x16\x00\x00"} {
		for _, m := range []diagMsg{four, six, mapped, {Family: 1}} {
			f.Add(m.bytes(f), four.bytes(f), []byte(ports), uint16(0))
		}
	}
	f.Add(four.bytes(f)[:71], []byte(nil), []byte("\x00\x16\x00\x00"), uint16(0))
	f.Add(append(four.bytes(f), 8, 0, 1, 0, 1, 2, 3, 4), four.bytes(f), []byte("\x00\x16\x00\x00"), uint16(netlink.DumpInterrupted))
	f.Fuzz(func(t *testing.T, first, second, wanted []byte, flags uint16) {
		ports := drawRanges(tape.New(wanted))
		msgs := []netlink.Message{{Data: first}, {Data: second, Header: netlink.Header{Flags: netlink.HeaderFlags(flags)}}}
		got, whole, err := parseDump(msgs, port.TCP, ports)

		var want []Socket
		sound, interrupted := true, flags&0x10 != 0
		for i, b := range [][]byte{first, second} {
			var m diagMsg
			if i == 1 && interrupted || !sound {
				break
			}
			err := binary.Read(bytes.NewReader(b), binary.NativeEndian, &m)
			if sound = err == nil && (m.Family == 2 || m.Family == 10); !sound {
				break
			}
			s := Socket{port.TCP, m.end(m.Sport, m.Src), m.end(m.Dport, m.Dst), m.UID, m.I, m.State}
			if slices.ContainsFunc(ports, func(r port.Range) bool { return r.First <= s.Local.Port() && s.Local.Port() <= r.Last }) {
				want = append(want, s)
			}
		}
		if sound != (err == nil) || err == nil && whole == interrupted {
			t.Fatalf("parseDump: %v, whole %v; the second reader: sound %v, interrupted %v", err, whole, sound, interrupted)
		}
		if !whole {
			return
		}
		same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
		if d := cmp.Diff(want, append([]Socket(nil), got...), cmp.AllowUnexported(Socket{}), same); d != "" {
			t.Fatalf("sockets (-want +got):\n%s", d)
		}
	})
}

// drawRanges makes ranges of TCP ports, in any order. They may overlap.
func drawRanges(c *tape.Tape) []port.Range {
	var all []port.Range
	for c.More() && len(all) < 64 {
		first := max(1, c.Below(65536))
		all = append(all, port.Range{Proto: port.TCP, First: uint16(first), Last: uint16(min(65535, first+c.Below(65536)))})
	}
	return all
}

// FuzzPortFilter checks the filter program as the kernel does (inet_diag_bc_audit in
// inet_diag.c), runs it as the kernel does (inet_diag_bc_run), and compares the results
// with the ranges.
func FuzzPortFilter(f *testing.F) {
	f.Add([]byte("\x00\x16\x00\x00"), uint16(22))
	f.Add([]byte("\x00\x01\xff\xfe"), uint16(65535))
	f.Add([]byte("\x00\x50\x00\x02\x00\x16\x00\x00\x1f\x90\x00\x64"), uint16(0x1ff0))
	f.Add(bytes.Repeat([]byte("\x10\x00\x00\x01\x20\x00\x00\x01"), 32), uint16(0x2001))
	f.Fuzz(func(t *testing.T, wanted []byte, local uint16) {
		ports := drawRanges(tape.New(wanted))
		if len(ports) == 0 {
			return
		}
		code := portFilter(ports)
		if err := auditFilter(code); err != nil {
			t.Fatalf("the kernel would refuse the filter of %v: %v", ports, err)
		}
		near := []uint16{local, local + 1, local - 1}
		for _, r := range ports[:min(len(ports), 8)] {
			near = append(near, r.First, r.First-1, r.Last, r.Last+1)
		}
		for _, n := range near {
			want := slices.ContainsFunc(ports, func(r port.Range) bool { return r.First <= n && n <= r.Last })
			if got := runFilter(code, n); got != want {
				t.Fatalf("the filter of %v says %v to port %d", ports, got, n)
			}
			if got := port.Within(ports, port.Port{Proto: port.TCP, Number: n}); got != want {
				t.Fatalf("%v match port %d: %v", ports, n, got)
			}
		}
	})
}

type filterOp struct {
	code, yes uint8
	no        uint16
}

func opAt(code []byte, at int) filterOp {
	return filterOp{code[at], code[at+1], binary.NativeEndian.Uint16(code[at+2:])}
}

// auditFilter walks the program as the kernel does before accepting it: jumps are
// multiples of four and lead forward, to an operation, the end, or four bytes past it.
func auditFilter(code []byte) error {
	starts := map[int]bool{}
	for at := 0; at < len(code); at += int(opAt(code, at).yes) {
		starts[at] = true
		if len(code)-at < 4 || opAt(code, at).yes < 4 || opAt(code, at).yes%4 != 0 {
			return fmt.Errorf("operation at %d", at)
		}
	}
	for at := range starts {
		op, left := opAt(code, at), len(code)-at
		compares := op.code == opSourceAtLeast || op.code == opSourceAtMost
		switch {
		case !compares && op.code != opJump, compares && left < 8:
			return fmt.Errorf("operation %d at %d", op.code, at)
		case op.no < 4 || op.no%4 != 0 || int(op.no) > left+4:
			return fmt.Errorf("jump of %d at %d", op.no, at)
		case int(op.no) < left && !starts[at+int(op.no)], int(op.yes) > left+4:
			return fmt.Errorf("jump of %d at %d into an operation", op.no, at)
		}
	}
	return nil
}

// runFilter runs the program. A run that stops exactly at the end accepts.
func runFilter(code []byte, local uint16) bool {
	at := 0
	for at < len(code) {
		op := opAt(code, at)
		yes := false
		switch op.code {
		case opSourceAtLeast:
			yes = local >= opAt(code, at+4).no
		case opSourceAtMost:
			yes = local <= opAt(code, at+4).no
		}
		if yes {
			at += int(op.yes)
		} else {
			at += int(op.no)
		}
	}
	return at == len(code)
}
