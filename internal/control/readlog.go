package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Log calls f with the records of the audit trail that q selects, in the order
// of their IDs. Without Follow it returns nil after the last one; with Follow
// it ends only with an error, as Watch does.
func (c *Client) Log(ctx context.Context, q LogQuery, f func(audit.Record) error) error {
	return c.log(ctx, q, func(logHead) error { return nil }, f)
}

// logHead is what the headers of an answer say.
type logHead struct{ records, through, last, gone uint64 }

// log is like Log, but first calls begun.
func (c *Client) log(ctx context.Context, q LogQuery, begun func(logHead) error, f func(audit.Record) error) error {
	v := url.Values{}
	for key, value := range map[string]string{
		"door": q.Door, "source": q.Source, "event": strings.Join(q.Events, ","),
		"after": number(q.After), "limit": number(max(0, q.Limit)), "oldest": flag(q.Oldest), "follow": flag(q.Follow),
		"since": instant(q.Since), "until": instant(q.Until),
	} {
		if value != "" {
			v.Set(key, value)
		}
	}
	if q.Limit < 0 { // the daemon refuses it
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return followFrom(ctx, c, "/v1/log?"+v.Encode(), q.Follow, maxAnswer, func(h http.Header) error {
		n := func(name string) uint64 {
			n, _ := strconv.ParseUint(h.Get(name), 10, 64) // 0 from versions that do not send it
			return n
		}
		return begun(logHead{n(headRecords), n(headThrough), n(headLast), n(headGone)})
	}, f)
}

func number[N uint64 | int](n N) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func flag(set bool) string {
	if set {
		return "1"
	}
	return ""
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

// LogReader says what ReadLog reads, and has the functions that it calls. Any but Each may
// be nil.
type LogReader struct {
	// Query selects what is read: without Oldest and After the newest Limit records, or
	// 100 if it is 0; with one of them the oldest Limit, or all if it is 0.
	Query LogQuery
	Each  func(audit.Record) error
	// Gone is called when records with IDs above after, up to and including until, are no
	// longer in the trail: it grew faster than it was read.
	Gone func(after, until uint64)
	// Away is called, with Follow, when the daemon has gone away. ReadLog then asks it
	// again until it answers, and calls Back.
	Away func(err error)
	Back func()
}

// ReadLog calls r.Each with all that r.Query selects, however long the trail is, in the
// order of IDs, each record once. It returns the highest ID that a record had when it
// began. With Follow it does not end by itself, nor when the daemon does, but it fails
// if the trail has been started over meanwhile and no longer has what was read. Its
// other errors are Log's.
func (c *Client) ReadLog(ctx context.Context, r LogReader) (last uint64, err error) {
	r.Query.Oldest = r.Query.Oldest || r.Query.After > 0
	l := &logRun{c: c, r: r, q: r.Query, at: r.Query.After}
	switch {
	case r.Query.Follow:
		err = l.follow(ctx)
	case r.Query.Oldest:
		err = l.pages(ctx)
	default:
		err = c.log(ctx, l.q, l.begin, r.Each)
	}
	return l.last, err
}

// logRun is a call of ReadLog in progress.
type logRun struct {
	c *Client
	r LogReader
	q LogQuery // the next request

	begun  bool          // an answer has begun before
	last   uint64        // the highest ID when the first answer began
	at     uint64        // all up to this ID has been read
	sent   uint64        // records of this answer so far
	head   logHead       // of this answer
	newest *audit.Record // the last record with a hash that was read
	met    bool          // newest is in this answer too, or need not be
	told   uint64        // up to this ID, records are known to be gone
}

// pages reads page by page.
func (l *logRun) pages(ctx context.Context) error {
	for left := l.q.Limit; ; {
		if l.q.Limit = pageRecords; left > 0 {
			l.q.Limit = min(left, pageRecords)
		}
		l.q.After = l.at
		if err := l.c.log(ctx, l.q, l.begin, l.r.Each); err != nil {
			return err
		}
		left -= int(l.head.records)
		if l.head.through <= l.at || l.head.through >= l.last || left <= 0 && l.r.Query.Limit > 0 {
			return nil
		}
		l.at = l.head.through
	}
}

// begin handles the head of an answer.
func (l *logRun) begin(h logHead) error {
	first := !l.begun
	l.begun, l.head, l.sent, l.met = true, h, 0, l.newest == nil
	if l.q.Oldest && h.last < l.at {
		return l.anew(l.at, fmt.Sprintf("the trail ends with record %d", h.last))
	}
	if first {
		l.last = h.last
	}
	// Somebody who reads from the beginning misses nothing: they get what there is.
	if h.gone > l.told && l.q.Oldest && !(first && l.at == 0) && h.gone > l.at {
		if l.r.Gone != nil {
			l.r.Gone(max(l.at, l.told), h.gone)
		}
		l.met = l.met || h.gone >= l.newest.ID
	}
	l.told = max(l.told, h.gone)
	return l.reached()
}

// reached notes how far the answer's first page goes, once all its records have come.
func (l *logRun) reached() error {
	if l.sent < l.head.records || !l.r.Query.Follow {
		return nil
	}
	if !l.met {
		return l.anew(l.newest.ID, "it is not there")
	}
	l.at = max(l.at, l.head.through)
	return nil
}

// take processes a record of a follow.
func (l *logRun) take(r audit.Record) error {
	l.sent++
	switch {
	case !l.met && r.ID == l.newest.ID && r.Hash == l.newest.Hash:
		l.met = true
	case !l.met:
		return l.anew(l.newest.ID, "another one is there")
	case r.ID > l.at:
		if err := l.r.Each(r); err != nil {
			return &eachError{err}
		}
		l.at = r.ID
		if r.Hash != "" {
			l.newest = &r
		}
	}
	return l.reached()
}

// anew returns the error for a record that was read and is no longer part of the trail.
func (l *logRun) anew(id uint64, why string) error {
	return &Error{
		Code:    CodeFailed,
		Message: fmt.Sprintf("the audit trail has no record %d as it was read before: %s; the trail was started over, or its end was lost", id, why),
		Hint:    "doorward log --after 0 reads the trail as it is from its beginning",
	}
}

// eachError is an error of Each, which ends a follow.
type eachError struct{ err error }

func (e *eachError) Error() string { return e.err.Error() }

// How long a follow waits before it asks again for a daemon that has gone.
const (
	soonest = 100 * time.Millisecond
	latest  = 5 * time.Second
)

func (l *logRun) follow(ctx context.Context) error {
	wait, failed := soonest, 0
	for {
		err := l.c.log(ctx, l.q, func(h logHead) error {
			if failed > 1 && l.r.Back != nil {
				l.r.Back()
			}
			wait, failed = soonest, 0
			return l.begin(h)
		}, l.take)
		if each, ok := errors.AsType[*eachError](err); ok {
			return each.err
		}
		if ctx.Err() != nil || !l.begun || !passes(err) {
			return err
		}
		if failed++; failed == 2 && l.r.Away != nil { // after one failure it may be back already
			l.r.Away(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, latest)
		l.again()
	}
}

// again has the next request continue where this one ended. It asks for the newest
// record once more: if that is there, the trail is the same.
func (l *logRun) again() {
	if l.at == 0 && l.newest == nil && !l.q.Oldest {
		return // nothing has been read yet
	}
	l.q.Oldest, l.q.Limit, l.q.After = true, pageRecords, l.at
	if l.newest != nil {
		l.q.After = l.newest.ID - 1
	}
}

// passes reports whether an error means that the daemon has gone away, or is too busy
// for another client: either may pass.
func passes(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && (e.Code == CodeDown || e.Code == CodeBusy)
}
