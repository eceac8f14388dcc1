//go:build linux

package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/nstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// heard collects touches.
type heard struct {
	mu      sync.Mutex
	touches []knock.Heard
	news    chan struct{}
}

func newHeard() *heard { return &heard{news: make(chan struct{}, 1)} }

func (h *heard) add(t []knock.Heard) {
	h.mu.Lock()
	h.touches = append(h.touches, t...)
	h.mu.Unlock()
	select {
	case h.news <- struct{}{}:
	default:
	}
}

func (h *heard) all() []knock.Heard {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.touches[:len(h.touches):len(h.touches)]
}

// wait waits until ok accepts what was heard.
func (h *heard) wait(t testing.TB, what string, ok func([]knock.Heard) bool) []knock.Heard {
	t.Helper()
	late := time.After(patience)
	for {
		if all := h.all(); ok(all) {
			return all
		}
		select {
		case <-h.news:
		case <-late:
			t.Fatalf("%s: not heard in %v; heard %d: %v", what, patience, len(h.all()), brief(h.all()))
		}
	}
}

func count(n int) func([]knock.Heard) bool {
	return func(t []knock.Heard) bool { return len(t) >= n }
}

// brief returns the touches without their times.
func brief(touches []knock.Heard) []string {
	var s []string
	for _, t := range touches[:min(len(touches), 20)] {
		s = append(s, fmt.Sprintf("%v %v proven=%v", t.Source, t.Place.AsPort(), t.Proven))
	}
	return s
}

// scene is a gateway with a listener and a visitor, linked.
type scene struct {
	gateway, visitor *nstest.NS
	visitorIf        string
	listener         *Listener
	heard            *heard
	log              *logged
}

const (
	gateway4 = "192.0.2.1"
	visitor4 = "192.0.2.2"
	gateway6 = "2001:db8::1"
	visitor6 = "2001:db8::2"
)

func newScene(t testing.TB, ports ...uint16) *scene {
	t.Helper()
	s := &scene{gateway: nstest.New(t), visitor: nstest.New(t), heard: newHeard(), log: &logged{t: t}}
	_, s.visitorIf = nstest.Link(s.gateway, s.visitor, []string{gateway4 + "/24", gateway6 + "/64"},
		[]string{visitor4 + "/24", visitor6 + "/64"})
	s.listener = New(slog.New(slog.NewTextHandler(s.log, nil)), nil, s.heard.add)
	t.Cleanup(func() {
		if err := s.listener.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err := s.set(ports...); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *scene) set(ports ...uint16) error { return s.setAll(Ports{Open: ports}) }

func (s *scene) setAll(ports Ports) (err error) {
	s.gateway.Do(func() error { err = s.listener.Set(ports); return nil })
	return err
}

// logged is a log that a test reads.
type logged struct {
	t  testing.TB
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

// touch connects from the visitor's namespace and reads until the gateway ends
// the connection; it returns what was read.
func (s *scene) touch(t testing.TB, to string) []byte {
	t.Helper()
	var got []byte
	s.visitor.Do(func() error {
		c, err := dial(t.Context(), to)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		got = buf[:n]
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return fmt.Errorf("%s: the connection was not ended", to)
		}
		return nil
	})
	return got
}

func dial(ctx context.Context, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// An address, not a name, so that this thread is the one that connects.
	if _, err := netip.ParseAddrPort(to); err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", to)
}
