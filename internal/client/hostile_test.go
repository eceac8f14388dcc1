package client

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/client/clienttest"
	"github.com/doorward/doorward/internal/seal"
)

// Whatever comes that is not the gateway's is ignored: noise, the own datagrams sent back,
// the gateway's changed in one byte or cut short, and those of before.
func TestJunk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		c := l.client()
		c.Dial = func(ctx context.Context, carrier, address string) (net.Conn, error) {
			s, err := l.network.dial(ctx, carrier, address)
			return &noisy{socket: s.(*socket)}, err
		}
		r, err := c.Knock(t.Context(), l.knock)
		if got := summary(r); err != nil || len(got) != 2 || l.prover.count != 1 {
			t.Errorf("%q, %v, %d proofs", got, err, l.prover.count)
		}
	})
}

// noisy is a socket to which somebody sends junk before each datagram.
type noisy struct {
	*socket
	queue [][]byte
	past  [][]byte
}

func (s *noisy) Write(d []byte) (int, error) {
	s.deliver(slices.Clone(d))
	return s.socket.Write(d)
}

func (s *noisy) Read(b []byte) (int, error) {
	if len(s.queue) == 0 {
		n, err := s.socket.Read(b)
		if err != nil {
			return n, err
		}
		d := slices.Clone(b[:n])
		flipped := slices.Clone(d)
		flipped[len(flipped)/2] ^= 1
		s.queue = append(s.queue, make([]byte, 0), make([]byte, 63), make([]byte, 192), make([]byte, 4000), flipped, d[:len(d)-1], append(slices.Clone(d), 0))
		s.queue = append(append(s.queue, s.past...), d)
		s.past = append(s.past, d)
	}
	d := s.queue[0]
	s.queue = s.queue[1:]
	return copy(b, d), nil
}

// A profile without the gateway's keys, or with others, gets them, and what comes is
// checked.
func TestBundle(t *testing.T) {
	other := clienttest.NewIdentity(t, 7).Bundle()
	for name, has := range map[string][]byte{"none": nil, "another's": other, "half": other[:600]} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t)
				l.knock.Profile.Gateway.Bundle = has
				l.fate = func(d trip) (int, time.Duration) {
					if !d.down && d.n == 1 { // the question for the second part
						return 0, 0
					}
					return 1, 0
				}
				r, _, err := l.run(t)
				if got := summary(r); err != nil || len(got) != 2 {
					t.Fatalf("%q, %v", got, err)
				}
				if d := cmp.Diff(l.gateway.Identity.Bundle(), r.Bundle); d != "" {
					t.Errorf("the bundle:\n%s", d)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		if r, _, err := l.run(t); err != nil || r.Bundle != nil {
			t.Errorf("a profile with the keys: %v, and %d bytes of a bundle", err, len(r.Bundle))
		}
	})
}

// Somebody on the way changes a part, where the tag does not cover it: it is not believed.
func TestForgedBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.knock.Profile.Gateway.Bundle = nil
		var forged atomic.Int32
		c := l.client()
		c.Dial = func(ctx context.Context, carrier, address string) (net.Conn, error) {
			s, err := l.network.dial(ctx, carrier, address)
			return &forger{socket: s.(*socket), forged: &forged}, err
		}
		r, err := c.Knock(t.Context(), l.knock)
		if err != nil || len(r.Answers) == 0 || forged.Load() == 0 {
			t.Errorf("%q, %v after %d forged parts", summary(r), err, forged.Load())
		}
		if d := cmp.Diff(l.gateway.Identity.Bundle(), r.Bundle); d != "" {
			t.Errorf("the bundle:\n%s", d)
		}
	})
}

// forger puts a part that it has changed before the first one that comes.
type forger struct {
	*socket
	forged *atomic.Int32
	held   []byte
}

func (f *forger) Read(b []byte) (int, error) {
	if f.held != nil {
		n := copy(b, f.held)
		f.held = nil
		return n, nil
	}
	n, err := f.socket.Read(b)
	if err == nil && n == 768 && f.forged.CompareAndSwap(0, 1) {
		f.held = slices.Clone(b[:n])
		b[300] ^= 1
	}
	return n, err
}

// The gateway has a newer key: it is fetched where the answer came from, and returned.
func TestNextKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		newer := clienttest.NewIdentity(t, 2)
		g := clienttest.New(t, l.prover.ring(t), newer)
		l.gateways[v4], l.gateways[v6] = g, g
		r, took, err := l.run(t)
		if err != nil || r.Next == nil {
			t.Fatalf("%v, %+v", err, r)
		}
		want := &seal.Peer{Profile: clienttest.Secret, Fingerprint: newer.Fingerprint(), Bundle: newer.Bundle()}
		if d := cmp.Diff(want, r.Next); d != "" {
			t.Error(d)
		}
		if took != 60*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		g := clienttest.New(t, l.prover.ring(t), clienttest.NewIdentity(t, 2))
		l.gateways[v4], l.gateways[v6] = g, g
		l.fate = func(d trip) (int, time.Duration) {
			if d.size == 768 {
				return 0, 0
			}
			return 1, 0
		}
		if r, took, err := l.run(t); err != nil || r.Next != nil || took > nextWithin+time.Second {
			t.Errorf("where it cannot be fetched: %+v, %v after %v", r, err, took)
		}
	})
}

// A network that wants a login first answers in everybody's place, in HTTP.
func TestCaptivePortal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: http://portal.example.org/\r\n\r\n")
			io.Copy(io.Discard, c) // until the visitor has had enough
			c.Close()
		}
	}()
	p := newProver(t)
	at := clienttest.New(t, p.ring(t)).Profile(uint16(l.Addr().(*net.TCPAddr).Port), "127.0.0.1")
	at.Carriers = []string{"tcp"}
	_, err = new(Client).Knock(t.Context(), Knock{Profile: at, Prover: p, Request: seal.Request{Action: seal.Open}})
	var silent *SilentError
	const want = "it may be that this network answers in the gateway's place, until you have logged in to it with a browser; the gateway is down, or the port another; or the gateway has new secrets: ask for a new invite, and doorward accept it"
	if !errors.As(err, &silent) || silent.Hint() != want {
		t.Errorf("%v: %+v; want the hint %q", err, silent, want)
	}
}
