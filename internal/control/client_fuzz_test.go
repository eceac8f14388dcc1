package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
)

// answering is an http.RoundTripper made of a function.
type answering func(*http.Request) (*http.Response, error)

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

// fake returns a client of something that gives one answer, whatever is asked.
func fake(code int, body io.Reader) *Client {
	c := NewClient("/run/control.sock")
	c.http.Transport = answering(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: code, Status: http.StatusText(code), Body: io.NopCloser(body)}, nil
	})
	return c
}

// objects returns the objects that a text begins with, and whether that is all of it.
func objects[T any](text []byte) (all []T, whole bool) {
	for {
		text = bytes.TrimLeft(text, " \t\r\n")
		if len(text) == 0 {
			return all, true
		}
		// The shortest beginning that is JSON; a number goes on while it can.
		n := 1
		for n <= len(text) && !json.Valid(text[:n]) {
			n++
		}
		for n < len(text) && json.Valid(text[:n+1]) && !strings.ContainsRune(" \t\r\n", rune(text[n])) {
			n++
		}
		var v T
		if n > len(text) || json.Unmarshal(text[:n], &v) != nil {
			return all, false
		}
		all, text = append(all, v), text[n:]
	}
}

// FuzzAnswers checks that whatever answers at the socket, the client returns what the
// answer says, or an error with a message, and never reports that an order was carried
// out unless the answer says so.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{"time":"2026-11-24T06:00:00Z","doors":[{"name":"ssh","grants":[{"source":"192.0.2.7","expires":"2026-11-24T06:01:00Z"}]}]}`,
		`{"message":"door ssh is open"}`, `{"error":"door \"x\": no such door","hint":"doorward status"}`, `{"error":""}`, `null`, `{}`, ``,
		"{\"id\":1,\"event\":\"granted\"}\n{\"id\":2}\n{\"id\":", `<html>`, `[]`, `{"message":5}`, `{"id":-1}`, "\x1b[2J", `"x" 7`,
		"{\"id\":3}{\"id\":4} \n\n", strings.Repeat(`[`, 1000), `{"time":"2026-11-24T06:00:00+99:00"}`,
	} {
		for _, code := range []uint16{200, 409, 500} {
			f.Add(code, []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, code uint16, body []byte) {
		if len(body) > 1<<11 {
			return // objects takes quadratic time
		}
		ctx := context.Background()
		words := func(err error) {
			t.Helper()
			var e *Error
			if !errors.As(err, &e) || e.Message == "" {
				t.Fatalf("error %#v, want one with a message", err)
			}
		}
		var records []audit.Record
		err := fake(int(code), bytes.NewReader(body)).Log(ctx, LogQuery{}, func(r audit.Record) error {
			records = append(records, r)
			return nil
		})
		want, whole := objects[audit.Record](body)
		if code != 200 {
			want, whole = nil, false
		}
		if d := cmp.Diff(want, records); d != "" || whole != (err == nil) {
			t.Fatalf("log: %v, whole %v (-want +got):\n%s", err, whole, d)
		}
		if err != nil {
			words(err)
		}
		words(fake(int(code), bytes.NewReader(body)).Watch(ctx, func(Status) error { return nil }))

		reply, err := fake(int(code), bytes.NewReader(body)).Open(ctx, OpenRequest{Door: "ssh", Source: "any"})
		if said, _ := objects[Reply](body); err == nil && (code != 200 || reply.Message == "" || len(said) == 0 || reply.Message != said[0].Message) {
			t.Fatalf("an order was carried out, says %d %q: %+v", code, body, reply)
		}
		if err != nil {
			words(err)
		}
		status, err := fake(int(code), bytes.NewReader(body)).Status(ctx)
		if said, _ := objects[Status](body); err == nil && (code != 200 || status.Time.IsZero() || cmp.Diff(said[0], status) != "") {
			t.Fatalf("%d %q is the status %+v", code, body, status)
		}
		if err != nil {
			words(err)
		}
	})
}

// endless is a reader without end that counts what is read from it.
type endless struct {
	head string
	n    int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.head)
	e.head = e.head[n:]
	for i := n; i < len(p); i++ {
		p[i] = 'x'
	}
	e.n += len(p)
	return len(p), nil
}

func TestEndlessAnswersEnd(t *testing.T) {
	for name, ask := range map[string]func(c *Client) error{
		"order": func(c *Client) error { _, err := c.Arm(t.Context(), ArmRequest{}); return err },
		"log": func(c *Client) error {
			return c.Log(t.Context(), LogQuery{}, func(audit.Record) error { return nil })
		},
		"follow": func(c *Client) error {
			return c.Log(t.Context(), LogQuery{Follow: true}, func(audit.Record) error { return nil })
		},
	} {
		e := &endless{head: `{"message":"`}
		err := ask(fake(200, e))
		want := "the daemon at /run/control.sock sent an incomplete answer: it is longer than any of doorwardd's"
		if err == nil || err.Error() != want || e.n > 2*maxAnswer {
			t.Errorf("%s: after %d bytes: %v, want after at most %d: %s", name, e.n, err, 2*maxAnswer, want)
		}
	}
	// The bound is one of each record, not of the whole answer.
	many := strings.Repeat(`{"reason":"`+strings.Repeat("x", 1000)+"\"}\n", 3*maxAnswer/1000)
	n := 0
	err := fake(200, strings.NewReader(many)).Log(t.Context(), LogQuery{}, func(audit.Record) error { n++; return nil })
	if err != nil || n != 3*maxAnswer/1000 {
		t.Errorf("%d records, %v", n, err)
	}
}

// An answer that does not say what was done is not taken for doorwardd's.
func TestEmptyAnswersAreNone(t *testing.T) {
	for _, body := range []string{"{}", "null"} {
		_, err := fake(200, strings.NewReader(body)).Close(t.Context(), CloseRequest{Door: "ssh"})
		want := "what answers at /run/control.sock is not doorwardd: it does not say what was done"
		if err == nil || err.Error() != want {
			t.Errorf("order answered with %s: %v, want %s", body, err, want)
		}
		_, err = fake(200, strings.NewReader(body)).Status(t.Context())
		want = "what answers at /run/control.sock is not doorwardd: its status has no time"
		if err == nil || err.Error() != want {
			t.Errorf("status answered with %s: %v, want %s", body, err, want)
		}
	}
}

// FuzzOrders sends orders and queries from the client to the server, and checks that the
// backend gets what was meant, or nothing.
func FuzzOrders(f *testing.F) {
	for _, s := range [][4]string{
		{"ssh", "192.0.2.7", "10m", "apply"}, {"ssh", "::ffff:192.0.2.7", "", "keep"}, {"", "2001:DB8::1/64", "1h", "undo"},
		{"vpn", "any", "0s", ""}, {"SSH", "10.0.0.0/0", "9000h", "apply"}, {"a-b_9", "192.0.2.7/32", "1ns", "keep"}, {"ssh", "fe80::1%eth0", "-1s", "x"},
		{"ssh\n", "::", "1e9s", "\xff"}, {"ssh", "192.0.2.77/24", "1µs", "apply"}, {"ssh", "&limit=7", "", ""},
		{"ssh", "192.0.2.7", "", "granted"}, {"ssh", "192.0.2.7", "", "granted,refused"},
	} {
		f.Add(s[0], s[1], s[2], s[3], uint64(7), 100, true)
		f.Add(s[0], s[1], s[2], s[3], uint64(0), 100, false)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel() // so that streams end after what there is
	f.Fuzz(func(t *testing.T, door, source, length, action string, after uint64, limit int, follow bool) {
		var given []any
		b := &stub{do: func(_ context.Context, _ Caller, order any) (Reply, error) {
			given = append(given, order)
			return Reply{Message: "done"}, nil
		}}
		handler := NewServer(b, quiet).handler(gone)
		c := NewClient("/run/control.sock")
		c.http.Transport = answering(func(r *http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			if r.Body == nil {
				r.Body = http.NoBody
			}
			handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, peer{Operator: audit.Operator{UID: 4294967294, PID: 7}})))
			return w.Result(), nil
		})
		ctx := context.Background()
		sent(t, &given, OpenRequest{Door: door, Source: source, For: length, Wait: length}, c.Open)
		sent(t, &given, CloseRequest{Door: door, Source: source}, c.Close)
		sent(t, &given, ArmRequest{Door: door, Source: source}, c.Arm)
		sent(t, &given, ApplyRequest{Action: action, Confirm: length, ID: after, Force: follow}, c.Apply)

		q := LogQuery{Door: door, Source: source, After: after, Limit: limit, Follow: follow, Oldest: limit%2 == 0}
		if after%3 == 0 {
			q.Since, q.Until, q.Events = time.Unix(int64(limit), 7).UTC(), time.Unix(1<<33, 0).UTC(), strings.Split(action, ",")
		}
		err := c.Log(ctx, q, func(audit.Record) error { return nil })
		wantDoor := checkDoor(door, true)
		wantSource, err2 := checkSource(source, true)
		good := wantDoor == nil && err2 == nil && limit >= 0 && limit <= maxLimit && soundEvents(q.Events[:min(len(q.Events), len(action))])
		if good != (len(b.asked) == 1) || !good && err == nil {
			t.Fatalf("%+v: asked %+v, error %v", q, b.asked, err)
		}
		if q.Source = wantSource; q.Limit == 0 {
			q.Limit = 100
		}
		if action == "" {
			q.Events = nil
		}
		q.Oldest = q.Oldest || after > 0
		if good && !cmp.Equal(b.asked[0], q) {
			t.Fatalf("asked %+v, want %+v", b.asked[0], q)
		}
	})
}

// sent sends one order and compares what the backend was given with what the request's
// own Order returns.
func sent[R Request](t *testing.T, given *[]any, r R, give func(context.Context, R) (Reply, error)) {
	t.Helper()
	*given = nil
	_, err := give(context.Background(), r)
	want, refused := r.Order()
	if refused != nil {
		var e *Error
		if !errors.As(err, &e) || e.Message == "" || e.Code != CodeUsage || len(*given) > 0 {
			t.Fatalf("%+v is refused (%v), and came to %+v, %v", r, refused, *given, err)
		}
		return
	}
	if err != nil || len(*given) != 1 || (*given)[0] != want {
		t.Fatalf("%+v came to %+v, %v; want %+v", r, *given, err, want)
	}
	if why := unsound(want); why != "" {
		t.Fatalf("%+v: %s", want, why)
	}
}
