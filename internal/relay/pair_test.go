package relay

import (
	"context"
	"io"
	"net"
	"testing"
)

// ends are both ends of a TCP connection.
func ends(t *testing.T) (here, there *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// What is said goes both ways, and the end of one direction leaves the other.
func TestPair(t *testing.T) {
	visitor, a := ends(t)
	service, b := ends(t)
	done := make(chan bool)
	go func() { Pair(t.Context(), a, b); close(done) }()
	say := func(c *net.TCPConn, text string) {
		t.Helper()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(c *net.TCPConn, want string) {
		t.Helper()
		if got, err := io.ReadAll(c); err != nil || string(got) != want {
			t.Errorf("%q, %v, want %q", got, err, want)
		}
	}
	say(visitor, "question")
	hear(service, "question")
	say(service, "answer")
	hear(visitor, "answer")
	<-done
}

// Both ends hear of it when one is gone, and when it is time to end.
func TestPairEnds(t *testing.T) {
	for _, by := range []string{"a reset", "its context"} {
		visitor, a := ends(t)
		service, b := ends(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan bool)
		go func() { Pair(ctx, a, b); close(done) }()
		if by == "a reset" {
			if err := visitor.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			visitor.Close()
		} else {
			cancel()
		}
		<-done
		if n, _ := service.Read(make([]byte, 1)); n != 0 {
			t.Errorf("ended by %s: %d bytes", by, n)
		}
		cancel()
	}
}
