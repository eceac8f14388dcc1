package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// pipes is a listener of in-memory connections, for tests in synctest bubbles.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// dial connects and sends text.
func (p *pipes) dial(t *testing.T, text string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	p.conns <- theirs
	if _, err := io.WriteString(ours, text); err != nil {
		t.Error(err)
	}
	return ours
}

// inBubble serves b to f within a synctest bubble.
func inBubble(t *testing.T, b Backend, f func(t *testing.T, p *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		s := NewServer(b, quiet)
		s.peerAt = func(net.Conn) (audit.Operator, error) { return audit.Operator{UID: 4294967294, PID: 7}, nil }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Serve(ctx, p) }()
		f(t, p)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestPace has a thousand new snapshots a second, of which a watcher gets at most ten.
func TestPace(t *testing.T) {
	inBubble(t, &busy{}, func(t *testing.T, p *pipes) {
		c := p.dial(t, "GET /v1/status?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n")
		defer c.Close()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		dec := json.NewDecoder(resp.Body)
		n := 0
		// Far longer than a request may take to arrive.
		for ; time.Since(begin) < time.Minute; n++ {
			var s Status
			if err := dec.Decode(&s); err != nil {
				t.Fatalf("after %v: %v", time.Since(begin), err)
			}
		}
		if n < 590 || n > 602 {
			t.Errorf("%d snapshots in a minute, want about 600", n)
		}
	})
}

// busy is a backend that has a newer snapshot every millisecond.
type busy struct{ stub }

func (b *busy) Status() (Status, <-chan struct{}) {
	newer := make(chan struct{})
	time.AfterFunc(time.Millisecond, func() { close(newer) })
	return Status{}, newer
}

func (b *busy) Newer() <-chan struct{} {
	_, newer := b.Status()
	return newer
}

// TestSlowOrder checks that an order is answered even if it takes longer than a
// request may take to arrive.
func TestSlowOrder(t *testing.T) {
	b := &stub{do: func(ctx context.Context, by Caller, _ any) (Reply, error) {
		select {
		case <-time.After(time.Minute):
			return Reply{Message: "done for " + by.Name}, nil
		case <-ctx.Done():
			return Reply{}, ctx.Err()
		}
	}}
	inBubble(t, b, func(t *testing.T, p *pipes) {
		body := `{"door":"ssh","source":"any"}`
		c := p.dial(t, fmt.Sprintf("POST /v1/open HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		defer c.Close()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		if want := `{"api":1,"message":"done for operator uid 4294967294","door":"","source":"","state":"","changed":false}` + "\n"; string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestSlowClients has clients that would keep a connection forever: one that
// never finishes its request, one that never reads its stream.
func TestSlowClients(t *testing.T) {
	b := &busy{}
	inBubble(t, b, func(t *testing.T, p *pipes) {
		c := p.dial(t, "POST /v1/arm HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
		defer c.Close()
		begin := time.Now()
		got, _ := io.ReadAll(c)
		if took := time.Since(begin); took > readTimeout+time.Second {
			t.Errorf("a body that does not end: cut after %v, want %v", took, readTimeout)
		}
		if !strings.HasPrefix(string(got), "HTTP/1.1 400 ") {
			t.Errorf("a body that does not end: got %q, want 400", got)
		}

		c = p.dial(t, "GET /v1/status?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n")
		defer c.Close()
		time.Sleep(2 * writeTimeout) // of the bubble
		synctest.Wait()
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("a stream that is not read: got %v, want it cut", err)
		}
	})
}

// TestNoPeerNoOrder checks that orders are refused if it is not known who gives them.
func TestNoPeerNoOrder(t *testing.T) {
	b := &stub{do: func(context.Context, Caller, any) (Reply, error) {
		t.Error("the order reached the backend")
		return Reply{}, nil
	}}
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- NewServer(b, quiet).Serve(ctx, p) }()
		c := p.dial(t, "POST /v1/arm HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
		defer c.Close()
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(resp.Body)
		want := `{"api":1,"code":"permission","error":"cannot tell who gives the order: a *net.pipe is not a unix socket","hint":""}` + "\n"
		if resp.StatusCode != http.StatusForbidden || string(got) != want {
			t.Errorf("got %d %q, want 403 %q", resp.StatusCode, got, want)
		}
		cancel()
		<-ended
	})
}
