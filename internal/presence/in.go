//go:build linux

package presence

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/doorward/doorward/internal/conntrack"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/sockdiag"
)

// Connection is one live connection that came in, or one flow over UDP.
type Connection struct {
	Proto         port.Proto
	Local, Remote netip.AddrPort // as the peer has them; IPv4-mapped addresses as IPv4
}

// In returns who has come in by ports and is there still, each once, in the
// caller's network namespace and in no particular order. The peer of each is on
// another machine: what this machine says to itself is no presence, nor what it
// has begun.
//
//   - A TCP connection that ends here is its socket (sockdiag.Live), unless connection
//     tracking saw it begin here. What that took up in mid-stream, as after
//     `conntrack -F`, seems to have been begun by who was heard first; so it counts,
//     as does what is not tracked.
//   - A TCP connection that is forwarded, as to a container, has no socket here. It
//     is an established or half closed entry of which the destination was
//     translated.
//   - A flow over UDP needs no socket of its own: servers like WireGuard and mosh
//     have one for all. It is an entry that was answered, since a forged datagram
//     makes one as well. What connection tracking has forgotten and the server takes
//     up again begins here; it counts by the fence's word that it was let in.
//   - A connected UDP socket counts also when connection tracking has forgotten its
//     flow, unless its entry begins here and was not let in.
//
// The fence guards a port at whatever address is not another host's ("fib daddr
// type" in its rules), and labels what it lets in. So an entry is of a door if its
// first packet was to a guarded port of an address of this host, or has the label.
//
// When entries cannot be read, In returns what is known by sockets alone and an
// error that says what that means. After any other error nothing is known.
//
// A call lists the sockets of ports and asks connection tracking for what may be a
// visitor's: twice for TCP and for UDP, and twice more if there are such sockets.
// That is for all ports of a protocol, or for each of them while they are few
// (fewPorts; of UDP twice as often). For each question the kernel walks its table,
// of nf_conntrack_max entries at most: 200,000 take 40 ms. Of single ports it sends
// only what matches; of many, all that is answered (UDP) or translated (TCP), and
// to tell who began all of the protocol, 3 µs each. Memory is for those who are in.
func In(ports []port.Range) ([]Connection, error) {
	sockets, err := sockdiag.Live(ports)
	if err != nil {
		return nil, fmt.Errorf("who is in cannot be seen, so that nobody counts: %w", err)
	}
	t := newTracked(ports, ownAddresses)
	conn, unseen := conntrack.Dial()
	if unseen == nil {
		defer conn.Close()
		t.kernel = conn
		unseen = t.flows()
	}
	for _, s := range sockets {
		t.hold(Connection{s.Proto, s.Local, s.Remote})
	}
	if t.err != nil {
		return nil, fmt.Errorf("whose addresses are this host's own cannot be read, so that nobody counts as being in: %w", t.err)
	}
	if unseen == nil {
		unseen = t.dropBegun()
	}
	return slices.Collect(maps.Keys(t.in)), blind(unseen)
}

// FlowsVisible returns nil if flows that end in no socket of this machine can be
// seen: those over UDP to a server that does not connect its socket, and those
// that are forwarded. Else it says why not; without CAP_NET_ADMIN it is an error
// that Is fs.ErrPermission, and any other means that the kernel has no ctnetlink.
func FlowsVisible() error { return conntrack.Visible() }

// blind says what it means for a door that flows cannot be seen; nil if they can.
func blind(err error) error {
	if err == nil {
		return nil
	}
	if why := FlowsVisible(); why != nil {
		err = why
	}
	return fmt.Errorf("flows cannot be seen, so that only connected sockets count: users of forwarded ports, and of a service "+
		"over UDP that does not connect its socket, are not seen, and the door goes dark under them: %w", err)
}
