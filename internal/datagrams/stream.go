//go:build linux

package datagrams

import (
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
)

const (
	// LongestFrame is the longest datagram that is heard over a connection, and the
	// longest that Answer sends over one, in bytes.
	LongestFrame = 4096

	// How long a connection lasts at most: of a stranger, and after something was made of
	// what it carried last. An answer may need somebody's finger on a key, or come when a
	// service has started.
	strangerLasts, heardLasts = 10 * time.Second, time.Minute

	// mostRead is how many bytes are read of a connection.
	mostRead = 64 << 10

	frameHeader = 2
)

// carrier is a connection's socket.
type carrier interface {
	io.ReadCloser
	SetReadDeadline(at time.Time) error
	// send sends all of b without waiting, and says whether it did.
	send(b []byte) bool
}

// stream is a connection that carries datagrams.
type stream struct {
	carrier
	path  knock.Path
	port  *streamPort
	crowd *crowd // its prefix's
	begun time.Time
	heard atomic.Bool   // something was made of what it carried
	done  chan bool     // what it carried was opened; true: and is something. It has room for one
	gone  chan struct{} // closed by end
	once  sync.Once
}

// mayAnswer is true: answers go to who is there, and each is no longer than what it
// answers.
func (c *stream) mayAnswer(netip.Addr, knock.Rank, time.Time) bool { return true }

// send sends an answer with its length. A visitor who takes none while the kernel has no
// room for it is given up, since what follows could not be read.
func (c *stream) send(_ knock.Path, payload []byte) {
	b := make([]byte, 0, frameHeader+len(payload))
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	if !c.carrier.send(append(b, payload...)) {
		c.end()
	}
}

func (c *stream) opened(something bool) { c.done <- something }

// end ends the connection.
func (c *stream) end() {
	c.once.Do(func() {
		close(c.gone)
		_ = c.Close() // nothing is left to be sent, or nobody to take it
	})
}

// serve reads what a connection carries, one datagram after another, until it has ended.
// Once something came that is nothing, all is read and thrown away: who does not know
// how to knock sees the same whatever they send.
func (l *Listener) serve(c *stream) {
	defer l.streams.leave(c)
	defer c.end()
	_ = c.SetReadDeadline(c.begun.Add(strangerLasts)) // fails only if it has ended
	r := &io.LimitedReader{R: c, N: mostRead}
	b := make([]byte, frameHeader+LongestFrame+LongestFrame)
	for l.step(c, r, b) {
	}
	if _, err := io.Copy(io.Discard, r); err != nil || r.N > 0 {
		return
	}
	// As much as is ever read was read, so that the time has to be watched here.
	rest := time.NewTimer(time.Until(c.begun.Add(strangerLasts)))
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-c.gone:
	}
}

// step reads a datagram of a connection and has it judged, with b for it and for an
// answer, and says whether there may be more.
func (l *Listener) step(c *stream, r io.Reader, b []byte) bool {
	header, rest := b[:frameHeader], b[frameHeader:]
	if _, err := io.ReadFull(r, header); err != nil {
		return false
	}
	n := int(binary.BigEndian.Uint16(header))
	if n == 0 || n > LongestFrame {
		l.strange.Add(1)
		return false
	}
	payload, answer := rest[:n], rest[LongestFrame:LongestFrame+n:LongestFrame+n]
	if _, err := io.ReadFull(r, payload); err != nil {
		return false
	}
	by := c.port.opener.Load()
	if by == nil {
		return false
	}
	rank, size := by.Glance(c.path.From.Addr().WithZone(""), payload, false, answer)
	switch {
	case rank != knock.Junk:
		return l.wait(c, by, payload)
	case size <= 0:
		l.foreign.Add(1)
		return false
	case size > n:
		l.withheld.Add(1)
		return false
	}
	l.replied.Add(1)
	c.send(c.path, answer[:size])
	return true
}

// wait has a datagram opened, and waits until it was.
func (l *Listener) wait(c *stream, by *glance, payload []byte) bool {
	if !l.pool.put(&c.port.queue, c, by, []arrival{{payload, c.path, knock.Shown}}) {
		return false
	}
	select {
	case <-c.gone:
		return false
	case something := <-c.done:
		if something {
			c.heard.Store(true)
			_ = c.SetReadDeadline(time.Now().Add(heardLasts))
		}
	}
	return true
}

// connection is the socket of a connection.
type connection struct {
	*os.File // never read as a file, but for its deadlines
	raw      syscall.RawConn
}

// connected makes a carrier of a connection's descriptor, which is the carrier's then,
// and returns the address of this machine that the visitor asked.
func connected(fd int) (c carrier, to netip.Addr, err error) {
	at, err := unix.Getsockname(fd)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		to = netip.AddrFrom4(at.Addr)
	case *unix.SockaddrInet6:
		to = netip.AddrFrom16(at.Addr).Unmap()
		if to.Is6() && to.IsLinkLocalUnicast() {
			to = to.WithZone(strconv.FormatUint(uint64(at.ZoneId), 10))
		}
	}
	file := os.NewFile(uintptr(fd), "connection")
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, netip.Addr{}, err
	}
	return connection{file, raw}, to, nil
}

func (c connection) send(b []byte) (all bool) {
	err := c.raw.Control(func(fd uintptr) {
		n, err := unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		all = err == nil && n == len(b)
	})
	return err == nil && all
}
