//go:build linux

package datagrams

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/descriptors"
	"github.com/doorward/doorward/internal/knock"
)

// How many connections there are at a time: in all, as far as there are descriptors, and
// of one prefix. One in strangersShare is left to those who were not heard yet.
const maxStreams, maxOfPrefix, strangersShare = 256, 16, 4

// streams are the connections that carry datagrams.
type streams struct {
	most int // at a time

	mu    sync.Mutex // guards what follows
	ports map[uint16]*streamPort
	all   map[uint64]*stream // by their numbers
	of    map[prefix]*crowd
	last  uint64 // number given
	ended uint64 // connections that had to go for others
}

// streamPort is a port whose connections carry datagrams.
type streamPort struct {
	opener atomic.Pointer[glance]
	queue  queue // the pool's
}

// crowd is how many connections there are of a prefix.
type crowd struct{ n int }

func (s *streams) init() {
	s.most = descriptors.Share(maxStreams, descriptors.Streams)
	s.ports, s.all, s.of = make(map[uint16]*streamPort), make(map[uint64]*stream), make(map[prefix]*crowd)
}

// set makes the ports those of want. Connections to others are ended.
func (s *streams) set(want map[uint16]knock.Opener, p *pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, port := range s.ports {
		if want[n] != nil {
			continue
		}
		delete(s.ports, n)
		p.listen(&port.queue, false)
		for _, c := range s.all {
			if c.port == port {
				s.remove(c)
				c.end()
			}
		}
	}
	for n, by := range want {
		port := s.ports[n]
		if port == nil {
			port = new(streamPort)
			port.queue.place = knock.Place{Medium: knock.Streams, Port: n}
			port.queue.most = maxStreams // one of each connection
			s.ports[n] = port
		}
		port.opener.Store(newGlance(by))
		p.listen(&port.queue, true)
	}
}

// Accept takes over the descriptor of a connection that a visitor has made to a port. If
// Set has said that streams are heard there, what it carries is heard, else it is ended.
// Of too many connections, a random one of the prefix that has most of them is ended (see
// crowded). Accept does not wait.
func (l *Listener) Accept(p uint16, fd int, from netip.AddrPort) {
	c, to, err := connected(fd)
	if err != nil {
		unix.Close(fd) // the visitor has reset it
		return
	}
	l.accept(p, c, knock.Path{From: from, To: netip.AddrPortFrom(to, p)})
}

func (l *Listener) accept(p uint16, by carrier, path knock.Path) {
	s := &l.streams
	s.mu.Lock()
	defer s.mu.Unlock()
	port := s.ports[p]
	if port == nil {
		_ = by.Close()
		return
	}
	c := &stream{carrier: by, path: path, port: port, begun: time.Now(), done: make(chan bool, 1), gone: make(chan struct{})}
	if s.admit(c) {
		l.running.Go(func() { l.serve(c) })
	}
}

// admit adds a connection, for which another may have to go; false: this one has.
func (s *streams) admit(c *stream) bool {
	of := prefixOf(c.path.From.Addr())
	if s.of[of] == nil {
		s.of[of] = new(crowd)
	}
	c.crowd = s.of[of]
	c.crowd.n++
	s.last++
	c.path.Stream = s.last
	s.all[s.last] = c
	goes := s.crowded(c)
	if goes == nil {
		return true
	}
	s.ended++
	s.remove(goes)
	goes.end()
	return goes != c
}

// crowded returns the connection that has to go when another has come, nil for none. Those
// that were heard stay while strangers have more than their share of what could go: so no
// stranger ends them, and whoever has what it takes to be heard does not keep others from
// being heard first.
func (s *streams) crowded(new *stream) *stream {
	most := new.crowd.n
	if most <= maxOfPrefix {
		if len(s.all) <= s.most {
			return nil
		}
		for _, c := range s.all {
			most = max(most, c.crowd.n)
		}
	}
	var heard, strange drawn
	for _, c := range s.all {
		switch {
		case c.crowd.n < most:
		case c.heard.Load():
			heard.add(c)
		default:
			strange.add(c)
		}
	}
	if strangersShare*strange.of > strange.of+heard.of {
		return strange.stream
	}
	return heard.stream
}

// drawn is a random one of several connections.
type drawn struct {
	stream *stream
	of     int
}

func (d *drawn) add(c *stream) {
	if d.of++; rand.IntN(d.of) == 0 {
		d.stream = c
	}
}

// remove forgets a connection.
func (s *streams) remove(c *stream) {
	if s.all[c.path.Stream] != c {
		return
	}
	delete(s.all, c.path.Stream)
	if c.crowd.n--; c.crowd.n == 0 {
		delete(s.of, prefixOf(c.path.From.Addr()))
	}
}

// leave forgets a connection that has ended.
func (s *streams) leave(c *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(c)
}

// find returns a connection that has not ended; nil: it has.
func (s *streams) find(n uint64) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[n]
}

func (s *streams) crowdedOut() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}
