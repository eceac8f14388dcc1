//go:build linux

package sealed

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/seal"
)

// How long the siege lasts, and the seed of its choices. It is a test that can be run for
// a night: go test -run Siege -siege 8h -timeout 0.
var (
	siegeLasts = flag.Duration("siege", 4*time.Second, "how long TestSiege goes on at least")
	siegeSeed  = flag.Uint64("siege-seed", 1, "the seed of TestSiege")
)

// siege is a visitor who knocks, those who want to get in by what they see of it, and a
// daemon that is killed.
type siege struct {
	*site
	ctx    context.Context
	seen   lab.Eavesdropper
	kills  atomic.Int64
	down   sync.RWMutex // held for writing while no daemon runs
	sent   atomic.Int64 // requests of the visitor's to open
	opened atomic.Int64
}

// A visitor gets in whenever the daemon runs, and nobody else ever, while an eavesdropper
// replays and mixes all that the visitor sends, from their own and from the visitor's
// address, somebody with the profile secret and somebody with the gateway's key as well
// knock without a credential, and the daemon is killed again and again.
func TestSiege(t *testing.T) {
	s := &siege{site: newSite(t, "one_way = true")}
	s.start()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s.ctx = ctx
	var all sync.WaitGroup
	all.Go(func() { // on a busy machine the daemon may be killed often before anybody gets in
		defer stop()
		time.Sleep(*siegeLasts)
		if err := lab.Until(ctx, 3*soon, "the visitor gets in", s.answered); err != nil {
			t.Error(err)
		}
	})
	for n, role := range []func(*rand.Rand){s.visits, s.eavesdrops(s.stranger), s.eavesdrops(s.visitor), s.guesses, s.tries, s.killsIt} {
		all.Go(func() { role(rand.New(rand.NewPCG(*siegeSeed, uint64(n)))) })
	}
	all.Wait()

	granted := int64(0)
	s.must(s.client().Log(t.Context(), control.LogQuery{Events: []string{audit.EventGranted}, Limit: 10_000}, func(r audit.Record) error {
		if granted++; r.Source != visitor4 || r.By != "sealed alice "+ssh.FingerprintSHA256(s.alice.public) {
			return fmt.Errorf("somebody got a grant: %+v", r)
		}
		return nil
	}))
	t.Logf("%d kills, %d requests of the visitor's, %d answered, %d grants", s.kills.Load(), s.sent.Load(), s.opened.Load(), granted)
	if granted > s.sent.Load() {
		t.Errorf("%d requests led to %d grants, want no more grants than requests", s.sent.Load(), granted)
	}
}

// answered says whether a request of the visitor's was answered.
func (s *siege) answered() error {
	if s.opened.Load() == 0 {
		return fmt.Errorf("%d requests, and none was answered", s.sent.Load())
	}
	return nil
}

// visits knocks, comes in and closes the door.
func (s *siege) visits(*rand.Rand) {
	for s.ctx.Err() == nil {
		s.down.RLock()
		kills := s.kills.Load()
		s.down.RUnlock()
		err := s.visit()
		s.down.RLock() // until the daemon runs again
		if err != nil && s.kills.Load() == kills {
			s.t.Errorf("a visitor, with the daemon running: %v", err)
		}
		s.down.RUnlock()
	}
}

func (s *siege) visit() error {
	for _, q := range []seal.Request{web, {Action: seal.Close, Door: "web"}} {
		a, err := s.knock(q)
		if err != nil {
			return err
		}
		if q.Action == seal.Close {
			return nil
		}
		if a.Status != seal.Opened {
			return fmt.Errorf("answered: %+v", a)
		}
		s.opened.Add(1)
		if err := s.dial(s.visitor, gate4, "8080", soon); err != nil {
			return fmt.Errorf("told that the door is open, and %w", err)
		}
	}
	return nil
}

// knock is a whole knock of alice's, as a client makes it: what gets no answer is sent
// again.
func (s *siege) knock(q seal.Request) (seal.Answer, error) {
	v, err := seal.NewVisitor(s.peer, seal.X25519)
	if err != nil {
		return seal.Answer{}, err
	}
	c, err := s.socket(s.visitor)
	if err != nil {
		return seal.Answer{}, err
	}
	defer c.Close()
	now, b := v.Hello(), make([]byte, 2048)
	for range 20 {
		s.seen.See(now)
		if _, err := c.Write(now); err != nil && !refused(err) {
			return seal.Answer{}, err
		}
		for c.SetReadDeadline(time.Now().Add(dark)); ; {
			n, err := c.Read(b)
			if err != nil {
				break // again
			}
			s.seen.See(b[:n])
			switch e, a := v.Read(b[:n]); e {
			case seal.Answered:
				return a, nil
			case seal.Challenged:
				now = (&talk{s: s.site, v: v}).request(q, s.alice)
				if q.Action == seal.Open {
					s.sent.Add(1)
				}
			case seal.Busy:
				now = v.Hello()
			default:
				continue
			}
			break
		}
	}
	return seal.Answer{}, errors.New("no answer")
}

// refused says whether nobody has the port: the daemon is dead.
func refused(err error) bool { var e *net.OpError; return errors.As(err, &e) && !e.Timeout() }

func (s *siege) socket(from *lab.Host) (c net.Conn, err error) {
	err = from.Do(func() (err error) { c, err = net.Dial("udp", net.JoinHostPort(gate4, strconv.Itoa(port))); return })
	return c, err
}

// eavesdrops sends what was seen, altered and mixed.
func (s *siege) eavesdrops(from *lab.Host) func(*rand.Rand) {
	return func(by *rand.Rand) {
		c, err := s.socket(from)
		if err != nil {
			s.t.Error(err)
			return
		}
		defer c.Close()
		for s.ctx.Err() == nil {
			_, _ = c.Write(s.seen.Forge(by))
			s.pause()
		}
	}
}

// pause leaves room for others: this is about what is sent, not how much.
func (s *siege) pause() {
	select {
	case <-s.ctx.Done():
	case <-time.After(time.Millisecond):
	}
}

// guesses knocks with the profile secret and the bundle, and with keys that nobody knows.
func (s *siege) guesses(by *rand.Rand) {
	mallory := newKey(s.t, "mallory")
	c, err := s.socket(s.stranger)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer c.Close()
	b := make([]byte, 2048)
	for s.ctx.Err() == nil {
		v, err := seal.NewVisitor(s.peer, seal.X25519)
		if err != nil {
			s.t.Error(err)
			return
		}
		_, _ = c.Write(v.Hello())
		for c.SetReadDeadline(time.Now().Add(dark / 10)); ; {
			n, err := c.Read(b)
			if err != nil {
				break
			}
			switch e, a := v.Read(b[:n]); {
			case e == seal.Challenged:
				claimed := *mallory // says that it is alice's
				if by.IntN(2) == 0 {
					claimed.public = s.alice.public
				}
				_, _ = c.Write((&talk{s: s.site, v: v}).request(web, &claimed))
			case e == seal.Answered && (a.Status != seal.Refused || a.Reason != seal.NotAccepted):
				s.t.Errorf("somebody without a credential is answered: %+v", a)
			}
		}
		_, _ = c.Write(s.single(mallory, time.Now(), stranger4))
	}
}

// tries comes to the doors.
func (s *siege) tries(*rand.Rand) {
	for s.ctx.Err() == nil {
		for _, at := range []string{"8080", "8443"} {
			if err := s.dial(s.stranger, gate4, at, dark/10); err == nil {
				s.t.Errorf("a stranger came in at %s", at)
			}
		}
	}
}

// killsIt kills the daemon, and starts it.
func (s *siege) killsIt(by *rand.Rand) {
	for s.ctx.Err() == nil {
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(time.Duration(200+by.IntN(1000)) * time.Millisecond):
		}
		s.down.Lock()
		s.kills.Add(1)
		err := s.gate.Kill()
		var next *lab.Doorward
		if err == nil {
			next, err = s.Start(s.config)
		}
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			s.t.Errorf("kill and start: %v", err)
		}
		if next != nil {
			s.gate = next
		}
		s.down.Unlock()
	}
}
