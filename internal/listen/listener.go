//go:build linux

// Package listen listens on open TCP ports: it reports who completed a handshake with
// which port, and when. It never sends a byte and never reads one; a connection is closed
// as it is accepted. It knows nothing about doors and judges nothing.
//
// # Order
//
// Touches are delivered in the order in which their handshakes were completed, however
// many others connect meanwhile: a knock whose ports must be touched in the given order
// is not spoiled by strangers. The kernel has a queue for each port and does not say when
// a connection entered it, so serving the queues in turn mixes up what waits at different
// depths. The ages that it does report (TCP_INFO) are in ticks of up to 10 ms, in which a
// visitor nearby touches several ports. But it announces each connection at the moment
// when it enters its queue, by a signal (F_SETSIG in fcntl(2); tcp_child_process in the
// kernel's net/ipv4/tcp_minisocks.c), and real-time signals are queued in the order in
// which they were sent. The loop reads them and accepts accordingly.
//
// The number of pending signals is limited for each user (RLIMIT_SIGPENDING), and each
// stands for a waiting connection. So the ports' queues together are not longer than
// that; see backlog. If other processes of the user take up the room, some signals are
// lost, which is logged; then ports are served in turn until no connection waits. No
// touch depends on a signal to be heard.
//
// A touch's time is when the loop learned of it: its order is exact, its time is later
// than the handshake by as long as the loop was busy or did not run. Behind reports the
// latter.
//
// # Floods
//
// All clients share the ports' queues; who they are is known only when they are accepted,
// so none can be preferred here. If connections come faster than they are accepted (about
// 9 µs each), a touch waits behind the earlier ones, a queue's length at most. When a
// queue is full, the kernel ignores the visitor's SYN, and they try again after a second;
// or it ignores the ACK that ends the handshake, after which the visitor believes that
// they are connected and the touch comes a second late, or never if they reset the
// connection: like any loss of packets this can change the order of touches. Only a limit
// on each source's connections before they reach the queues can prevent that.
//
// # Holding
//
// A port that is closed for a while stays bound (Ports.Shut), so that no other user of
// the machine can listen there meanwhile and learn a knock. To a visitor it looks like an
// unused port: the kernel answers both with RST. Such a socket must not have
// SO_REUSEADDR, or anybody's socket that has it could be bound beside it. Without that
// option the socket's own ended connections (TIME_WAIT) would keep it from listening
// again; so they have SO_REUSEPORT, which works only between sockets of one user, and the
// socket has it while it begins to listen (inet_bind_conflict in the kernel's
// net/ipv4/inet_connection_sock.c).
//
// For the same reason an FDStore can keep the sockets for the next process. While there
// is none, connections wait in the kernel. The Listener that inherits them orders them by
// age, as far as that is exact: see inherit.go.
//
// # Closing
//
// A connection is ended with FIN as it is accepted, and with RST if the visitor still
// holds it after closeDelay. The FIN lets their connect succeed: after an immediate RST,
// connect(2) may fail with ECONNRESET. The RST ends programs that would wait for their
// user otherwise (nc), and visitors who complete the handshake and then fall silent.
//
// The price of FIN is a descriptor for that time, and then an entry of 256 bytes in the
// kernel for 60 s if the visitor hangs up too (TIME_WAIT). It takes no port, but at
// 10,000 connections a second there would be 600,000 of them, more than the kernel allows
// the whole machine (tcp_max_tw_buckets). So only maxFINPerSecond connections a second,
// 12,000 entries, are ended that way; the rest get RST at once, which leaves nothing
// behind. They count as touches all the same. The same goes for connections beyond the
// Listener's share of descriptors: strangers leave the others to operators and to the
// daemon's own work.
package listen

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/priority"
)

// Listener holds all listening TCP sockets of the gateway. Its methods may be called from
// several goroutines. Close it when done.
type Listener struct {
	log     *slog.Logger
	touched func([]knock.Heard)
	streams func(port uint16, fd int, from netip.AddrPort) // nil: nobody
	fdStore FDStore                                        // nil: none
	queue   queue
	running sync.WaitGroup // the loop and the delivery
	rounds  atomic.Uint64  // rounds of the loop in which it could accept

	setting  sync.Mutex     // held by Set and Check, before mu
	mu       sync.Mutex     // guards what follows; held while sockets are opened and accepted from
	wanted   map[uint16]use // as last Set
	sockets  map[uint16]*socket
	byID     map[int32]*socket
	byFD     map[int]*socket
	inherits bool // Set has found inherited sockets that nobody has accepted from yet
	lastID   int32
	thread   int // the loop's
	epoll    int // -1 before the first Set
	wake     int // an eventfd that ends the loop
	closed   bool
	waited   bool   // connections waited when Behind was last asked
	asked    uint64 // rounds then
}

// Ports says what a Listener is to do with ports. A port named twice is one of Streams,
// or else Open, or else Same.
type Ports struct {
	Streams []uint16 // listened on, and connections are handed over
	Open    []uint16 // listened on
	Shut    []uint16 // held, so that nobody else can have them, and refused like unused ports
	Same    []uint16 // not decided yet: inherited ones stay as they are, and connections wait; others are as Shut
}

// use is what a port is held for.
type use int

const (
	shut use = iota + 1
	same
	open
	streams
)

// uses returns the use of each port.
func (p Ports) uses() map[uint16]use {
	all := make(map[uint16]use)
	for u, ports := range map[use][]uint16{shut: p.Shut, same: p.Same, open: p.Open, streams: p.Streams} {
		for _, n := range ports {
			all[n] = max(all[n], u)
		}
	}
	return all
}

// FDStore keeps listening sockets for the next process that has the Listener's ports. Its
// methods are called while the Listener is locked, and must not wait for it.
type FDStore interface {
	Keep(port uint16, fd int) error // a copy of fd, which is a new socket of port
	Drop(port uint16) error         // the socket of port is no longer wanted
}

// socket is one port that is held. Its id is what epoll reports: a descriptor's number
// may be another socket's by the time that the event is processed.
type socket struct {
	port    uint16
	fd      int
	id      int32
	listens bool // the kernel completes handshakes
	heard   bool // and they are accepted; else they wait for whoever has the socket next
	streams bool // and they are handed over
}

// New returns a Listener without ports, whose sockets store keeps (nil: none). Touches go
// to touched, several at a time and from one goroutine, in the order in which they came;
// touched may keep the slice. While touched does not return, touches wait, up to a bound;
// see Dropped. Close waits for touched, which must not wait for it.
func New(log *slog.Logger, store FDStore, touched func([]knock.Heard)) *Listener {
	return &Listener{
		log: log, touched: touched, fdStore: store,
		queue:   queue{ready: make(chan struct{}, 1), stop: make(chan struct{}), log: log},
		sockets: make(map[uint16]*socket),
		byID:    make(map[int32]*socket),
		byFD:    make(map[int]*socket),
		epoll:   -1, wake: -1,
	}
}

// Set makes the Listener's ports those of p, for IPv4 and IPv6: it opens those that are
// missing or have died and closes all others. Those that are open stay as they are.
// Sockets are opened in the network namespace of the calling thread.
//
// The error joins one for each port that could not be opened, with who holds it as far as
// that can be seen; the others are open.
func (l *Listener) Set(ports Ports) error {
	failed, err := l.set(ports)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range failed {
		errs = append(errs, f.explain()) // searches /proc: not under the lock
	}
	return errors.Join(errs...)
}

// setAtOnce is how many ports Set opens, closes or checks before it gives up the lock for
// a moment: touches wait meanwhile, for about 10 µs a port.
const setAtOnce = 32

func (l *Listener) set(ports Ports) (failed []openError, err error) {
	l.setting.Lock()
	defer l.setting.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("listen on %v: %w", ports.Open, net.ErrClosed)
	}
	if err := l.start(); err != nil {
		return nil, err
	}
	wanted := ports.uses()
	l.wanted, l.inherits = wanted, false
	for _, s := range l.sockets {
		l.inherits = l.inherits || s.listens && !s.heard
	}
	for i, s := range slices.Collect(maps.Values(l.sockets)) {
		l.letOthers(i)
		if s.fd >= 0 && (wanted[s.port] == 0 || !s.alive()) {
			l.drop(s)
		}
	}
	room := 0
	for _, u := range wanted {
		if u >= open {
			room++
		}
	}
	room = backlog(room)
	var waited backlogged
	for i, p := range slices.Sorted(maps.Keys(wanted)) {
		l.letOthers(i)
		if l.closed {
			return nil, fmt.Errorf("listen on %v: %w", ports.Open, net.ErrClosed)
		}
		if err := l.put(p, wanted[p], room, &waited); err != nil {
			failed = append(failed, openError{p, err})
		}
	}
	l.queue.put(waited.touches(l.log))
	return failed, nil
}

// letOthers gives up the lock for a moment, after so many ports. While there are inherited
// sockets it does not: what has waited there came before everything else.
func (l *Listener) letOthers(after int) {
	if after%setAtOnce != setAtOnce-1 || l.inherits {
		return
	}
	l.mu.Unlock()
	l.mu.Lock()
}

// put puts a port to a use. Connections that were waiting at an inherited one go to
// waited.
func (l *Listener) put(p uint16, u use, room int, waited *backlogged) error {
	s := l.sockets[p]
	if s == nil {
		fd, err := bound(p)
		if err != nil {
			return err
		}
		s = l.hold(p, fd)
		if l.fdStore != nil {
			l.logged("cannot have a listening socket outlive the daemon", p, l.fdStore.Keep(p, fd))
		}
	}
	switch {
	case u >= open:
		l.carries(s, u == streams)
		return l.listen(s, room, waited)
	case u == shut && s.listens:
		l.mute(s)
	}
	return nil
}

// hold adds a socket that is bound to p.
func (l *Listener) hold(p uint16, fd int) *socket {
	l.lastID++
	s := &socket{port: p, fd: fd, id: l.lastID}
	l.sockets[p], l.byID[s.id], l.byFD[fd] = s, s, s
	return s
}

// listen makes a socket listen, and the loop accept its connections.
func (l *Listener) listen(s *socket, room int, waited *backlogged) error {
	if s.heard {
		_ = unix.Listen(s.fd, room) // only sets the length of the queue; then it cannot fail
		return nil
	}
	err := announce(s.fd, l.thread) // before the first connection can come
	if err == nil {
		err = besideOwn(s.fd, func() error { return unix.Listen(s.fd, room) })
	}
	if err != nil {
		l.drop(s)
		return err
	}
	switch {
	case s.listens && s.streams: // inherited
		l.handOverAll(s)
	case s.listens:
		waited.accept(s)
	}
	s.listens = true
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: s.id}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, s.fd, &ev); err != nil {
		l.drop(s)
		return fmt.Errorf("watch: %w", err)
	}
	s.heard = true
	return nil
}

// mute makes a socket stop listening: connections that wait there are reset, and new ones
// are refused. It stays bound.
func (l *Listener) mute(s *socket) {
	if s.heard {
		_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, s.fd, nil) // it would always be ready
	}
	_ = unix.Shutdown(s.fd, unix.SHUT_RD) // fails only if it no longer listens
	s.listens, s.heard = false, false
}

// start begins the loop and the delivery, which Close ends.
func (l *Listener) start() error {
	if l.epoll >= 0 {
		return nil
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make epoll descriptor: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeID})
	}
	if err != nil {
		unix.Close(epoll)
		if wake >= 0 {
			unix.Close(wake)
		}
		return fmt.Errorf("make event descriptor: %w", err)
	}
	type begun struct {
		thread int
		err    error
	}
	first := make(chan begun)
	l.running.Go(func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and its signals with it
		priority.Raise()
		a, err := newArrivals(l.log)
		if err != nil {
			first <- begun{err: err}
			return
		}
		defer a.close()
		first <- begun{thread: a.thread}
		l.loop(epoll, wake, a)
	})
	b := <-first
	if b.err != nil {
		unix.Close(epoll)
		unix.Close(wake)
		return b.err
	}
	l.epoll, l.wake, l.thread = epoll, wake, b.thread
	l.running.Go(func() {
		priority.Raise()
		l.queue.deliver(l.touched)
	})
	return nil
}

// drop closes the socket for good.
func (l *Listener) drop(s *socket) {
	l.end(s)
	if l.fdStore != nil {
		l.logged("a socket that is no longer wanted stays bound", s.port, l.fdStore.Drop(s.port))
	}
}

// end closes the socket. If it is in the descriptor store, closing only this descriptor
// would leave it listening, and in epoll.
func (l *Listener) end(s *socket) {
	l.mute(s)
	unix.Close(s.fd)
	delete(l.sockets, s.port)
	delete(l.byID, s.id)
	delete(l.byFD, s.fd)
	s.fd = -1
}

func (l *Listener) logged(what string, p uint16, err error) {
	if err != nil {
		l.log.Warn("listeners: "+what, "port", p, "err", err)
	}
}

// Check returns the ports of the last Set that are not as it said, in order: they could
// not be opened, or their socket has died. Set opens them anew.
func (l *Listener) Check() (missing []uint16) {
	l.setting.Lock()
	defer l.setting.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.wanted {
		if s := l.sockets[p]; s == nil || !s.alive() {
			missing = append(missing, p)
		}
	}
	slices.Sort(missing)
	return missing
}

// Dropped returns how many touches were heard and not delivered, because touched had not
// returned while queueLimit others came.
func (l *Listener) Dropped() uint64 { return l.queue.lost() }

// Close closes all sockets and waits until touched was called for the last time. Touches that
// wait are not delivered. What is in the descriptor store stays bound and refuses connections,
// so that nobody waits for a process that may never come. Closing again does nothing.
func (l *Listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.wanted = nil
	for _, s := range l.sockets {
		l.end(s)
	}
	started := l.epoll >= 0
	l.mu.Unlock()
	if !started {
		return nil
	}
	close(l.queue.stop)
	_, err := unix.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	if err != nil {
		return fmt.Errorf("end the loop: %w", err)
	}
	l.running.Wait()
	return errors.Join(unix.Close(l.epoll), unix.Close(l.wake))
}
