//go:build linux

package presence

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// addresses are a host's own addresses.
type addresses struct {
	single   map[netip.Addr]bool
	prefixes []netip.Prefix // few: 127.0.0.0/8, and those that are routed to it whole
}

func (a *addresses) has(addr netip.Addr) bool {
	if addr.IsLoopback() || a.single[addr] {
		return true
	}
	for _, p := range a.prefixes {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// shortest is the length of the shortest prefix that is a host's own. A transparent proxy
// has a shorter route, such as ::/0 or 2000::/3 in a table of its own, to receive what is
// for others; visitors' addresses are among those.
func shortest(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 1 // of IPv4 the table is known
	}
	return 32
}

// add adds a prefix.
func (a *addresses) add(p netip.Prefix) {
	switch {
	case p.Bits() < shortest(p):
	case p.IsSingleIP():
		a.single[p.Addr()] = true
	default:
		a.prefixes = append(a.prefixes, p)
	}
}

// ownAddresses reads the addresses of the thread's network namespace: where its routes
// lead to itself (RTN_LOCAL, rtnetlink(7)), which takes in prefixes that no interface
// has. The files of proc_net(5) show this without a socket that could also change routes.
// That costs a line or two for each route.
func ownAddresses() (*addresses, error) {
	a := &addresses{single: make(map[netip.Addr]bool)}
	for _, file := range []struct {
		name string
		read func(*addresses, io.Reader) error
	}{{"fib_trie", (*addresses).readIPv4}, {"ipv6_route", (*addresses).readIPv6}} {
		// Of the thread, since others may be in another namespace.
		f, err := os.Open("/proc/thread-self/net/" + file.name)
		if errors.Is(err, fs.ErrNotExist) && file.name == "ipv6_route" {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, err
		}
		err = file.read(a, f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", f.Name(), err)
		}
	}
	return a, nil
}

// Own says whether an address is the host's own, or the network namespace's of the
// thread: what comes from there comes over the loopback interface.
func Own(addr netip.Addr) (bool, error) {
	a, err := ownAddresses()
	if err != nil {
		return false, fmt.Errorf("read the host's own addresses: %w", err)
	}
	return a.has(addr.Unmap().WithZone("")), nil
}

// ownOfLook are a host's own addresses as of one look, read when they are first
// asked for. The zero value has read none.
type ownOfLook struct{ a *addresses }

// has says whether addr is the host's own. If the addresses cannot be read it returns
// false: that is reported when connections are checked.
func (o *ownOfLook) has(addr netip.Addr) bool {
	if o.a == nil {
		var err error
		if o.a, err = ownAddresses(); err != nil {
			o.a = &addresses{}
		}
	}
	return o.a.has(addr.WithZone(""))
}

// readIPv4 reads the tables main and local as fib_trie_seq_show of the kernel's
// net/ipv4/fib_trie.c writes them; until there is a rule they are one. Of other
// tables it takes single addresses alone: a VRF has its interfaces' there, and a
// transparent proxy what is for others. A leaf is an address, and under it stands
// each prefix that begins with it:
//
//	Local:
//	  |-- 127.0.0.0
//	     /8 host LOCAL
func (a *addresses) readIPv4(r io.Reader) error {
	ours, leaf := false, netip.Addr{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch {
		case len(words) == 0:
		case strings.HasSuffix(words[len(words)-1], ":"): // a table
			ours = words[0] == "Main:" || words[0] == "Local:"
		case len(words) == 2 && words[0] == "|--":
			leaf, _ = netip.ParseAddr(words[1])
		case len(words) >= 3 && words[2] == "LOCAL" && (ours || words[0] == "/32"):
			bits, err := strconv.Atoi(strings.TrimPrefix(words[0], "/"))
			p := netip.PrefixFrom(leaf, bits)
			if err != nil || !leaf.Is4() || !p.IsValid() {
				return fmt.Errorf("a route that cannot be read: %q", lines.Text())
			}
			a.add(p)
		}
	}
	return lines.Err()
}

// What the kernel knows of an IPv6 route, of linux/ipv6_route.h.
const (
	rtfAnycast = 0x00100000
	rtfLocal   = 0x80000000
)

// readIPv6 reads all tables as rt6_print of the kernel's net/ipv6/route.c (once
// rt6_info_route) writes them, in hexadecimal:
//
//	DESTINATION LENGTH SOURCE LENGTH NEXT-HOP METRIC REFERENCES USES FLAGS INTERFACE
func (a *addresses) readIPv6(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 10 {
			return fmt.Errorf("a route that cannot be read: %q", lines.Text())
		}
		flags, err1 := strconv.ParseUint(words[8], 16, 32)
		if err1 == nil && flags&(rtfLocal|rtfAnycast) == 0 {
			continue
		}
		to, err2 := hex.DecodeString(words[0])
		bits, err3 := strconv.ParseUint(words[1], 16, 8)
		addr, ok := netip.AddrFromSlice(to)
		p := netip.PrefixFrom(addr, int(bits))
		if errors.Join(err1, err2, err3) != nil || !ok || !p.IsValid() {
			return fmt.Errorf("a route that cannot be read: %q", lines.Text())
		}
		a.add(p)
	}
	return lines.Err()
}
