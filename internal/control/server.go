package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Backend is what the server asks of the daemon. Its methods are called from
// many goroutines at once.
type Backend interface {
	// Status returns a snapshot that does not change any more, and a channel as Newer
	// returns it, taken just before. It blocks until the snapshot is made, which is done
	// once for all who ask at the same time, and until what it says is on disk, though not
	// for long if the disk is slow.
	Status() (s Status, newer <-chan struct{})

	// Newer returns a channel that is closed at the next change. Every record of the
	// audit trail is a change, so followers of the trail can wait for it. It does not
	// wait for the gateway.
	Newer() <-chan struct{}

	// Do carries out an order of by: an Open, Close, Arm or ApplyRequest as returned by
	// Request.Order, checked as far as possible without the configuration. It blocks
	// until the order is done and on disk, or ctx ends, which it does when the client has
	// gone. The error may be an *Error, whose empty Code means CodeRefused.
	Do(ctx context.Context, by Caller, order any) (Reply, error)

	// Diff returns what applying the configuration file would change now. The error may
	// be an *Error.
	Diff(ctx context.Context) (Diff, error)

	// Log returns the records that q selects. Limit is 1 to 10,000, Oldest is set if After
	// is, and Follow is left to the server. The error may be an *Error.
	Log(q LogQuery) (LogPage, error)

	// Explain says what a new connection from source would meet at a door, or at every
	// door if door is "". The source is a plain address, without a zone, never an
	// IPv4-mapped one. The error may be an *Error.
	Explain(ctx context.Context, source netip.Addr, door string) (Explanation, error)
}

// Limits of what a client may cost the daemon.
const (
	maxBody      = 64 << 10               // bytes of an order
	readTimeout  = 10 * time.Second       // for a whole request to arrive
	writeTimeout = 10 * time.Second       // for the client to take one answer, or one line of a stream
	stopTimeout  = 2 * time.Second        // for orders in progress when the server stops
	streamPause  = 100 * time.Millisecond // between two lines of a stream of snapshots
)

// Server answers operators' commands from a Backend.
type Server struct {
	backend Backend
	log     *slog.Logger
	peerAt  func(net.Conn) (audit.Operator, error) // who is at the other end
	names   userNames
	streams streams
}

// NewServer returns a server that answers from b and logs errors of connections to log.
// It reads the machine's user names, so it must be called before the process is
// sandboxed.
func NewServer(b Backend, log *slog.Logger) *Server {
	return &Server{backend: b, log: log, peerAt: peerAt, names: namesNow(), streams: make(streams, maxStreams())}
}

// Serve answers on l until ctx ends, and then returns nil: streams end at once, orders in
// progress have two seconds to finish. It closes l. It returns an error if serving ends
// for any other reason.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	// Orders in progress outlive ctx by stopTimeout; streams watch ctx itself.
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	srv := &http.Server{
		Handler:        s.handler(ctx),
		ReadTimeout:    readTimeout,
		IdleTimeout:    time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		BaseContext:    func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			by, err := s.peerAt(c)
			return context.WithValue(ctx, peerKey{}, peer{by, err})
		},
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		wait, cancel := context.WithTimeout(base, stopTimeout)
		defer cancel()
		if srv.Shutdown(wait) != nil {
			cut()
			srv.Close()
		}
	})
	err := srv.Serve(limitListener(srv, l, maxOperators()))
	if !stop() { // the stop has begun: wait for its end
		<-stopped
	}
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	srv.Close()
	return fmt.Errorf("serve the control socket %q: %w", l.Addr(), err)
}

// route is how one path is served.
type route struct {
	method string
	serve  http.HandlerFunc
}

// routes are the paths of the API (docs/API.md). Streams end with ctx.
func (s *Server) routes(ctx context.Context) map[string]route {
	return map[string]route{
		"/v1/status":  {http.MethodGet, func(w http.ResponseWriter, r *http.Request) { s.status(ctx, w, r) }},
		"/v1/diff":    {http.MethodGet, s.diff},
		"/v1/log":     {http.MethodGet, func(w http.ResponseWriter, r *http.Request) { s.records(ctx, w, r) }},
		"/v1/explain": {http.MethodGet, s.explain},
		"/v1/open":    {http.MethodPost, order[OpenRequest](s)},
		"/v1/close":   {http.MethodPost, order[CloseRequest](s)},
		"/v1/arm":     {http.MethodPost, order[ArmRequest](s)},
		"/v1/apply":   {http.MethodPost, order[ApplyRequest](s)},
	}
}

// handler serves the routes.
func (s *Server) handler(ctx context.Context) http.Handler {
	routes := s.routes(ctx)
	known := strings.Join(slices.Sorted(maps.Keys(routes)), ", ") + ", " + kindsPath + "KIND/ORDER"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rt, ok := routes[r.URL.Path]
		if kind, order, is := kindOrder(r.URL.Path); is {
			rt, ok = route{http.MethodPost, s.order(func(body io.Reader) (any, int, error) { return decodeKindOrder(kind, order, body) })}, true
		}
		if !ok {
			writeError(w, http.StatusNotFound, &Error{
				Message: fmt.Sprintf("path %q is not known: allowed are %s", r.URL.Path, known),
				Hint:    versionsDiffer,
			})
			return
		}
		if r.Method != rt.method {
			w.Header().Set("Allow", rt.method)
			writeError(w, http.StatusMethodNotAllowed, &Error{
				Message: fmt.Sprintf("method %q on %s: allowed is %s", r.Method, r.URL.Path, rt.method),
			})
			return
		}
		rt.serve(w, r)
	})
}

// kindsPath begins the paths of orders to kinds of knock.
const kindsPath = "/v1/kinds/"

// kindOrder returns which order to which kind a path is, false for none.
func kindOrder(path string) (kind, order string, is bool) {
	rest, is := strings.CutPrefix(path, kindsPath)
	kind, order, two := strings.Cut(rest, "/")
	return kind, order, is && two && !strings.Contains(order, "/")
}

// order answers a POST whose body is an R: the body is decoded strictly, checked, and
// only then handed to the backend.
func order[R Request](s *Server) http.HandlerFunc { return s.order(decodeOrder[R]) }

// order answers a POST with an order that decode reads from its body.
func (s *Server) order(decode func(body io.Reader) (any, int, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		o, code, err := decode(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			writeError(w, code, err)
			return
		}
		by, err := s.callerOf(r)
		if err != nil {
			writeError(w, http.StatusForbidden, err)
			return
		}
		if open, ok := o.(Open); ok && open.Wait > 0 {
			if !s.streams.begin(w) {
				return
			}
			defer s.streams.end()
		}
		reply, err := s.backend.Do(r.Context(), by, o)
		if err != nil {
			writeError(w, orderStatus(err), err)
			return
		}
		writeJSON(w, http.StatusOK, reply)
	}
}

// orderStatus is the HTTP status of an order that the backend did not carry
// out: 409 when it says why to the operator, 500 when something broke.
func orderStatus(err error) int {
	if _, ok := errors.AsType[*Error](err); ok {
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

// decodeOrder reads one R and nothing else from body, and returns what it orders, or an
// error and its HTTP status.
func decodeOrder[R Request](body io.Reader) (any, int, error) {
	text, code, err := readBody(body)
	if err != nil {
		return nil, code, err
	}
	var r R
	if err := decodeStrictly(text, &r); err != nil {
		return nil, http.StatusBadRequest, unread(err)
	}
	if err := nothingEmpty(text); err != nil {
		return nil, http.StatusBadRequest, err
	}
	o, err := r.Order()
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	return o, 0, nil
}

// readBody returns a body. With an error comes its HTTP status.
func readBody(body io.Reader) (text []byte, code int, err error) {
	text, err = io.ReadAll(body)
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("the body is larger than %d bytes", maxBody)
	}
	if err != nil {
		return nil, http.StatusBadRequest, unread(err)
	}
	return text, 0, nil
}

// decodeKindOrder is decodeOrder for an order to a kind, which reads its arguments itself.
func decodeKindOrder(kind, order string, body io.Reader) (any, int, error) {
	text, code, err := readBody(body)
	if err != nil {
		return nil, code, err
	}
	r := KindRequest{Kind: kind, What: order}
	if len(bytes.TrimSpace(text)) > 0 {
		r.Args = text
	}
	o, err := r.Order()
	if err == nil && r.Args != nil {
		err = nothingEmpty(text)
	}
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	return o, 0, nil
}

// decodeStrictly reads one object into v, which knows all its keys.
func decodeStrictly(text []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, more := dec.Token(); more != io.EOF {
		return errors.New("there is more after the object")
	}
	return nil
}

// unread returns the error for a body that cannot be decoded. A key that is not known
// probably belongs to another version.
func unread(err error) error {
	e := &Error{Code: CodeUsage, Message: "the body is not one JSON object as expected: " + err.Error()}
	if strings.Contains(e.Message, unknownKey) {
		e.Hint = versionsDiffer
	}
	return e
}

// unknownKey is what encoding/json says in its error for a key that is not known.
const unknownKey = "unknown field"

// versionsDiffer is the hint when doorward sends what doorwardd does not know.
const versionsDiffer = "doorward and doorwardd may be of different versions: systemctl restart doorward"

// nothingEmpty returns an error that names a key whose value is "" or null, if there is
// one. A key that is there twice has two values.
func nothingEmpty(text []byte) error {
	none := errors.New("the body is not one JSON object as expected")
	dec := json.NewDecoder(bytes.NewReader(text))
	if begin, err := dec.Token(); err != nil || begin != json.Delim('{') {
		return none
	}
	for dec.More() {
		key, err := dec.Token()
		var v json.RawMessage
		if err != nil || dec.Decode(&v) != nil {
			return none
		}
		if string(v) == `""` || string(v) == "null" {
			return fmt.Errorf("%s is %s: give a value, or leave the key out", key, v)
		}
	}
	return nil
}

// writeJSON answers with v. An error in writing means that the client has gone, which
// does not concern the daemon.
func writeJSON(w http.ResponseWriter, code int, v any) {
	b, err := Versioned(v)
	if err != nil {
		code = http.StatusInternalServerError
		b, _ = Versioned(&Error{Code: CodeInternal, Message: "the answer cannot be written as JSON"})
	}
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(b)
}

// writeError answers with err as an *Error that has a code.
func writeError(w http.ResponseWriter, status int, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Message: err.Error()}
	}
	if e.Code == "" {
		e = &Error{Code: codeOf(status), Message: e.Message, Hint: e.Hint}
	}
	writeJSON(w, status, e)
}

// codeOf returns the code for an error that has none, by its HTTP status.
func codeOf(status int) string {
	switch status {
	case http.StatusForbidden:
		return CodePermission
	case http.StatusConflict, http.StatusServiceUnavailable:
		return CodeRefused
	}
	if 400 <= status && status < 500 {
		return CodeUsage
	}
	return CodeInternal
}
