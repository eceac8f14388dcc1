package control

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// status answers GET /v1/status: with one snapshot, or, with watch=1, with one a line
// whenever there is a newer one.
func (s *Server) status(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.RawQuery, "watch")
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	watch, err := parseFlag(q, "watch")
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	if !watch {
		snapshot, _ := s.snapshot()
		writeJSON(w, http.StatusOK, snapshot)
		return
	}
	if !s.streams.begin(w) {
		return
	}
	defer s.streams.end()
	st := newStream(ctx, w, r)
	defer st.stop()
	for {
		snapshot, newer := s.snapshot()
		if st.send(snapshot) != nil || !st.wait(newer) {
			return
		}
	}
}

// snapshot returns the latest snapshot, and a channel that is closed at the next change.
func (s *Server) snapshot() (Status, <-chan struct{}) {
	snapshot, newer := s.backend.Status()
	snapshot.API = APIVersion
	return snapshot, newer
}

// stream sends JSON objects, one a line, to a client that reads them as they
// come.
type stream struct {
	ctx   context.Context
	stop  context.CancelFunc
	w     http.ResponseWriter
	rc    *http.ResponseController
	paced *time.Timer // fires when the next line may be sent
}

// newStream begins the answer. The stream ends with the server's ctx or when
// the client goes away; stop must be called.
func newStream(ctx context.Context, w http.ResponseWriter, r *http.Request) *stream {
	rctx, cancel := context.WithCancel(r.Context())
	unlink := context.AfterFunc(ctx, cancel)
	st := &stream{ctx: rctx, w: w, rc: http.NewResponseController(w)}
	st.paced = time.NewTimer(streamPause)
	st.stop = func() {
		unlink()
		cancel()
		st.paced.Stop()
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	st.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	w.WriteHeader(http.StatusOK)
	st.rc.Flush() // a follower learns at once that it is connected
	return st
}

// send writes one line and flushes it.
func (st *stream) send(v any) error {
	line, err := Versioned(v)
	if err != nil {
		return err
	}
	st.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := st.w.Write(line); err != nil {
		return err
	}
	return st.rc.Flush()
}

// wait returns true when newer is closed and the pace allows another line,
// false when the stream has ended.
func (st *stream) wait(newer <-chan struct{}) bool {
	select {
	case <-newer:
	case <-st.ctx.Done():
		return false
	}
	select {
	case <-st.paced.C:
		st.paced.Reset(streamPause)
		return true
	case <-st.ctx.Done():
		return false
	}
}

// parseQuery reads a query string in which each of allowed may stand once.
func parseQuery(raw string, allowed ...string) (url.Values, error) {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, fmt.Errorf("query %q: %w", raw, err)
	}
	for key, values := range v {
		if !slices.Contains(allowed, key) {
			return nil, fmt.Errorf("query parameter %q is not known: allowed are %s", key, strings.Join(allowed, ", "))
		}
		if len(values) > 1 {
			return nil, fmt.Errorf("query parameter %q is given %d times: allowed is once", key, len(values))
		}
	}
	return v, nil
}

// parseFlag reads a query parameter that is 1, 0, or absent.
func parseFlag(v url.Values, key string) (bool, error) {
	switch s := v.Get(key); s {
	case "1":
		return true, nil
	case "", "0":
		return false, nil
	default:
		return false, fmt.Errorf("%s %q: allowed are 0 and 1", key, s)
	}
}
