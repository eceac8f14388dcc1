//go:build linux

// Package datagrams listens on UDP ports, and reads connections that carry the same
// datagrams over TCP (streams): it passes on what a knock.Opener made of a datagram, with
// its source and the address it was sent to, and sends the answers. It knows nothing
// about doors and judges nothing.
//
// # The way of a datagram
//
//	socket ──► Glance ──► the place's share of ──► Open ──► what was heard ──► heard
//	           (a goroutine   what waits          (the      (in the order in
//	            a port)                            pool)     which it is opened)
//
// Each UDP port has one socket for both families and all addresses, whichever come and go,
// so that nothing has to be done when an interface does. A port stays bound, and silent,
// also while nothing is to be heard there: a port without a socket would be answered with
// ICMP, and anybody else could bind it and learn a knock. So no socket has SO_REUSEADDR
// or SO_REUSEPORT. Datagrams that arrive meanwhile are read and thrown away, not kept for
// later.
//
// Datagrams that nobody can have sent are thrown away: with a port of 0, or from an
// unspecified, loopback, multicast or broadcast address, or from the very address they
// were sent to. So are those sent to multicast or broadcast, since there is no address to
// answer from, and those longer than Longest. The listener cannot know the machine's
// other addresses; keeping out what comes over loopback is up to the fence.
//
// # Floods
//
// Anybody can send with any source. So what waits to be opened waits in lanes, by where
// it claims to come from, and the lanes are served in turn; a flood takes turns in the
// lanes of the prefixes that it claims, and leaves the others theirs. When as much waits
// as may, a random datagram of a longest lane goes, which can be the one that just came: a
// right knock among N others of its lane is as likely to be opened as any of them, however
// those are timed. Which prefixes share a lane is drawn anew each second.
//
// A flood that claims all prefixes is in every lane. Against that there are ranks:
// datagrams that are Shown contain what was sent to their source before, and have lanes of
// their own, which are served first, seven times of eight. And a glance can answer: while
// a place is busy, the opener asks whoever claims a source to show it, at the cost of a
// datagram each way, instead of letting them wait.
//
// Datagrams at one place do not crowd out those at another: each has a share of what may
// wait, and the places have turns, too. So a right knock waits at most for one datagram of
// each lane at its place, as often as there are places where something waits.
//
// Whatever arrives, each UDP port costs
//
//   - one Glance for each datagram, and no allocation, until one waits; then work that
//     does not grow with what waits;
//   - 64 KiB of buffers while it is read, a share of maxWaiting datagrams of Longest bytes
//     of either rank at most, and twice maxBuffer bytes in the kernel, which throws away
//     what does not fit there; with many ports, less for each: 6 MiB and 32 MiB for all;
//   - repliesEach answers a second to a prefix, none longer than its datagram, so that
//     nobody is flooded by way of the listener, and nothing is amplified; and as many to
//     what is Shown, so that whoever forges a prefix does not use up the answers to those
//     in it who have shown their source.
//
// A datagram that comes alone while nothing waits and nothing is being opened is opened by
// the goroutine that has read it, if that takes little time (knock.Brief): to wake another
// one takes a good part of the time that a knock takes. It counts as one of the pool's.
//
// The pool has a goroutine for each processor of the machine, but one fewer than run Go
// code at a time, and at least one: more would only take turns with each other, and with
// the gateway. Go has no priorities; so every goroutine that could hold up the gateway yields after each
// batch that was read and each datagram that was opened, and a goroutine that is ready to
// run waits for that long at most. While maxHeard results wait for the gateway nothing is
// opened, so that nothing that was opened is lost: any excess is thrown away before that.
//
// # Streams
//
// Where UDP does not get through, a visitor connects to the port of the same number. The
// listening socket is that of package listen, which hands connections over (Accept). Each
// carries one datagram at a time, after its length in two bytes; its source is proven by
// the handshake, so that what it carries is Shown.
//
// A connection that has said nothing, and one that says what is no knock, are the same to
// whoever is at its other end: all is read, up to mostRead bytes; nothing is answered; and
// after strangerLasts the connection is reset, whatever came. To end it at the first
// datagram that is none would tell where that ended, and so what datagrams look like.
//
// There are maxOfPrefix connections of a prefix and maxStreams in all at most, each with
// 8 KiB of buffers. When there are too many, one of the prefix that has most has to go: a
// stranger, unless those who were heard have left strangers a quarter of the room.
//
// # Order
//
// Datagrams are heard in the order in which their turn came to be opened, although several
// are opened at once; one whose Open takes long holds up those behind it. While no more
// come than are opened, and always for those of one source at one place, that is the order
// in which they came. The time at which one is heard is that at which it was read, or that
// of the one heard before it, if that is later.
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
	// LongestAnswer is the longest payload that Answer sends, in bytes: it fits into any
	// IPv6 packet (RFC 8200, section 5), so that no answer is fragmented.
	LongestAnswer = 1280 - 40 - 8

	// How many datagrams of each rank may wait for the pool: at one UDP port, and in all as
	// long as each port has its least.
	maxWaiting, minWaiting, totalWaiting = 128, 8, 2048

	// How many bytes the kernel is asked to queue, likewise. The maximum holds a few
	// milliseconds of a flood, for a busy machine that lets nobody read in that time.
	maxBuffer, minBuffer, totalBuffer = 4 << 20, 64 << 10, 16 << 20

	maxHeard = 1024 // datagrams that were opened, or are being opened, and wait for heard
)

// Listener listens on UDP ports. Its methods may be called from several goroutines. Close
// it when done.
type Listener struct {
	log     *slog.Logger
	pool    pool
	streams streams
	batches sync.Pool      // *batch, not in use
	running sync.WaitGroup // all goroutines

	foreign, strange, replied, withheld atomic.Uint64

	mu      sync.Mutex // guards what follows
	wanted  []uint16   // as last Set, in order
	sockets map[uint16]*socket
	overrun uint64 // datagrams that the kernel threw away, as far as known
	started bool
	closed  bool
}

// Counts says how many datagrams were thrown away since the Listener was made, and why.
type Counts struct {
	Foreign  uint64 // Glance rejected it, or the port was only held
	Strange  uint64 // nobody can have sent it, or it was too long
	Crowded  uint64 // too many waited to be opened; or a connection, of too many
	Replied  uint64 // a glance answered it instead
	Overrun  uint64 // by the kernel: they came faster than they were read, or were damaged
	Withheld uint64 // not datagrams: answers that were too many or too long
}

// New returns a Listener without ports. What is heard goes to heard, several at a time
// and from one goroutine; heard may keep the slice. Close waits for heard, which must not
// wait for it.
func New(log *slog.Logger, heard func([]knock.Heard)) *Listener {
	l := &Listener{log: log, sockets: make(map[uint16]*socket)}
	l.batches.New = func() any { return newBatch() }
	l.pool.init(heard)
	l.streams.init()
	return l
}

// Set makes the Listener listen at the places that have an opener, hold the UDP ports
// that have nil, and give up all others, for IPv4 and IPv6. Sockets that it already has
// stay as they are. What waits at a place that is no longer listened on is thrown away,
// though what was already opened may come to heard a moment later; what waits at a place
// that gets another opener is opened by the one that glanced at it. Sockets are made in
// the network namespace of the calling thread. The sockets of streams' ports are somebody
// else's, who calls Accept.
//
// The error joins one for each port that could not be opened, with who holds it as far as
// that can be seen; the others are open.
func (l *Listener) Set(want map[knock.Place]knock.Opener) error {
	failed, err := l.set(want)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range failed {
		errs = append(errs, f.explain()) // searches /proc: not under the lock
	}
	return errors.Join(errs...)
}

func (l *Listener) set(places map[knock.Place]knock.Opener) (failed []openError, err error) {
	want, streams := make(map[uint16]knock.Opener), make(map[uint16]knock.Opener)
	for at, by := range places {
		switch {
		case at.Medium == knock.Datagrams:
			want[at.Port] = by
		case at.Medium == knock.Streams && by != nil:
			streams[at.Port] = by
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = slices.Sorted(maps.Keys(want))
	if l.closed {
		return nil, fmt.Errorf("hear datagrams at %v: %w", l.wanted, net.ErrClosed)
	}
	if len(want)+len(streams) > 0 {
		l.start()
	}
	l.streams.set(streams, &l.pool)
	for p, s := range l.sockets {
		if _, wanted := want[p]; !wanted || s.dead.Load() {
			l.drop(s)
		}
	}
	l.pool.share(portShare(len(want), maxWaiting, minWaiting, totalWaiting))
	for _, p := range l.wanted {
		if err := l.put(p, want[p]); err != nil {
			failed = append(failed, openError{p, err})
		}
	}
	for _, s := range l.sockets {
		s.keep(portShare(len(want), maxBuffer, minBuffer, totalBuffer))
	}
	return failed, nil
}

// portShare returns the share of one of n ports.
func portShare(ports, most, least, all int) int { return max(least, min(most, all/max(ports, 1))) }

// start starts the pool and the delivery, which Close ends.
func (l *Listener) start() {
	if l.started {
		return
	}
	l.started = true
	openers := max(1, min(runtime.NumCPU(), runtime.GOMAXPROCS(0)-1))
	l.pool.limit(openers)
	for range openers {
		l.running.Go(func() { l.pool.run(l.open) })
	}
	l.running.Go(l.pool.deliver)
}

// put makes a port be listened on for an opener, or held.
func (l *Listener) put(p uint16, by knock.Opener) error {
	s := l.sockets[p]
	if s == nil {
		var err error
		if s, err = open(p); err != nil {
			return err
		}
		l.sockets[p] = s
		l.running.Go(func() { l.receive(s) })
	}
	s.use(by)
	l.pool.listen(&s.queue, by != nil)
	return nil
}

// drop closes a socket for good.
func (l *Listener) drop(s *socket) {
	s.use(nil)
	l.pool.listen(&s.queue, false)
	l.overrun += s.overrun()
	s.closed.Store(true)
	if err := s.file.Close(); err != nil {
		l.log.Warn("cannot close a socket for knocks", "port", s.port, "err", err)
	}
	delete(l.sockets, s.port)
}

// open lets the entry's opener open its datagram, and sends what that answers.
func (l *Listener) open(w *waiting) (knock.Heard, bool) {
	length := len(w.datagram.Payload)
	said, answer, ok := w.by.Open(w.datagram)
	switch {
	case answer == nil:
	case len(answer) > length || !w.origin.mayAnswer(w.datagram.Path.From.Addr(), w.rank, w.datagram.Time):
		l.withheld.Add(1)
	default:
		w.origin.send(w.datagram.Path, answer)
		w.answered = true
	}
	w.origin.opened(ok || answer != nil)
	return knock.Heard{
		Source: w.datagram.Path.From.Addr().WithZone(""),
		Place:  w.queue.place,
		Proven: w.rank == knock.Shown,
		Said:   said,
		Path:   w.datagram.Path,
	}, ok
}

// Answer sends a datagram back the way that another came. It is for the results of the
// gateway's turns, so limiting their number is up to the gateway. It does not report what
// the network makes of the datagram, since whoever asked may not exist, or not any more.
// An error says that payload is longer than LongestAnswer, or LongestFrame over a
// connection, or that the listener does not have the port.
func (l *Listener) Answer(path knock.Path, payload []byte) error {
	allowed := LongestAnswer
	if path.Stream != 0 {
		allowed = LongestFrame
	}
	if len(payload) > allowed {
		return fmt.Errorf("an answer of %d bytes: allowed are %d", len(payload), allowed)
	}
	if path.Stream != 0 {
		if c := l.streams.find(path.Stream); c != nil {
			c.send(path, payload)
		}
		return nil
	}
	l.mu.Lock()
	s := l.sockets[path.To.Port()]
	l.mu.Unlock()
	if s == nil {
		return fmt.Errorf("an answer from %d/udp: the port is not heard", path.To.Port())
	}
	s.send(path, payload)
	return nil
}

// Check returns the ports of the last Set that are not as it said, in order: they could
// not be opened, or their socket can no longer be read. Set opens them anew.
func (l *Listener) Check() (missing []uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.wanted {
		if s := l.sockets[p]; s == nil || s.dead.Load() {
			missing = append(missing, p)
		}
	}
	return missing
}

// Behind says whether datagrams wait that already waited when it was last asked, while
// none was read: the process was stopped, or gets no time to run. What is heard from them
// will be late.
func (l *Listener) Behind() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	behind := false
	for _, s := range l.sockets {
		waits, rounds := s.ready(), s.rounds.Load()
		behind = behind || waits && s.waited && rounds == s.asked
		s.waited, s.asked = waits, rounds
	}
	return behind
}

// Counts returns what was thrown away so far.
func (l *Listener) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sockets {
		l.overrun += s.overrun()
	}
	return Counts{
		Foreign: l.foreign.Load(), Strange: l.strange.Load(), Crowded: l.pool.lost() + l.streams.crowdedOut(),
		Replied: l.replied.Load(), Overrun: l.overrun, Withheld: l.withheld.Load(),
	}
}

// Close closes all sockets and waits until Open and heard were called for the last
// time. What waits is not heard. Closing again does nothing.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.closed, l.wanted = true, nil
	for _, s := range l.sockets {
		l.drop(s)
	}
	l.streams.set(nil, &l.pool)
	l.mu.Unlock()
	l.pool.close()
	l.running.Wait()
	return nil
}

// openError is a port that could not be opened.
type openError struct {
	port uint16
	err  error
}
