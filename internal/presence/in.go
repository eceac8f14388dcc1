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
	Local, Remote netip.AddrPort // as the peer sees them; IPv4-mapped addresses as IPv4
	// Socket is the inode of the socket that it ends in, which distinguishes it from a
	// later one with the same addresses; 0 if there is none, or no program has accepted
	// it yet.
	Socket uint32
}

// looksAtOnce limits the concurrent queries to connection tracking, each of which walks
// the kernel's table.
const looksAtOnce = 4

// Watcher finds out who is in, in one network namespace. Its connections to the kernel
// last as long as the process: closing one waits for everything that nf_tables has still
// to free, with the lock of its transactions held (nf_tables_api.c, nft_rcv_nl_event), so
// that after a door with a million grants was emptied nobody would get in for a second.
// It may be used by several goroutines at once.
type Watcher struct {
	dial         func() (*conntrack.Conn, error)
	looks, short chan *conntrack.Conn // idle connections, for In and for FlowsVisible; nil: to be made
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

// ask runs queries over one of the idle connections. One that broke is not reused.
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

// In returns who has come in through ports and is still there, each once, and in no
// particular order. The peer of each is on another machine: connections within this
// machine are not presence, nor are those that it has begun.
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
// The fence guards a port at every address that is not another host's ("fib daddr type"
// in its rules), and labels what it lets in. So an entry belongs to a door if its first
// packet was to a guarded port of an address of this host, or if it has the label.
//
// If entries cannot be read, In returns what the sockets alone show, and an error that
// says what that means. After any other error nothing is known.
//
// A call lists the sockets of ports and asks connection tracking for what may be a
// visitor's: twice for TCP and for UDP, and twice more if there are such sockets. That is
// for all ports of a protocol, or for each of them while they are few (fewPorts; of UDP
// twice as often). For each question the kernel walks its table, of nf_conntrack_max
// entries at most: 200,000 take 40 ms. For single ports it sends only what matches; for
// many, all that is answered (UDP) or translated (TCP), and to find out which side began,
// all of the protocol, 3 µs each. Memory is used only for those who are in.
//
// Calls at about the same time share one check.
func (w *Watcher) In(ports []port.Range) ([]Connection, error) { return w.joined.ask(ports, w.in) }

// in is In with a check of its own.
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

// Came returns those addresses and ports, out of from, from which a TCP connection came
// in through ports, ended or not, as far as connection tracking remembers: after its end
// for two minutes as a rule (nf_conntrack_tcp_timeout_time_wait), for ten seconds after a
// reset. It is for callers that check too late to see them. A call costs as much as one
// of In's queries.
func (w *Watcher) Came(ports []port.Range, from []netip.AddrPort) (came []netip.AddrPort, err error) {
	t, asked := newTracked(ports, ownAddresses), make(map[netip.AddrPort]bool, len(from))
	for _, a := range from { // whoever may write to a log can cause many queries
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

// ErrFlows is In's error if it knows only what sockets show.
var ErrFlows = errors.New("flows cannot be seen")

// FlowsVisible returns nil if flows that end in no socket of this machine can be seen:
// those over UDP to a server that does not connect its socket, and those that are
// forwarded. Otherwise it says why not; without CAP_NET_ADMIN it is an error that Is
// fs.ErrPermission, and any other means that the kernel has no ctnetlink. It waits for no
// check.
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
