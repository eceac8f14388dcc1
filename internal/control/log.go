package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// How many records one query of the audit trail may return. Any number of clients may
// have a query of pageRecords answered at a time; longer ones count as streams, since a
// page is held in memory until its client has read it.
const (
	maxLimit    = 10_000
	pageRecords = 1_000
)

// The headers of GET /v1/log: what a LogPage has besides its records. With follow=1 they
// are those of the first page.
const (
	headRecords = "Doorward-Records" // how many
	headThrough = "Doorward-Through"
	headLast    = "Doorward-Last"
	headGone    = "Doorward-Gone"
)

// records answers GET /v1/log: the records of the audit trail that the query
// selects, one a line, and with follow=1 those that come after them.
func (s *Server) records(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	q, err := parseLogQuery(r.URL.RawQuery)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	if q.Follow || q.Limit > pageRecords {
		if !s.streams.begin(w) {
			return
		}
		defer s.streams.end()
	}
	// The channel is taken before the trail is read, so that a record that comes in
	// between closes it.
	newer := s.backend.Newer()
	page, err := s.backend.Log(q)
	if err != nil {
		if _, ok := errors.AsType[*Error](err); !ok {
			err = fmt.Errorf("read the audit trail: %w", err)
		}
		writeError(w, orderStatus(err), err)
		return
	}
	for name, n := range map[string]uint64{headRecords: uint64(len(page.Records)), headThrough: page.Through, headLast: page.Last, headGone: page.Gone} {
		w.Header().Set(name, strconv.FormatUint(n, 10))
	}
	st := newStream(ctx, w, r)
	defer st.stop()
	if st.sendAll(page.Records) == nil && q.Follow {
		s.followLog(st, q, page, newer)
	}
}

// followLog sends the records that come after a page. It ends when records have been
// dropped from the trail before they could be sent: the client then asks for what comes
// after the last record that it has, and learns which are missing.
func (s *Server) followLog(st *stream, q LogQuery, page LogPage, newer <-chan struct{}) {
	told := page.Gone
	q.Oldest, q.Limit = true, pageRecords
	for {
		more := page.Through > q.After && page.Through < page.Last
		if q.After = page.Through; !more && !st.wait(newer) {
			return
		}
		newer = s.backend.Newer()
		var err error
		if page, err = s.backend.Log(q); err != nil {
			s.log.Warn("no longer sending the audit trail to a client", "err", err)
			return
		}
		if page.Gone > told || st.sendAll(page.Records) != nil {
			return
		}
	}
}

func (st *stream) sendAll(records []audit.Record) error {
	for _, r := range records {
		if err := st.send(r); err != nil {
			return err
		}
	}
	return nil
}

// parseLogQuery reads the query of GET /v1/log.
func parseLogQuery(raw string) (LogQuery, error) {
	v, err := parseQuery(raw, "door", "source", "since", "until", "event", "after", "oldest", "limit", "follow")
	if err != nil {
		return LogQuery{}, err
	}
	q := LogQuery{Door: v.Get("door"), Limit: 100}
	if err := checkDoor(q.Door, true); err != nil {
		return LogQuery{}, err
	}
	if q.Source, err = checkSource(v.Get("source"), true); err != nil {
		return LogQuery{}, err
	}
	if q.Since, err = parseMoment("since", v.Get("since")); err != nil {
		return LogQuery{}, err
	}
	if q.Until, err = parseMoment("until", v.Get("until")); err != nil {
		return LogQuery{}, err
	}
	if q.Events, err = parseEvents(v.Get("event")); err != nil {
		return LogQuery{}, err
	}
	if s := v.Get("after"); s != "" {
		if q.After, err = strconv.ParseUint(s, 10, 64); err != nil {
			return LogQuery{}, fmt.Errorf("after %q: allowed is the id of a record", s)
		}
	}
	if s := v.Get("limit"); s != "" && s != "0" {
		if q.Limit, err = strconv.Atoi(s); err != nil || q.Limit < 1 || q.Limit > maxLimit {
			return LogQuery{}, fmt.Errorf("limit %q: allowed are 1 to %d, and 0 for 100", s, maxLimit)
		}
	}
	if q.Oldest, err = parseFlag(v, "oldest"); err != nil {
		return LogQuery{}, err
	}
	q.Oldest = q.Oldest || q.After > 0
	q.Follow, err = parseFlag(v, "follow")
	return q, err
}

func parseMoment(what, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, fmt.Errorf("%s %q: allowed is a time as in RFC 3339, such as 2026-11-24T03:00:00Z", what, s)
	}
	return t.UTC(), nil
}

// parseEvents reads events with commas between them.
func parseEvents(s string) ([]string, error) {
	if s == "" {
		return nil, nil
	}
	events := strings.Split(s, ",")
	for _, e := range events {
		if !slices.Contains(audit.Events(), e) {
			return nil, fmt.Errorf("event %q: allowed are %s", e, strings.Join(audit.Events(), ", "))
		}
	}
	return events, nil
}
