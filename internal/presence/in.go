//go:build linux

package presence

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/doorward/doorward/internal/conntrack"
	"github.com/doorward/doorward/internal/nfnetlink"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/sockdiag"
)

// Connection is one live connection that came in, or one flow over UDP.
type Connection struct {
	Proto         port.Proto
	Local, Remote netip.AddrPort // as the peer has them; IPv4-mapped addresses as IPv4
	// Socket is the inode of the one that it ends in, by which it is told from another
	// of the same name later; 0 where there is none, or no program has taken it yet.
	Socket uint32
}

// looksAtOnce bounds the questions to connection tracking that are under way, each of
// which is a walk through the kernel's table.
const looksAtOnce = 4

// Watcher looks who is in, in one network namespace. Its connections to the kernel
// last as long as the process: to close one waits for all that nf_tables has still to
// free, with the lock of its transactions held (nf_tables_api.c, nft_rcv_nl_event),
// so that after a door with a million grants was emptied nobody would get in for a
// second. It may be used by several goroutines at once.
type Watcher struct {
	dial         func() (*conntrack.Conn, error)
	looks, short chan *conntrack.Conn // those that are free, for In and for FlowsVisible; nil: to be made
	joined       *joined
}

// NewWatcher returns a Watcher of the network namespace that its callers are in.
func NewWatcher() *Watcher { return newWatcher(conntrack.Dial) }

func newWatcher(dial func() (*conntrack.Conn, error)) *Watcher {
	w := &Watcher{dial: dial, looks: make(chan *conntrack.Conn, looksAtOnce), short: make(chan *conntrack.Conn, 1), joined: newJoined()}
	for range looksAtOnce {
		w.looks <- nil
	}
	w.short <- nil
	return w
}

// ask has questions asked over one of the connections that are free. One that broke
// is not used again.
func (w *Watcher) ask(free chan *conntrack.Conn, questions func(*conntrack.Conn) error) (err error) {
	conn := <-free
	defer func() { free <- conn }()
	if conn == nil {
		if conn, err = w.dial(); err != nil {
			return err
		}
	}
	if err = questions(conn); errors.Is(err, nfnetlink.ErrBroken) {
		conn.Close()
		conn = nil
	}
	return err
}

// In returns who has come in by ports and is there still, each once, and in no
// particular order. The peer of each is on
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
//
// Calls at about the same time have one look at all of it together.
func (w *Watcher) In(ports []port.Range) ([]Connection, error) { return w.joined.ask(ports, w.in) }

// in is In by a look of its own.
func (w *Watcher) in(ports []port.Range) ([]Connection, error) {
	sockets, err := sockdiag.Live(ports)
	if err != nil {
		return nil, fmt.Errorf("cannot see who is in, so nobody counts: %w", err)
	}
	t := newTracked(ports, ownAddresses)
	unseen := w.ask(w.looks, func(conn *conntrack.Conn) error { t.kernel = conn; return t.flows() })
	inode := make(map[Connection]uint32, len(sockets))
	for _, s := range sockets {
		c := Connection{Proto: s.Proto, Local: s.Local, Remote: s.Remote}
		inode[c] = s.Inode
		t.hold(c)
	}
	if t.err != nil {
		return nil, fmt.Errorf("cannot read this host's own addresses, so nobody counts as being in: %w", t.err)
	}
	if unseen == nil {
		unseen = w.ask(w.looks, func(conn *conntrack.Conn) error { t.kernel = conn; return t.dropBegun() })
	}
	in := make([]Connection, 0, len(t.in))
	for c := range t.in {
		c.Socket = inode[c]
		in = append(in, c)
	}
	return in, w.blind(unseen)
}

// Came returns those of some addresses and ports from which a TCP connection came in
// by ports, ended or not, as far as connection tracking remembers: after its end for
// two minutes as a rule (nf_conntrack_tcp_timeout_time_wait), for ten seconds after a
// reset. It is for who looks too late to meet them. A call costs as much as one of the
// questions of In.
func (w *Watcher) Came(ports []port.Range, from []netip.AddrPort) (came []netip.AddrPort, err error) {
	t, asked := newTracked(ports, ownAddresses), make(map[netip.AddrPort]bool, len(from))
	for _, a := range from { // who may write to a log can have many asked for
		asked[a] = true
	}
	err = w.ask(w.looks, func(conn *conntrack.Conn) error {
		t.kernel = conn
		return t.list(port.TCP, func(p uint16) []conntrack.Filter {
			return []conntrack.Filter{{Status: conntrack.Assured, ToPort: p}}
		}, func(e conntrack.Entry) {
			if t.guards(port.TCP, e.Original.To) && asked[e.Original.From] {
				came = append(came, e.Original.From)
			}
		})
	})
	return came, err
}

// ErrFlows is of In, where it knows by sockets alone.
var ErrFlows = errors.New("flows cannot be seen")

// FlowsVisible returns nil if flows that end in no socket of this machine can be
// seen: those over UDP to a server that does not connect its socket, and those
// that are forwarded. Else it says why not; without CAP_NET_ADMIN it is an error
// that Is fs.ErrPermission, and any other means that the kernel has no ctnetlink. It
// waits for no look.
func (w *Watcher) FlowsVisible() error { return w.ask(w.short, (*conntrack.Conn).Visible) }

// blind says what it means for a door that flows cannot be seen; nil if they can.
func (w *Watcher) blind(err error) error {
	if err == nil {
		return nil
	}
	if why := w.FlowsVisible(); why != nil {
		err = why
	}
	return fmt.Errorf("%w, so only connected sockets count: users of forwarded ports, and of a service "+
		"over UDP that does not connect its socket, are not seen, and the door goes dark while they are in: %w", ErrFlows, err)
}
