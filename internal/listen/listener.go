//go:build linux

// Package listen is the ear on open TCP ports: it says who completed a
// handshake with which port, and when. It never sends a byte and never reads
// one; a connection is closed as it is accepted. It knows no doors and judges
// nothing.
//
// # Order
//
// Touches are delivered in the order in which their handshakes were completed,
// however many others connect meanwhile: a knock whose ports must be touched in
// the given order is not spoiled by strangers. The kernel has a queue for each
// port and does not say when a connection entered it, so that queues served in
// turn mix up what waits at different depths. The ages that it does tell
// (TCP_INFO) are in ticks of up to 10 ms, in which a visitor nearby touches
// several ports. But it tells each connection at the moment when it enters its
// queue, by a signal (F_SETSIG in fcntl(2); tcp_child_process in the kernel's
// net/ipv4/tcp_minisocks.c), and real-time signals are queued in the order in
// which they were sent. The loop reads them and accepts accordingly.
//
// Signals that are pending are limited for each user (RLIMIT_SIGPENDING), and
// each stands for a connection that waits. So the ports' queues together are
// not longer than that; see backlog. If other processes of the user take the
// room away, some signals are lost, which is logged; then ports are served in
// turn until no connection waits. No touch depends on a signal to be heard.
//
// A touch's time is when the loop learned of it: its order is exact, its time
// is later than the handshake by as long as the loop was busy or did not run.
// Behind tells of the latter.
//
// # Floods
//
// All who connect share the ports' queues; who they are shows only when they are
// accepted, so that none can be preferred here. With connections coming faster
// than they are accepted (some 9 µs each), a touch waits behind those before
// it, a queue's length at most. When a queue is full, the kernel ignores the
// visitor's SYN, and they try again after a second; or it ignores the ACK
// that ends the handshake, after which the visitor believes to be connected
// and the touch comes a second late, or never if they hang up hard: like any
// loss of packets this can change the order of touches. Only a limit on each
// source's connections before they reach the queues can prevent that.
//
// # Holding
//
// A port that is closed for a while stays bound (Ports.Shut), so that no other
// user of the machine can listen there meanwhile and learn a knock. To a visitor
// it looks like a port that nobody has: the kernel answers both with RST. Such a
// socket must not have SO_REUSEADDR, or anybody's socket that has it could be
// bound beside it. Without that the ear's own ended connections (TIME_WAIT) would
// keep it from listening again; so they have SO_REUSEPORT, which counts between
// sockets of one user alone, and the listener has it while it begins to listen
// (inet_bind_conflict in the kernel's net/ipv4/inet_connection_sock.c).
//
// For the same reason a Shelf can keep the sockets for the next process. While
// there is none, connections wait in the kernel. The ear that inherits them
// judges them by their age, as far as that tells their order: see inherit.go.
//
// # Closing
//
// A connection is ended with FIN as it is accepted, and with RST if the visitor
// still holds it farewell later. The FIN lets their connect succeed: after a RST
// at once, connect(2) may fail with ECONNRESET before it has returned. The RST
// ends programs that would wait for their user otherwise (nc), and visitors who
// complete the handshake and then fall silent.
//
// The price of FIN is a descriptor for that while, and then an entry of 256 bytes
// in the kernel for 60 s if the visitor hangs up too (TIME_WAIT). It takes no
// port, but at 10,000 connects a second there would be 600,000 of them, more
// than the kernel grants to the whole machine (tcp_max_tw_buckets). So only
// maxFINPerSecond connections a second, 12,000 entries, are ended that way; the
// rest get RST at once, which keeps nothing. They have been heard all the same.
// So it is with those that would take more than the ear's share of descriptors:
// strangers leave the others to operators and to the daemon's own work.
package listen

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
)

// Listener is all listeners of the gateway. Its methods may be called from several
// goroutines. Close it when done.
type Listener struct {
	log     *slog.Logger
	touched func([]knock.Heard)
	fdStore FDStore // nil: none
	queue   queue
	running sync.WaitGroup // the loop and the delivery
	rounds  atomic.Uint64  // of the loop in which it could accept what it met

	setting  sync.Mutex     // held by Set and Check, before mu
	mu       sync.Mutex     // guards what follows; held while sockets are opened and accepted from
	wanted   map[uint16]use // as last Set
	sockets  map[uint16]*socket
	byID     map[int32]*socket
	byFD     map[int]*socket
	inherits bool // Set has met inherited listeners that nobody has accepted from yet
	lastID   int32
	thread   int // the loop's
	epoll    int // -1 before the first Set
	wake     int // an eventfd that ends the loop
	closed   bool
	waited   bool   // connections waited when Behind was last asked
	asked    uint64 // rounds then
}

// Ports says what an ear does with ports. One that is named twice is Open, or
// else Same.
type Ports struct {
	Open []uint16 // listened on
	Shut []uint16 // held, so that nobody else can have them, and refused like ports that nobody has
	Same []uint16 // not decided yet: inherited ones stay as they are, and what comes waits; others are as Shut
}

// use is what a port is held for.
type use int

const (
	shut use = iota + 1
	same
	open
)

// uses turns ports round.
func (p Ports) uses() map[uint16]use {
	all := make(map[uint16]use)
	for u, ports := range map[use][]uint16{shut: p.Shut, same: p.Same, open: p.Open} {
		for _, n := range ports {
			all[n] = max(all[n], u)
		}
	}
	return all
}

// FDStore keeps listening sockets for the next process that has the ear's ports.
// Its methods are called while the ear is locked, and must not wait for it.
type FDStore interface {
	Keep(port uint16, fd int) error // a copy of fd, which is a new socket of port
	Drop(port uint16) error         // the socket of port is no longer wanted
}

// socket is one port that is held. Its id is what epoll reports: a
// descriptor's number may be another listener's by the time that the event is
// looked at.
type socket struct {
	port    uint16
	fd      int
	id      int32
	listens bool // the kernel completes handshakes
	heard   bool // and they are accepted; else they wait for whoever has the socket next
}

// New makes an ear without ports, whose sockets shelf keeps (nil: nobody).
// Touches go to touched, several at a time and
// from one goroutine, in the order in which they came; the slice is
// touched's to keep. While touched does not return, touches wait, up to a
// bound; see Dropped. Close waits for touched, which must not wait for it.
func New(log *slog.Logger, shelf FDStore, touched func([]knock.Heard)) *Listener {
	return &Listener{
		log: log, touched: touched, fdStore: shelf,
		queue:   queue{ready: make(chan struct{}, 1), stop: make(chan struct{}), log: log},
		sockets: make(map[uint16]*socket),
		byID:    make(map[int32]*socket),
		byFD:    make(map[int]*socket),
		epoll:   -1, wake: -1,
	}
}

// Set has the ear do with its ports as they say, for IPv4 and IPv6: it opens
// those that are missing or have died and closes all others. Those that are
// open stay as they are. Sockets are opened in the network namespace of the
// calling thread.
//
// The error joins one for each port that could not be had, with who holds
// it as far as that can be seen; the others are had.
func (e *Listener) Set(ports Ports) error {
	failed, err := e.set(ports)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range failed {
		errs = append(errs, f.explain()) // looks through /proc: not under the lock
	}
	return errors.Join(errs...)
}

// setAtOnce is how many ports Set opens, closes or looks at before it lets others have
// the ear: touches wait meanwhile, for some 10 µs a port.
const setAtOnce = 32

func (e *Listener) set(ports Ports) (failed []openError, err error) {
	e.setting.Lock()
	defer e.setting.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, fmt.Errorf("listen on %v: %w", ports.Open, net.ErrClosed)
	}
	if err := e.start(); err != nil {
		return nil, err
	}
	wanted := ports.uses()
	e.wanted, e.inherits = wanted, false
	for _, s := range e.sockets {
		e.inherits = e.inherits || s.listens && !s.heard
	}
	for i, s := range slices.Collect(maps.Values(e.sockets)) {
		e.letOthers(i)
		if s.fd >= 0 && (wanted[s.port] == 0 || !s.alive()) {
			e.drop(s)
		}
	}
	room := 0
	for _, u := range wanted {
		if u == open {
			room++
		}
	}
	room = backlog(room)
	var waited backlogged
	for i, p := range slices.Sorted(maps.Keys(wanted)) {
		e.letOthers(i)
		if e.closed {
			return nil, fmt.Errorf("listen on %v: %w", ports.Open, net.ErrClosed)
		}
		if err := e.put(p, wanted[p], room, &waited); err != nil {
			failed = append(failed, openError{p, err})
		}
	}
	e.queue.put(waited.touches(e.log))
	return failed, nil
}

// letOthers lets others have the ear for a moment, after so many ports. While there are
// inherited listeners it does not: what has waited there came before all else.
func (e *Listener) letOthers(after int) {
	if after%setAtOnce != setAtOnce-1 || e.inherits {
		return
	}
	e.mu.Unlock()
	e.mu.Lock()
}

// put brings a port into a use. Connections that had waited at one that is
// inherited go to waited.
func (e *Listener) put(p uint16, u use, room int, waited *backlogged) error {
	s := e.sockets[p]
	if s == nil {
		fd, err := bound(p)
		if err != nil {
			return err
		}
		s = e.hold(p, fd)
		if e.fdStore != nil {
			e.logged("cannot have a listening socket outlive the daemon", p, e.fdStore.Keep(p, fd))
		}
	}
	switch {
	case u == open:
		return e.listen(s, room, waited)
	case u == shut && s.listens:
		e.mute(s)
	}
	return nil
}

// hold takes in a socket that is bound to p.
func (e *Listener) hold(p uint16, fd int) *socket {
	e.lastID++
	s := &socket{port: p, fd: fd, id: e.lastID}
	e.sockets[p], e.byID[s.id], e.byFD[fd] = s, s, s
	return s
}

// listen has a socket listen, and the loop accept what comes.
func (e *Listener) listen(s *socket, room int, waited *backlogged) error {
	if s.heard {
		_ = unix.Listen(s.fd, room) // sets the room alone; it cannot fail then
		return nil
	}
	err := announce(s.fd, e.thread) // before the first connection can come
	if err == nil {
		err = besideOwn(s.fd, func() error { return unix.Listen(s.fd, room) })
	}
	if err != nil {
		e.drop(s)
		return err
	}
	if s.listens { // inherited
		waited.accept(s)
	}
	s.listens = true
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: s.id}
	if err := unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, s.fd, &ev); err != nil {
		e.drop(s)
		return fmt.Errorf("watch: %w", err)
	}
	s.heard = true
	return nil
}

// mute has a socket listen no more: what waits there is reset, and what comes is
// refused. It stays bound.
func (e *Listener) mute(s *socket) {
	if s.heard {
		_ = unix.EpollCtl(e.epoll, unix.EPOLL_CTL_DEL, s.fd, nil) // it would be ready all the time
	}
	_ = unix.Shutdown(s.fd, unix.SHUT_RD) // fails only if it listens no more
	s.listens, s.heard = false, false
}

// start begins the loop and the delivery, which Close ends.
func (e *Listener) start() error {
	if e.epoll >= 0 {
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
	e.running.Go(func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and its signals with it
		a, err := newArrivals(e.log)
		if err != nil {
			first <- begun{err: err}
			return
		}
		defer a.close()
		first <- begun{thread: a.thread}
		e.loop(epoll, wake, a)
	})
	b := <-first
	if b.err != nil {
		unix.Close(epoll)
		unix.Close(wake)
		return b.err
	}
	e.epoll, e.wake, e.thread = epoll, wake, b.thread
	e.running.Go(func() { e.queue.deliver(e.touched) })
	return nil
}

// drop closes the listener for good.
func (e *Listener) drop(s *socket) {
	e.end(s)
	if e.fdStore != nil {
		e.logged("a socket that is no longer wanted stays bound", s.port, e.fdStore.Drop(s.port))
	}
}

// end closes the listener. If it is on the shelf, closing it here alone would
// leave it listening, and in epoll.
func (e *Listener) end(s *socket) {
	e.mute(s)
	unix.Close(s.fd)
	delete(e.sockets, s.port)
	delete(e.byID, s.id)
	delete(e.byFD, s.fd)
	s.fd = -1
}

func (e *Listener) logged(what string, p uint16, err error) {
	if err != nil {
		e.log.Warn("listeners: "+what, "port", p, "err", err)
	}
}

// alive says whether the socket still does what it should: another process can
// end its listening (sock_diag's SOCK_DESTROY, `ss -K`).
func (s *socket) alive() bool {
	v, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && (v == 1) == s.listens
}

// Check returns the ports of the last Set that are not as it said, in order:
// they could not be had, or their listener died. Set opens them anew.
func (e *Listener) Check() (missing []uint16) {
	e.setting.Lock()
	defer e.setting.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	for p := range e.wanted {
		if s := e.sockets[p]; s == nil || !s.alive() {
			missing = append(missing, p)
		}
	}
	slices.Sort(missing)
	return missing
}

// Dropped counts the touches that were heard and not delivered, because
// touched had not returned while queueLimit others came.
func (e *Listener) Dropped() uint64 { return e.queue.lost() }

// Close closes all listeners and waits until touched was called for the last
// time. Touches that wait are not delivered. What is on the shelf stays bound and
// is refused, so that nobody waits for an ear that may not come again. Closing
// again does nothing.
func (e *Listener) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.wanted = nil
	for _, s := range e.sockets {
		e.end(s)
	}
	started := e.epoll >= 0
	e.mu.Unlock()
	if !started {
		return nil
	}
	close(e.queue.stop)
	_, err := unix.Write(e.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	if err != nil {
		return fmt.Errorf("end the loop: %w", err)
	}
	e.running.Wait()
	return errors.Join(unix.Close(e.epoll), unix.Close(e.wake))
}
