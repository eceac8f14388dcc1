//go:build linux

// Package export forwards the records of the audit trail: to the systemd journal, with
// a field for each key, and to syslog (RFC 5424). It decides nothing and never blocks the
// daemon: records that a receiver does not accept in time are dropped, counted and
// reported. The audit trail still has them.
package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/audit"
)

// Form is how a record is written.
type Form uint8

// Journal is the journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), Syslog the
// format of RFC 5424.
const (
	Journal Form = iota
	Syslog
)

// Target is a receiver of records.
type Target struct {
	Form    Form
	Network string // "unixgram" or "udp"
	Address string // a path, or an address and a port
}

// String returns a target as the configuration names it.
func (t Target) String() string {
	switch {
	case t.Form == Journal:
		return "the journal"
	case t.Network == "udp":
		return "udp:" + t.Address
	}
	return "unix:" + t.Address
}

// How much may wait for a receiver, and how long the exporter waits for one.
const (
	mostWaiting = 4096 // records
	sendTime    = time.Second
	pause       = time.Second // before a record is sent again
)

// Exporter sends records to targets. Its methods may be called from any goroutine.
type Exporter struct {
	log     *slog.Logger
	senders []*sender
	ctx     context.Context
	end     context.CancelFunc // gives up what still waits
	running sync.WaitGroup

	mu    sync.Mutex // keeps Tell from sending to a closed queue
	ended bool
}

// sender sends to one target.
type sender struct {
	target Target
	host   string
	log    *slog.Logger
	conn   net.PacketConn
	to     net.Addr
	queue  chan audit.Record

	mu      sync.Mutex // guards what follows
	lost    uint64     // records that were left out and not reported yet
	trouble error      // why the latest could not be sent, nil if it was
}

// Open makes all sockets that will be needed, so that the process may enter its sandbox
// afterwards, and sends what Tell is given until Close. A target that cannot be reached
// is tried again and again; one for which no socket can be made gets nothing. Troubles
// reports both.
func Open(targets []Target, log *slog.Logger) *Exporter {
	e := newExporter(log)
	for _, t := range targets {
		conn, to, err := open(t)
		if err != nil {
			log.Error("records cannot be sent", "to", t.String(), "err", err)
			conn = nil
		}
		e.start(t, conn, to, err)
	}
	return e
}

func newExporter(log *slog.Logger) *Exporter {
	ctx, end := context.WithCancel(context.Background())
	return &Exporter{log: log, ctx: ctx, end: end}
}

// start begins to send to a target through conn. If there is no socket conn is nil, and
// why says the reason.
func (e *Exporter) start(t Target, conn net.PacketConn, to net.Addr, why error) {
	s := &sender{target: t, host: hostname(), log: e.log, conn: conn, to: to,
		queue: make(chan audit.Record, mostWaiting), trouble: why}
	e.senders = append(e.senders, s)
	e.running.Go(func() { s.run(e.ctx) })
}

// open makes a socket that can send to a target, which need not be there yet.
func open(t Target) (net.PacketConn, net.Addr, error) {
	if t.Network == "unixgram" {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
		return conn, &net.UnixAddr{Name: t.Address, Net: "unixgram"}, err
	}
	to, err := net.ResolveUDPAddr("udp", t.Address) // a literal address: no name is looked up
	if err != nil {
		return nil, nil, err
	}
	network := "udp6"
	if to.IP.To4() != nil {
		network = "udp4"
	}
	// It is not connected: at boot there may be no route yet, so that connect(2) would fail.
	deaf := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return deafen(c) }}
	conn, err := deaf.ListenPacket(context.Background(), network, ":0")
	return conn, to, err
}

// deafen makes a socket discard all that it receives.
func deafen(c syscall.RawConn) (err error) {
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	program := unix.SockFprog{Len: uint16(len(nothing)), Filter: &nothing[0]}
	outer := c.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	})
	return errors.Join(outer, err)
}

// hostname returns the name of this host for messages, "-" if there is none.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "-"
	}
	return name
}

// Tell queues a record for all targets and does not wait until it is sent. Records are
// sent in the order of the calls.
func (e *Exporter) Tell(r audit.Record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.senders {
		if e.ended {
			return
		}
		select {
		case s.queue <- r:
		default:
			s.lose(1)
		}
	}
}

// Troubles says, for people, to which targets records cannot be sent, and why.
func (e *Exporter) Troubles() (all []string) {
	for _, s := range e.senders {
		if err := s.troubled(); err != nil {
			all = append(all, fmt.Sprintf("cannot send records of the audit trail to %s; trying again; doorward log has them: %v", s.target, err))
		}
	}
	return all
}

// Close returns when all that was queued is sent, or when the time is up.
func (e *Exporter) Close(within time.Duration) {
	e.mu.Lock()
	e.ended = true
	for _, s := range e.senders {
		close(s.queue)
	}
	e.mu.Unlock()
	late := time.AfterFunc(within, e.end)
	e.running.Wait()
	late.Stop()
	e.end()
}

// run sends what is in the queue until that is closed and empty, or ctx ends.
func (s *sender) run(ctx context.Context) {
	if s.conn == nil {
		for range s.queue {
			s.lose(1)
		}
	} else {
		defer s.conn.Close()
		for r := range s.queue {
			s.deliver(ctx, r)
		}
	}
	if n := s.found(); n > 0 {
		s.log.Error("records were not sent; doorward log has them", "to", s.target.String(), "records", n)
	}
}

// deliver sends a record, trying as often as it takes, and then a record that says how
// many were left out before it.
func (s *sender) deliver(ctx context.Context, r audit.Record) {
	for {
		if ctx.Err() != nil { // each attempt could take up to sendTime if the receiver hangs
			s.lose(1)
			return
		}
		err := s.send(r)
		if errors.Is(err, unix.EMSGSIZE) {
			s.lose(1)
			return
		}
		s.met(err)
		if err == nil {
			break
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	n := s.found()
	if n == 0 {
		return
	}
	s.log.Error("records were not sent; doorward log has them", "to", s.target.String(), "records", n)
	gap := audit.Record{Time: time.Now(), Event: audit.EventError,
		Reason: fmt.Sprintf("records that were not sent: %d; doorward log has them", n)}
	if s.send(gap) != nil {
		s.lose(n)
	}
}

// send sends a record once.
func (s *sender) send(r audit.Record) error {
	message := journalMessage(r)
	if s.target.Form == Syslog {
		message = syslogMessage(r, s.host, os.Getpid())
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(sendTime)); err != nil {
		return err
	}
	_, err := s.conn.WriteTo(message, s.to)
	if wordy, ok := errors.AsType[*net.OpError](err); ok {
		return wordy.Err // without the address, which is reported beside it
	}
	return err
}

// met notes the result of sending, and logs when it has changed.
func (s *sender) met(err error) {
	s.mu.Lock()
	before := s.trouble
	s.trouble = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.Error("records cannot be sent; trying again", "to", s.target.String(), "err", err)
	case err == nil && before != nil:
		s.log.Info("records are sent again", "to", s.target.String())
	}
}

func (s *sender) troubled() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble
}

// lose counts records that are left out.
func (s *sender) lose(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost += n
}

// found returns how many were left out since its last call.
func (s *sender) found() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.lost
	s.lost = 0
	return n
}
