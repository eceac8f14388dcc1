//go:build linux

// Package fence maintains the nftables table `inet doorward`, which makes a door dark.
// Each change of grants is one transaction. It decides nothing and remembers nothing
// beyond the kernel's table: its caller says which doors to guard and whom to let in,
// and it does not repair by itself what others break. How the table is written and read
// is the business of internal/nftables.
//
// The table only ever drops: at prerouting after connection tracking (-200) and before
// destination NAT (-100), so that it works beside any other ruleset and also guards
// published ports of containers; and again where a packet arrives, after NAT and whatever
// routing table led there. It looks like this, without IPv6 and without what each rule
// matches a TCP segment by:
//
//	table inet doorward {
//		chain prerouting {
//			type filter hook prerouting priority mangle; policy accept;
//			iif "lo" accept
//			tcp flags & (syn | ack) != syn tcp dport @guarded.tcp FROM @cut.v4 update @cut.v4 { FROM timeout 1d } drop
//			tcp flags & (syn | ack) != syn accept         # judged where it ends
//			udp dport @guarded.udp jump flows
//			fib daddr type unicast fib daddr . iif type unicast accept
//			tcp dport vmap @doors.tcp                     # 22 : jump door-ssh
//			udp dport vmap @doors.udp
//			tcp dport @guarded.tcp goto refuse
//			udp dport @guarded.udp goto refuse
//		}
//		chain input {
//			type filter hook input priority mangle; policy accept;
//			iif "lo" tcp dport @listeners.tcp reject with tcp reset
//			iif "lo" udp dport @listeners.udp reject
//			iif "lo" accept
//			tcp flags & (syn | ack) != syn tcp dport @guarded.tcp jump midstream
//			udp dport @guarded.udp jump flows
//			tcp dport vmap @doors.tcp
//			udp dport vmap @doors.udp
//			tcp dport @guarded.tcp goto refuse
//			udp dport @guarded.udp goto refuse
//		}
//		chain midstream {
//			tcp flags & rst == rst accept
//			meta skuid != -1 socket wildcard 0 accept     # a live session
//			COMPLETES goto handshake
//			socket wildcard 1 return                      # no more than a listener
//			ct label LETIN accept
//		}
//		chain handshake {                                 # and back, to the door
//			update @used.v4 { tcp dport . ip saddr timeout 1d }
//			tcp dport vmap @handshakes                    # 23 : jump door-once.handshake
//		}
//		chain forward {                                   # published ports
//			type filter hook forward priority mangle; policy accept;
//			tcp flags == (syn | ack) ct direction reply ct label ASKED goto answer
//			FROM @pending.v4 jump published               # a segment as in COMPLETES
//		}
//		chain published {
//			meta priority set tcp ackseq ip saddr . meta priority != @acks.v4 meta priority set none return
//			update @used.v4 { ct original proto-dst . ip saddr timeout 1d }
//			ct original proto-dst vmap @handshakes
//			ct original proto-dst vmap @doors.tcp
//			ct original proto-dst @guarded.tcp goto refuse
//			meta priority set none
//		}
//		chain output {
//			type filter hook output priority mangle; policy accept;
//			oif != "lo" tcp flags == (syn | ack) tcp sport @guarded.tcp goto answer
//			ct label LETIN update @flows.v4 { TO timeout 1d }
//			TO @flows.v4 update @flows.v4 { TO timeout 1d }
//			TO @ended.v4 update @ended.v4 { TO timeout 1d }
//		}
//		chain flows {
//			ct state established ct label LETIN update @flows.v4 { FROM timeout 1d } accept
//			ct label LETIN accept
//			ct state established FROM @ended.v4 update @ended.v4 { FROM timeout 1d } return
//			ct state established FROM @flows.v4 update @flows.v4 { FROM timeout 1d } ct label set LETIN accept
//			ct state established accept                   # answers to this host
//		}
//		chain answer {
//			meta priority set tcp sequence + 1 goto remember
//		}
//		chain remember {
//			update @pending.v4 { TO timeout 130s } update @acks.v4 { ip daddr . meta priority timeout 130s } meta priority set none accept
//			drop
//		}
//		chain door-ssh {                                  # what returns is refused
//			ip saddr @door-ssh.always.v4 goto granted
//			ip saddr @door-ssh.v4.32 goto granted
//			ip saddr & 255.255.255.0 @door-ssh.v4.24 goto granted
//			counter name "door-ssh"
//		}
//		chain door-once {                                 # a door with grants of single use
//			tcp flags == syn ip saddr @door-once.v4.32 goto granted
//			counter name "door-once"
//		}
//		chain door-once.handshake {
//			ip saddr @door-once.v4.32 SPENT goto entered
//		}
//		chain granted {
//			COMPLETES goto entered
//			tcp flags == syn tcp option fastopen exists drop
//			tcp flags == syn FROM @cut.v4 delete @cut.v4 { FROM }
//			tcp flags == syn ct label set ASKED accept
//			FROM @ended.v4 update @flows.v4 { FROM timeout 1d } delete @ended.v4 { FROM }
//			meta l4proto udp ct label set LETIN accept
//			accept
//		}
//		chain entered {
//			delete @pending.v4 { FROM }
//			meta priority set none ct label set LETIN accept
//		}
//		chain refuse {
//			tcp flags == syn tcp dport @rejecting.tcp reject with tcp reset
//			udp dport @rejecting.udp reject
//			drop
//		}
//	}
//
// where COMPLETES is FROM @pending.v4 meta priority set tcp ackseq ip saddr . meta
// priority @acks.v4, for a valid segment with ACK and neither SYN nor RST, SPENT is add
// @door-once.turn.v4 { ip saddr timeout 10s } delete @door-once.v4.32 { ip saddr } ip saddr
// != @door-once.v4.32, FROM is ip saddr . udp sport . ip daddr . udp dport (or tcp's
// ports), and TO is ip daddr . udp dport . ip saddr . udp sport.
//
// The reasons:
//
//   - A SYN only asks. It needs a grant and spends nothing, so that a forged one
//     does neither good nor harm, and it needs one whatever connection tracking
//     believes about an older connection with its ports.
//   - What completes a handshake needs a grant again, and is what spends a
//     single-use grant. A connection comes about in no other way: the kernel makes
//     it, with a SYN cookie or without, from an ACK of the very number that its
//     SYN-ACK had, and that SYN-ACK was seen going out. Whoever cannot read the
//     visitor's packets does not know the number, and no other number counts: who
//     was let in, too, knows those of their own handshakes.
//   - A live session is one whose socket is live: early demultiplexing has found a
//     socket for the packet, and not that of a handshake. So it passes without
//     regard to connection tracking, which may forget it and never decides who
//     comes in. Connection tracking does decide about what is not yet a session, or
//     no longer one: a socket that its program has not accepted or has already
//     closed. A SYN cookie is good for two minutes, so somebody who was let in once
//     could come in again by the same ACK, if cookies are in use and the socket
//     ended without connection tracking seeing it: not where the service listens on
//     all addresses, as most do.
//   - Grants are elements of hash sets with the kernel's timeouts, one set for each
//     door, family and prefix length, and the rule masks the source. So a million
//     grants cost what one does, prefixes overlap freely, and "any" is length 0.
//     Lengths other than single addresses get their set and rule with the first
//     grant that needs them.
//   - At a published port the label distinguishes what was let in from what is
//     forwarded to other hosts. An entry from before the table has no room for a
//     label, so that its next SYN needs a grant, and the ACK that completes its
//     handshake does not.
//   - A forwarded connection has no socket here that could be ended. One that is
//     cut loses its entry, and is remembered, since connection tracking would take
//     it up again in mid-stream.
//   - A reset passes, whoever sends it: it makes no connection and is never
//     answered, and it is how a visitor's host aborts what a forger asked for in
//     its name.
//   - A UDP flow is its entry in connection tracking, in state "established": a
//     connection that a tracking helper was tricked into expecting ("related")
//     needs a grant like any other. (ICMP errors are not addressed to a guarded
//     port and pass.) But an answer is established, too, and a server that goes on
//     sending after its flow was ended, as mosh's and WireGuard do, turns what the
//     visitor sends into answers. Answers to the host's own clients must pass,
//     whose ports may be guarded. So the fence remembers which flows were let in
//     and answered, and which of them were ended, until both sides have been silent
//     for a day. (If the server is another machine, until the visitor has been. If
//     it listens on another port than the published one, its own datagrams come
//     from that port, which no door guards.)
//   - "unicast" must be the routing table's answer both with and without the
//     interface: the one alone does not know the addresses of a VRF's interfaces,
//     the other alone not those at another interface.
//   - A knock from the machine itself does not count: its users must not be able to
//     try knocks out, and a refusal that looks as if nobody listened tells them
//     nothing.
//   - Where the kernel has them (6.9), the flags owner and persist keep other
//     processes from changing the table, and keep the table when this process ends.
//   - Everything that belongs to a door has the door's name, and none of it refers
//     to another door: only the maps from ports lead to it. So doors are changed
//     one after another. There is little of it: at each change of rules the kernel
//     walks all there are (nft_table_validate), and to find a set it looks at all
//     sets. Therefore what doors have in common is not the door's, and who has used
//     one is kept by port.
//   - A port leads to its door by a jump, and what comes back is refused. So a door
//     that somebody emptied, or that no port leads to while ports move, lets nobody
//     in.
//   - Who completes a connection is noted before the door judges that again: only
//     somebody who was let in can, and it does no harm if the grant was withdrawn
//     meanwhile.
//   - A door is emptied by putting new sets in place of the old ones, which the
//     kernel frees after the transaction (nf_tables_api.c, nft_commit_release): half
//     a millisecond for a million grants, where removing them takes half a second.
package fence

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	nft "github.com/doorward/doorward/internal/nftables"
	"github.com/doorward/doorward/internal/port"
	"golang.org/x/sys/unix"
)

// ErrBusy is wrapped by errors of Open and Cleanup, and of any change that has to
// reconnect, when another live process owns the table.
var ErrBusy = errors.New("another process owns the nftables table inet doorward: " +
	"is doorwardd running already?")

// Changes take effect together, in this order. Doors in Empty lose all their grants,
// which costs the same however many there are.
type Changes struct {
	Empty        []string
	Revoke, Give []Grant
}

// Fence is the table in the kernel, with permanent connections to it. Its methods may be
// called from any goroutine. Calls that change the table take turns, each of which is
// short: Guard takes many. Calls that only read run alongside, over connections of their
// own. A failed call has changed nothing, unless it was Guard or the connection failed;
// in any case the next call reconnects if it must.
type Fence struct {
	log    *slog.Logger
	origin atomic.Uint32 // netlink port of conn: which identifies our own changes
	netns  atomic.Uint64 // where the table is

	guarding sync.Mutex // held by Guard and Check; taken before mu
	halted   bool       // the last Guard stopped between its parts; guarded by guarding
	lister   reader     // for lists of grants, which take long
	asker    reader     // for all other queries
	owned    atomic.Bool
	view     atomic.Pointer[view] // nil before the first Guard

	// mu is for changes alone, which visitors wait for: a query that had it when its thread
	// must give up its core would hold them up until that gets one again.
	mu     fair      // guards the fields below
	conn   *nft.Conn // nil: to be dialled
	plain  bool      // do without owner and persist even where they are
	manner manner    // of the table as it is to be
	closed bool
	shared part             // what all doors share; nil tables before the first Guard
	doors  map[string]*part // by name, as last guarded
}

// view is what was guarded after the last change, for calls that only read.
type view struct {
	shared part
	doors  map[string]*part // never changed; of a part, most is not read
}

// publish lets calls that only read see what is guarded.
func (f *Fence) publish() { f.view.Store(&view{f.shared, maps.Clone(f.doors)}) }

// guarded returns what is guarded.
func (f *Fence) guarded() (view, error) {
	v := f.view.Load()
	if v == nil {
		return view{}, errNoDoors
	}
	return *v, nil
}

// part is a part of the table. It is immutable, except most: it is replaced by another.
type part struct {
	door   Door           // that it was made for; zero for the part that all doors share
	ports  []port.Range   // that lead to the door now
	widths map[width]bool // of sets in addition to those for single addresses
	want   *nft.Table
	base   *nft.Table     // want as the kernel shows it
	most   map[string]int // how many elements there can be at most in each set of grants
}

// Open connects to the kernel, and adopts the table if there is one that another fence
// left; else it creates one, without any door. A table that Guard then finds keeps its
// grants. The caller must Close the fence; the table outlives it.
func Open(log *slog.Logger) (*Fence, error) { return open(log, false) }

func open(log *slog.Logger, plain bool) (*Fence, error) {
	f := &Fence{log: log, plain: plain}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.connect(); err != nil {
		return nil, fmt.Errorf("fence: %w", err)
	}
	for _, r := range []*reader{&f.lister, &f.asker} {
		if _, err := f.connectReader(r); err != nil {
			return nil, errors.Join(fmt.Errorf("fence: %w", err), f.close())
		}
	}
	log.Info("nftables table opened", "table", "inet "+tableName, "owned", f.Owned())
	return f, nil
}

// Owned says whether the kernel keeps other processes from changing the table, so that
// Watch is needed only where it does not (before Linux 6.9). A table made by hand is
// owned from the first Guard on.
func (f *Fence) Owned() bool { return f.owned.Load() }

// summary returns the first of the differences, and how many more there are.
func summary(differences []string) string {
	const most = 10
	if n := len(differences) - most; n > 0 {
		differences = append(slices.Clone(differences[:most]), fmt.Sprintf("and %d more", n))
	}
	return strings.Join(differences, "; ")
}

// Errors of calls in the wrong order.
var (
	errNoDoors = errors.New("no doors are guarded yet: call Guard first")
	errClosed  = errors.New("the fence is closed")
)

// Refused returns how many packets from strangers each guarded door has refused since it
// was first guarded.
func (f *Fence) Refused() (map[string]uint64, error) {
	refused := map[string]uint64{}
	err := f.ask(&f.asker, func(c *nft.Conn) error {
		return c.ReadCounters(func(name string, packets uint64) {
			if door := doorOf(name); door != "" {
				refused[door] = packets
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("fence: read counters: %w", err)
	}
	return refused, nil
}

// Close closes the connections and ends the use of the Fence, except for a Watch. The
// table stays and keeps guarding; its grants run out by themselves.
func (f *Fence) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.close(); err != nil {
		return fmt.Errorf("fence: close: %w", err)
	}
	return nil
}

func (f *Fence) close() error {
	f.closed = true
	errs := []error{f.lister.close(), f.asker.close()}
	if f.conn != nil {
		errs = append(errs, f.conn.Close())
	}
	f.conn = nil
	f.owned.Store(false)
	return errors.Join(errs...)
}

// Cleanup removes the table with everything in it; it succeeds if there is none. It fails
// with ErrBusy while a process owns the table.
func Cleanup() error {
	c, err := nft.Dial(tableName)
	if err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	defer c.Close()
	b := c.Batch()
	b.DeleteTable()
	err = patiently(func() error { return busy(c.Commit(b)) })
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("fence: clean up: %w", err)
	}
	return nil
}

// Stands says whether the table exists, whoever owns it.
func Stands() (bool, error) {
	c, err := nft.Dial(tableName)
	if err != nil {
		return false, fmt.Errorf("fence: %w", err)
	}
	defer c.Close()
	t, err := c.ReadTable()
	if err != nil {
		return false, fmt.Errorf("fence: %w", err)
	}
	return t != nil, nil
}
