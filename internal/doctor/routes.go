//go:build linux

package doctor

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// route is what doctor asks about a route of the caller's network namespace.
type route struct {
	to    netip.Prefix
	kind  uint8  // RTN_LOCAL, ... of rtnetlink(7)
	table uint32 // RT_TABLE_LOCAL, ...
	out   uint32 // the number of its interface; 0 for none, or for several
}

// routes reads the routes of all tables.
func routes() ([]route, error) {
	rib, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, syscall.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("read the routes: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil, fmt.Errorf("read the routes: %w", err)
	}
	var all []route
	for i := range messages {
		if r, ok := parseRoute(&messages[i]); ok {
			all = append(all, r)
		}
	}
	return all, nil
}

// parseRoute reads struct rtmsg and its attributes, rtnetlink(7).
func parseRoute(m *syscall.NetlinkMessage) (route, bool) {
	if m.Header.Type != syscall.RTM_NEWROUTE || len(m.Data) < syscall.SizeofRtMsg {
		return route{}, false
	}
	family, bits := m.Data[0], int(m.Data[1])
	r := route{kind: m.Data[7], table: uint32(m.Data[4])}
	to := netip.IPv4Unspecified()
	switch family {
	case unix.AF_INET:
	case unix.AF_INET6:
		to = netip.IPv6Unspecified()
	default:
		return route{}, false
	}
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return route{}, false
	}
	for _, a := range attributes {
		switch {
		case a.Attr.Type == unix.RTA_TABLE && len(a.Value) == 4:
			r.table = binary.NativeEndian.Uint32(a.Value)
		case a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4:
			r.out = binary.NativeEndian.Uint32(a.Value)
		case a.Attr.Type == unix.RTA_DST:
			var ok bool
			if to, ok = netip.AddrFromSlice(a.Value); !ok {
				return route{}, false
			}
		}
	}
	r.to = netip.PrefixFrom(to, bits)
	return r, r.to.IsValid()
}

// takenIn returns the local routes outside the table that the kernel keeps by itself:
// they deliver packets for other hosts here, to transparent listeners.
func takenIn() (all []route, err error) {
	rib, err := routes()
	for _, r := range rib {
		if r.kind == unix.RTN_LOCAL && r.table != unix.RT_TABLE_LOCAL {
			all = append(all, r)
		}
	}
	return all, err
}
