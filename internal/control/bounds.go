package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"github.com/doorward/doorward/internal/descriptors"
)

// How many connections are served at a time; more wait in the kernel's queue.
// Each costs a descriptor, which the listeners need too.
func maxOperators() int { return descriptors.Share(256, descriptors.Operators) }
func maxScrapes() int   { return descriptors.Share(64, descriptors.Meters) }

// maxStreams is how many of the operators' connections may be streams (which watch,
// follow, or wait for a door to open), so that there is room left for orders.
func maxStreams() int { return min(64, maxOperators()/2) }

// ServeMetrics answers on l from m (see Metrics) until ctx ends, and then returns
// nil. It closes l. Any other end is an error.
func ServeMetrics(ctx context.Context, l net.Listener, m MetricSource, log *slog.Logger) error {
	s := &http.Server{
		Handler:           Metrics(m),
		ReadHeaderTimeout: readTimeout / 2,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       readTimeout,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // anybody may cause them
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	err := s.Serve(limitListener(s, l, maxScrapes()))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	s.Close()
	return fmt.Errorf("serve metrics: %w", err)
}

// limitListener returns l as a listener for s that accepts while fewer than most of its
// connections are open. The connections are l's own, since the server asks them who is
// at the other end of a unix socket.
func limitListener(s *http.Server, l net.Listener, most int) net.Listener {
	b := &limitedListener{Listener: l, slots: make(chan struct{}, most), closed: make(chan struct{})}
	s.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			<-b.slots
		}
	}
	return b
}

type limitedListener struct {
	net.Listener
	slots  chan struct{} // holds one for each connection
	closed chan struct{}
	once   sync.Once
}

func (b *limitedListener) Accept() (net.Conn, error) {
	select {
	case b.slots <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.slots
	}
	return c, err
}

func (b *limitedListener) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

// streams counts the streams that are open.
type streams chan struct{}

// begin reports whether another stream may begin. If so, end must be called when the
// stream ends; if not, begin has answered w.
func (s streams) begin(w http.ResponseWriter) bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		w.Header().Set("Retry-After", "1")
		writeError(w, http.StatusServiceUnavailable, &Error{
			Code:    CodeBusy,
			Message: fmt.Sprintf("%d clients are watching, following, waiting or reading long lists already, which is the limit", cap(s)),
			Hint:    "doorward status, without --watch; doorward open, with --no-wait",
		})
		return false
	}
}

func (s streams) end() { <-s }
