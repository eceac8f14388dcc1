//go:build linux

package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/ruleset"
)

// Firewalls reads the rules of other firewalls, and returns a function that says what
// they do with what an address sends to some ports of this machine: a Problem for what
// drops it, a Warning for what may, a Note for what cannot be read. It answers for the
// caller's network namespace, and needs CAP_NET_ADMIN.
func Firewalls(source netip.Addr) (do func(ports []port.Range) []Finding, err error) {
	rules, err := ruleset.Read(ownChain)
	if err != nil {
		return nil, err
	}
	own, err := ownAddresses()
	if err != nil {
		return nil, fmt.Errorf("read this machine's addresses: %w", err)
	}
	way, err := wayFrom(source)
	if err != nil {
		return nil, err
	}
	return func(ports []port.Range) []Finding {
		j := &judge{rules: rules, own: own, ways: []arrival{way}, from: []netip.Addr{source}, who: source.String(), other: 1}
		c := &config.Config{Doors: []config.Door{{Ports: ports}}}
		all := append(j.fates(ports), (&Host{}).unseen(rules, c)...)
		return slices.DeleteFunc(all, func(f Finding) bool { return f.Verdict == OK })
	}, nil
}

// wayFrom returns the way in which the packets of an address come in: where the best
// route to it leads out. Where there is none, or several are equally good, the interface
// is not known.
func wayFrom(source netip.Addr) (arrival, error) {
	all, err := routes()
	if err != nil {
		return arrival{}, err
	}
	way, best := arrival{ipv6: source.Is6()}, -1
	for _, r := range all {
		if r.kind != unix.RTN_UNICAST || r.table != unix.RT_TABLE_MAIN || !r.to.Contains(source) || r.to.Bits() < best {
			continue
		}
		if r.to.Bits() == best && r.out != way.index {
			way.index = 0
			continue
		}
		best, way.index = r.to.Bits(), r.out
	}
	i, err := net.InterfaceByIndex(int(way.index))
	if err != nil || i.Flags&net.FlagLoopback != 0 {
		way.index = 0
		return way, nil
	}
	way.name, way.here = i.Name, interfaceAddresses(i, way.ipv6)
	return way, nil
}
