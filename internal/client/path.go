package client

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/doorward/doorward/internal/seal"
)

// stage is how far a path has got.
type stage uint8

const (
	opening    stage = iota // the connection is being made
	asking                  // for the gateway's keys
	greeting                // hello was sent
	challenged              // the request is to be made
	requested               // the request was sent
	answered                // finally
	dead
)

// path is one address over one carrier. It belongs to the race's goroutine.
type path struct {
	at     netip.AddrPort
	stream bool
	stage  stage
	conn   net.Conn
	err    error // the last that the network reported

	v       *seal.Visitor
	parts   [seal.BundleParts][]byte
	busy    int    // how often it was followed
	request []byte // to be sent as soon as there is a connection
	asked   bool   // the request was made, and perhaps sent

	sent  [][]byte  // to be sent again
	again time.Time // when
	pause time.Duration

	helloAt   time.Time
	roundTrip time.Duration
	answer    *Answer // the last
}

func (p *path) is4() bool { return p.at.Addr().Is4() }

// event is what happened to a path: it was opened, a datagram came, or the network
// reported an error.
type event struct {
	path     *path
	conn     net.Conn
	datagram []byte
	err      error
	ended    bool // no more comes
}

// send sends datagrams, now and again while nothing comes.
func (p *path) send(now time.Time, datagrams ...[]byte) {
	p.sent, p.pause = datagrams, firstAgain
	if p.stream {
		p.pause = streamFrom
	}
	p.sendAgain(now)
}

func (p *path) sendAgain(now time.Time) {
	for _, d := range p.sent {
		if p.stream {
			d = append(binary.BigEndian.AppendUint16(nil, uint16(len(d))), d...)
			// What the gateway does not take keeps nobody waiting.
			p.conn.SetWriteDeadline(now.Add(longAgain))
		}
		if _, err := p.conn.Write(d); err != nil {
			p.err = err
		}
	}
	p.again = now.Add(p.pause)
	p.pause = max(p.pause, min(2*p.pause, longAgain))
}

// quiet stops sending.
func (p *path) quiet() { p.sent = nil }

// die closes the path.
func (p *path) die() {
	p.stage, p.sent = dead, nil
	if p.conn != nil {
		p.conn.Close()
	}
}

// open connects, and then reads until the connection is closed. It runs beside the race.
func (p *path) open(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), events chan<- event) {
	conn, err := dial(ctx, carrier(p.stream), p.at.String())
	tell := func(e event) bool {
		e.path = p
		select {
		case events <- e:
			return true
		case <-ctx.Done():
			return false
		}
	}
	if err != nil {
		tell(event{err: err, ended: true})
		return
	}
	if !tell(event{conn: conn}) {
		conn.Close()
		return
	}
	if p.stream {
		err = readStream(conn, tell)
	} else {
		err = readDatagrams(conn, tell)
	}
	tell(event{err: err, ended: true})
}

// mostErrors is how many errors in a row a socket may report. An ICMP message makes one
// (connect(2), ECONNREFUSED), and no harm: anybody can send it.
const mostErrors = 1000

func readDatagrams(conn net.Conn, tell func(event) bool) error {
	b := make([]byte, 64<<10) // Windows fails to read what is longer than this
	for errs := 0; ; {
		n, err := conn.Read(b)
		switch {
		case errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF):
			return err
		case err != nil:
			if errs++; errs > mostErrors || !tell(event{err: err}) {
				return err
			}
		case n <= seal.Longest:
			errs = 0
			if !tell(event{datagram: append([]byte(nil), b[:n]...)}) {
				return nil
			}
		}
	}
}

// errNotOurs says that something else than a gateway has answered over TCP.
var errNotOurs = errors.New("what has answered is not a gateway")

func readStream(conn net.Conn, tell func(event) bool) error {
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n > seal.LongestStream {
			return errNotOurs
		}
		d := make([]byte, n)
		if _, err := io.ReadFull(conn, d); err != nil {
			return err
		}
		if !tell(event{datagram: d}) {
			return nil
		}
	}
}
