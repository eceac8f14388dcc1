//go:build linux

package datagrams

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/nstest"
)

func TestMain(m *testing.M) {
	if os.Getenv(sandboxed) != "" {
		if err := hearInSandbox(); err != nil {
			fmt.Println("in the sandbox:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	patience = 20 * time.Second

	gateway4 = "192.0.2.1"
	second4  = "198.51.100.1"
	visitor4 = "192.0.2.2"
	gateway6 = "2001:db8::1"
	second6  = "2001:db8::11"
	visitor6 = "2001:db8::2"
)

// words is an opener of datagrams that begin with "knock": it returns their text, and
// answers with what follows a colon. Those that begin with "knock shown" are Shown. A
// glance answers those that begin with "ask:", with what follows.
type words struct {
	glances, opens atomic.Int64
	slow, hold     chan struct{} // nil, or Glance and Open wait for it
	fixed          []byte        // the answer to all, nil for none
	more           int           // so much more a glance answers
}

func (w *words) Glance(_ netip.Addr, payload []byte, _ bool, answer []byte) (knock.Rank, int) {
	w.glances.Add(1)
	if w.slow != nil {
		<-w.slow
	}
	if text, ok := bytes.CutPrefix(payload, []byte("ask:")); ok {
		return knock.Junk, copy(answer, text) + w.more
	}
	switch {
	case bytes.HasPrefix(payload, []byte("knock shown")):
		return knock.Shown, 0
	case bytes.HasPrefix(payload, []byte("knock")):
		return knock.Claimed, 0
	}
	return knock.Junk, 0
}

func (w *words) Open(d knock.Datagram) (any, []byte, bool) {
	w.opens.Add(1)
	if w.hold != nil {
		<-w.hold
	}
	text := string(d.Payload)
	if w.fixed != nil {
		return text, w.fixed, true
	}
	ok := !strings.HasPrefix(text, "knock nothing")
	if _, answer, answers := strings.Cut(text, ":"); answers {
		return text, []byte(answer), ok
	}
	return text, nil, ok
}

// anything accepts whatever comes.
type anything struct{ words }

func (a *anything) Glance(netip.Addr, []byte, bool, []byte) (knock.Rank, int) {
	a.glances.Add(1)
	return knock.Claimed, 0
}

// record collects what was heard.
type record struct {
	mu   sync.Mutex
	all  []knock.Heard
	news chan struct{}
}

func newRecord() *record { return &record{news: make(chan struct{}, 1)} }

func (r *record) add(h []knock.Heard) {
	r.mu.Lock()
	r.all = append(r.all, h...)
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
}

func (r *record) heard() []knock.Heard {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[:len(r.all):len(r.all)]
}

// await waits until n things were heard.
func (r *record) await(t testing.TB, n int) []knock.Heard {
	t.Helper()
	late := time.After(patience)
	for {
		if all := r.heard(); len(all) >= n {
			return all
		}
		select {
		case <-r.news:
		case <-late:
			t.Fatalf("heard %d in %v, want %d: %v", len(r.heard()), patience, n, said(r.heard()))
		}
	}
}

func said(all []knock.Heard) []any {
	var s []any
	for _, h := range all[:min(len(all), 20)] {
		s = append(s, h.Said)
	}
	return s
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not in %v", what, patience)
		}
	}
}

// scene is a gateway with a listener and a visitor, linked.
type scene struct {
	t                testing.TB
	gateway, visitor *nstest.NS
	gatewayIf        string
	visitorIf        string
	listener         *Listener
	record           *record
	log              strings.Builder // the listener's, to be read when it is closed
}

func newScene(t testing.TB) *scene {
	t.Helper()
	s := &scene{t: t, gateway: nstest.New(t), visitor: nstest.New(t), record: newRecord()}
	s.gatewayIf, s.visitorIf = nstest.Link(s.gateway, s.visitor,
		[]string{gateway4 + "/24", second4 + "/24", gateway6 + "/64", second6 + "/64"},
		[]string{visitor4 + "/24", visitor6 + "/64"})
	s.visitor.Run("ip", "route", "add", second4+"/32", "dev", s.visitorIf)
	s.listener = New(slog.New(slog.NewTextHandler(&s.log, nil)), s.record.add)
	t.Cleanup(func() {
		if err := s.listener.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func (s *scene) set(want map[uint16]knock.Opener) (err error) {
	s.gateway.Do(func() error { err = s.listener.Set(overUDP(want)); return nil })
	return err
}

// overUDP are the places of UDP ports.
func overUDP(want map[uint16]knock.Opener) map[knock.Place]knock.Opener {
	all := make(map[knock.Place]knock.Opener)
	for p, by := range want {
		all[knock.Place{Medium: knock.Datagrams, Port: p}] = by
	}
	return all
}

func (s *scene) mustSet(want map[uint16]knock.Opener) {
	s.t.Helper()
	if err := s.set(want); err != nil {
		s.t.Fatal(err)
	}
}

// caller returns a visitor's socket, not connected, so that it sees who answers.
func (s *scene) caller(at string) *net.UDPConn {
	s.t.Helper()
	return caller(s.t, s.visitor, at)
}

func caller(t testing.TB, ns *nstest.NS, at string) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	ns.Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t testing.TB, c *net.UDPConn, to, text string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(text), netip.MustParseAddrPort(to)); err != nil {
		t.Fatalf("send to %s: %v", to, err)
	}
}

// answered returns the next datagram, and who sent it.
func answered(t testing.TB, c *net.UDPConn) (string, netip.AddrPort) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	return string(b[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

// silent checks that nothing has come to the caller by now.
func silent(t testing.TB, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got error
	_ = raw.Control(func(fd uintptr) { _, _, got = unix.Recvfrom(int(fd), make([]byte, 10), unix.MSG_DONTWAIT) })
	if got != unix.EAGAIN {
		t.Errorf("something came: %v", got)
	}
}
