package relay

import (
	"context"
	"io"
	"net"
)

// Pair copies between two connections until both directions have ended, one of them fails,
// or ctx ends, and closes both. The end of one direction is passed on and does not affect
// the other.
func Pair(ctx context.Context, a, b net.Conn) {
	defer b.Close()
	defer a.Close()
	defer context.AfterFunc(ctx, func() { a.Close(); b.Close() })()
	other := make(chan bool)
	go func() { // ends with the connections
		defer close(other)
		oneWay(a, b)
	}()
	oneWay(b, a)
	<-other
}

// oneWay copies until from ends, and passes that on. A failure ends both.
func oneWay(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if c, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		err = c.CloseWrite()
	}
	if err != nil {
		to.Close()
		from.Close()
	}
}
