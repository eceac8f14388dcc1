//go:build linux

// Package datagrams is the ear on UDP ports: it hands on what a knock.Opener made
// of a datagram, with where it came from and which address was asked, and sends
// the answers. It knows no doors and judges nothing. No source of a datagram is
// proven.
//
// # The way of a datagram
//
//	socket ──► Glance ──► the port's share of ──► Open ──► what was heard ──► heard
//	           (a goroutine   what waits         (the      (in the order in
//	            a port)                           pool)     which it came)
//
// Each port has one socket for both families and all addresses, whichever come
// and go, so that nothing has to be done when an interface does. A port stays
// bound, and silent, also while nothing is to be heard there: a port without a
// socket would be answered with ICMP, and anybody else could bind it and learn a
// knock. So no socket has SO_REUSEADDR or SO_REUSEPORT. What comes meanwhile is
// read and thrown away, not kept for later.
//
// What nobody can have sent is thrown away: with a port of 0, or from an address
// that is unspecified, of loopback, multicast or broadcast, or the one that was
// asked. So is what was sent to multicast or broadcast, since it has no address
// to answer from, and what is longer than Longest. That another address of the
// machine is its own the ear cannot know; to keep out what comes over loopback is
// for the fence.
//
// # Floods
//
// Anybody can send with any source, so that no bound for each source would help.
// What comes to one port does not crowd out what comes to another: each has a
// share of what may wait to be opened. In a full share a new datagram takes the
// place of a random one, or is itself thrown away. A right knock among N others is
// then as likely to be opened as any of them, however those are timed; were the
// last to come thrown away, a burst just before it would be enough to keep it out.
//
// Whatever comes, there are for each port
//
//   - one Glance for each datagram, and no allocation, until one passes it; then
//     work that does not grow with what waits;
//   - 64 KiB of buffers while it is read, a share of maxWaiting datagrams of Longest
//     bytes at most, and twice maxBuffer bytes in the kernel, which throws away what does
//     not fit there; with many ports, less for each: 6 MiB and 32 MiB for all;
//   - answersPerSecond answers at most that Open gave, none longer than its datagram,
//     so that nobody is flooded by way of the ear, and nothing is amplified.
//
// The pool has one goroutine less than there are processors for Go, but one at
// least. Go knows no priorities; so all who could hold up the gateway give way
// after each batch that was read and each datagram that was opened, and whoever
// is ready to run waits for that long at most. While maxHeard things wait for the
// gateway nothing is opened, so that what was opened is not lost: what there is too
// much of is thrown away before. A right knock waits for as many as have a share to
// be opened, of each port that is flooded, at most.
//
// # Order
//
// Datagrams are heard in the order in which they were read, with the time of that,
// although several are opened at once; one whose Open takes long holds up those
// behind it. Of one port that is the order in which they came. Those of two ports
// may be read the other way round when they came within the time in which what the
// kernel keeps of a port is read, a millisecond or two.
package datagrams

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

	"github.com/doorward/doorward/internal/knock"
)

const (
	// Longest is the longest datagram that is heard, in bytes.
	Longest = 1500
	// LongestAnswer is the longest that Answer sends, in bytes: it fits into any
	// packet of IPv6 (RFC 8200, section 5), so that no answer is fragmented.
	LongestAnswer = 1280 - 40 - 8

	// How many datagrams may wait for the pool: at one port, and, as long as each
	// port has its least, at all.
	maxWaiting, minWaiting, totalWaiting = 128, 8, 4096

	// How many bytes the kernel is asked to keep, likewise. Some milliseconds of a
	// flood go into the most, in which a machine that has much to do lets nobody read.
	maxBuffer, minBuffer, totalBuffer = 1 << 20, 64 << 10, 16 << 20

	maxHeard         = 1024 // things that were opened, or are just being, and wait for heard
	answersPerSecond = 1000 // that Open gave, for each port
)

// Listener hears at UDP ports. Its methods may be called from several goroutines. Close
// it when done.
type Listener struct {
	log     *slog.Logger
	pool    pool
	batches sync.Pool      // *batch, none of them used
	running sync.WaitGroup // all goroutines

	foreign, strange, withheld atomic.Uint64

	mu      sync.Mutex // guards what follows
	wanted  []uint16   // as last Set, in order
	sockets map[uint16]*socket
	overrun uint64 // of what the kernel threw away, as far as it is known
	started bool
	closed  bool
}

// Counts says how many datagrams were thrown away since the ear was made, and why.
type Counts struct {
	Foreign  uint64 // Glance said no, or nothing was to be heard at the port
	Strange  uint64 // nobody can have sent it, or it was too long
	Crowded  uint64 // too many waited to be opened
	Overrun  uint64 // by the kernel: they came faster than they were read, or were damaged
	Withheld uint64 // no datagrams: answers of Open that were too many or too long
}

// New makes an ear without ports. What is heard goes to heard, several at a time
// and from one goroutine; the slice is heard's to keep. Close waits for heard,
// which must not wait for it.
func New(log *slog.Logger, heard func([]knock.Heard)) *Listener {
	e := &Listener{log: log, sockets: make(map[uint16]*socket)}
	e.batches.New = func() any { return newBatch() }
	e.pool.init(heard)
	return e
}

// Set has the ear hear at the ports that have an opener, hold those that have nil,
// and give up all others, for IPv4 and IPv6. Sockets that it has already stay as
// they are. What waits at a port that is no longer heard is thrown away, but what
// was opened may come to heard a moment later; what waits at a port that gets
// another opener is opened by the one that glanced at it. Sockets are made in the
// network namespace of the calling thread.
//
// The error joins one for each port that could not be had, with who holds it as
// far as that can be seen; the others are had.
func (e *Listener) Set(want map[uint16]knock.Opener) error {
	failed, err := e.set(want)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range failed {
		errs = append(errs, f.explain()) // looks through /proc: not under the lock
	}
	return errors.Join(errs...)
}

func (e *Listener) set(want map[uint16]knock.Opener) (failed []openError, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wanted = slices.Sorted(maps.Keys(want))
	if e.closed {
		return nil, fmt.Errorf("hear datagrams at %v: %w", e.wanted, net.ErrClosed)
	}
	e.start()
	for p, s := range e.sockets {
		if _, wanted := want[p]; !wanted || s.dead.Load() {
			e.drop(s)
		}
	}
	e.pool.share(portShare(len(want), maxWaiting, minWaiting, totalWaiting))
	for _, p := range e.wanted {
		if err := e.put(p, want[p]); err != nil {
			failed = append(failed, openError{p, err})
		}
	}
	for _, s := range e.sockets {
		s.keep(portShare(len(want), maxBuffer, minBuffer, totalBuffer))
	}
	return failed, nil
}

// portShare is what one of so many ports gets of all.
func portShare(ports, most, least, all int) int { return max(least, min(most, all/max(ports, 1))) }

// start begins the pool and the delivery, which Close ends, before the first port.
func (e *Listener) start() {
	if e.started || len(e.wanted) == 0 {
		return
	}
	e.started = true
	for range max(1, runtime.GOMAXPROCS(0)-1) {
		e.running.Go(func() { e.pool.run(e.open) })
	}
	e.running.Go(e.pool.deliver)
}

// put has a port heard by an opener, or held.
func (e *Listener) put(p uint16, by knock.Opener) error {
	s := e.sockets[p]
	if s == nil {
		var err error
		if s, err = open(p); err != nil {
			return err
		}
		s.use(by)
		e.begin(s)
		return nil
	}
	if s.use(by); by == nil {
		e.pool.forget(s)
	}
	return nil
}

// begin has a socket read.
func (e *Listener) begin(s *socket) {
	e.sockets[s.port] = s
	e.running.Go(func() { e.receive(s) })
}

// drop closes a socket for good.
func (e *Listener) drop(s *socket) {
	s.use(nil)
	e.pool.forget(s)
	e.overrun += s.overrun()
	if err := s.file.Close(); err != nil {
		e.log.Warn("cannot close a socket for knocks", "port", s.port, "err", err)
	}
	delete(e.sockets, s.port)
}

// open has the entry's opener look at its datagram, and sends what that answers.
func (e *Listener) open(w *waiting) (knock.Heard, bool) {
	length := len(w.datagram.Payload)
	said, answer, ok := w.by.Open(w.datagram)
	switch {
	case answer == nil:
	case len(answer) > length || !w.socket.mayAnswer(w.datagram.Time):
		e.withheld.Add(1)
	default:
		w.socket.send(w.datagram.Path, answer)
	}
	return knock.Heard{
		Source: w.datagram.Path.From.Addr().WithZone(""),
		Place:  knock.Place{Medium: knock.Datagrams, Port: w.socket.port},
		Time:   w.datagram.Time,
		Said:   said,
		Path:   w.datagram.Path,
	}, ok
}

// Answer sends a datagram back the way that another came. It is for what a turn
// of the gateway has led to, so that how many there are is the gateway's to bound.
// What the network makes of it is no error, since whoever asked need not be
// there. An error says that payload is longer than LongestAnswer, or that the ear
// does not have the port.
func (e *Listener) Answer(path knock.Path, payload []byte) error {
	if len(payload) > LongestAnswer {
		return fmt.Errorf("an answer of %d bytes: allowed are %d", len(payload), LongestAnswer)
	}
	e.mu.Lock()
	s := e.sockets[path.To.Port()]
	e.mu.Unlock()
	if s == nil {
		return fmt.Errorf("an answer from %d/udp: the port is not heard", path.To.Port())
	}
	s.send(path, payload)
	return nil
}

// Check returns the ports of the last Set that are not as it said, in order: they
// could not be had, or their socket cannot be read any more. Set opens them anew.
func (e *Listener) Check() (missing []uint16) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.wanted {
		if s := e.sockets[p]; s == nil || s.dead.Load() {
			missing = append(missing, p)
		}
	}
	return missing
}

// Behind says whether datagrams wait that already waited when it was last asked,
// while none was read: the process was stopped, or gets no time to run. What is
// heard of them will be late.
func (e *Listener) Behind() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	behind := false
	for _, s := range e.sockets {
		waits, rounds := s.ready(), s.rounds.Load()
		behind = behind || waits && s.waited && rounds == s.asked
		s.waited, s.asked = waits, rounds
	}
	return behind
}

// Counts says what was thrown away so far.
func (e *Listener) Counts() Counts {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.sockets {
		e.overrun += s.overrun()
	}
	return Counts{
		Foreign: e.foreign.Load(), Strange: e.strange.Load(), Crowded: e.pool.lost(),
		Overrun: e.overrun, Withheld: e.withheld.Load(),
	}
}

// Close closes all sockets and waits until Open and heard were called for the last
// time. What waits is not heard. Closing again does nothing.
func (e *Listener) Close() error {
	e.mu.Lock()
	e.closed, e.wanted = true, nil
	for _, s := range e.sockets {
		e.drop(s)
	}
	e.mu.Unlock()
	e.pool.close()
	e.running.Wait()
	return nil
}

// openError is a port that could not be had.
type openError struct {
	port uint16
	err  error
}
