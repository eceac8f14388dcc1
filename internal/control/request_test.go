package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/door"
)

// stub is a backend made of functions.
type stub struct {
	do    func(ctx context.Context, by Caller, order any) (Reply, error)
	newer chan struct{}
	asked []LogQuery
}

func (s *stub) Status() (Status, <-chan struct{}) { return Status{}, s.newer }

func (s *stub) Newer() <-chan struct{} { return s.newer }

func (s *stub) Diff(context.Context) (Diff, error) {
	return Diff{Config: "/etc/doorward/doorward.toml"}, nil
}

func (s *stub) Do(ctx context.Context, by Caller, order any) (Reply, error) {
	return s.do(ctx, by, order)
}

func (s *stub) Log(q LogQuery) (LogPage, error) {
	s.asked = append(s.asked, q)
	return LogPage{Records: []audit.Record{{ID: 1}}, Through: q.After, Last: max(1, q.After)}, nil
}

func (s *stub) Explain(_ context.Context, source netip.Addr, door string) (Explanation, error) {
	if !soundSource(netip.PrefixFrom(source, source.BitLen()), false) || !soundDoor(door, true) {
		return Explanation{}, fmt.Errorf("reached the backend: %v at %q", source, door)
	}
	return Explanation{Source: source.String()}, nil
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// FuzzRequest sends anything to the API. What reaches the backend must be
// sound, as checked independently of the server; what comes back must be JSON.
func FuzzRequest(f *testing.F) {
	for _, s := range []struct{ method, path, query, body string }{
		{"GET", "/v1/status", "", ""},
		{"GET", "/v1/status", "watch=1", ""},
		{"GET", "/v1/log", "door=ssh&source=192.0.2.7&after=3&limit=5&follow=1", ""},
		{"GET", "/v1/log", "limit=%zz;", ""},
		{"GET", "/v1/log", "since=2026-11-24T03:00:00%2B01:00&until=2026-11-25T00:00:00Z&event=granted,refused&oldest=1", ""},
		{"GET", "/v1/explain", "source=::ffff:192.0.2.7&door=ssh", ""},
		{"GET", "/v1/explain", "source=2001:db8::1%25eth0", ""},
		{"POST", "/v1/open", "", `{"door":"ssh","source":"192.0.2.7","for":"10m"}`},
		{"POST", "/v1/open", "", `{"door":"ssh","source":"::ffff:192.0.2.7/128","for":"1e9s"}`},
		{"POST", "/v1/open", "", `{"DOOR":"ssh","source":"2001:db8::1%eth0","door":"x"}`},
		{"POST", "/v1/open", "", `{"door":"ssh","source":"any"} {"door":"ssh"}`},
		{"POST", "/v1/close", "", `{"door":"ssh"}`},
		{"POST", "/v1/close", "", `{"door":"ssh","source":""}`},
		{"POST", "/v1/close", "", `{"door":"ssh","source":"192.0.2.7","Source":""}`},
		{"POST", "/v1/close", "", `{"door":"ssh","source":null}`},
		{"POST", "/v1/close", "", `{"door":"ssh","source":null,"source":"192.0.2.7"}`},
		{"POST", "/v1/kinds/sealed/lock", "", `{"key":"SHA256:x","more":{"door":""}}`},
		{"POST", "/v1/open", "", `{"door":"ssh","source":"192.0.2.7/24","wait":"30s"}`},
		{"POST", "/v1/arm", "", `{"door":"","source":"2001:db8::/64"}`},
		{"POST", "/v1/arm", "", `null`},
		{"POST", "/v1/apply", "", `{"action":"apply","confirm":"60s"}`},
		{"POST", "/v1/apply", "", `{"action":"keep","id":7}`},
		{"POST", "/v1/apply", "", `{"action":"apply","force":true}`},
		{"POST", "/v1/kinds/sealed/lock", "", `{"key":"SHA256:x","cut":true}`},
		{"POST", "/v1/kinds/sealed/lock", "", ""},
		{"POST", "/v1/kinds/sealed/", "", `{"door":""}`},
		{"GET", "/v1/diff", "", ""},
		{"DELETE", "/v1/open/../open", "?", "\xff\x00"},
	} {
		f.Add(s.method, s.path, s.query, s.body)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel() // so that streams end after what there is
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		var given []any
		b := &stub{do: func(_ context.Context, by Caller, order any) (Reply, error) {
			if by.Name != "operator uid 4294967294" {
				t.Errorf("by %q", by.Name)
			}
			given = append(given, order)
			return Reply{Message: "done"}, nil
		}}
		r := httptest.NewRequest("GET", "/", bytes.NewReader([]byte(body)))
		r.Method, r.URL = method, &url.URL{Path: path, RawQuery: query}
		r = r.WithContext(context.WithValue(r.Context(), peerKey{}, peer{Operator: audit.Operator{UID: 4294967294, PID: 7}}))
		w := httptest.NewRecorder()
		NewServer(b, quiet).handler(gone).ServeHTTP(w, r)

		for _, order := range given {
			if why := unsound(order); why != "" {
				t.Errorf("reached the backend: %+v: %s", order, why)
			}
		}
		for _, q := range b.asked {
			if q.Limit < 1 || q.Limit > 10_000 || !q.Oldest && q.After > 0 || !soundEvents(q.Events) || !soundDoor(q.Door, true) || !soundText(q.Source) {
				t.Errorf("reached the backend: %+v", q)
			}
		}
		if emptied.MatchString(body) && strings.Count(body, "{") == 1 && len(given) > 0 {
			t.Errorf("%s is carried out although a key has no value: %+v", body, given)
		}
		if method == "POST" && (w.Code == 200) != (len(given) == 1) {
			t.Errorf("status %d with %d orders", w.Code, len(given))
		}
		dec := json.NewDecoder(w.Body)
		n := 0
		for ; dec.More(); n++ {
			var v map[string]any
			if err := dec.Decode(&v); err != nil {
				t.Fatalf("the answer is not JSON: %v", err)
			}
			said, _ := v["error"].(string)
			if w.Code != 200 && said == "" || strings.HasPrefix(said, "reached the backend") {
				t.Errorf("status %d with the error message %q", w.Code, said)
			}
		}
		if n != 1 {
			t.Errorf("%d objects in the answer", n)
		}
	})
}

// emptied matches a key of an order that has no value. What is within a value is a kind's
// own.
var emptied = regexp.MustCompile(`"(door|source|for|wait|confirm)"\s*:\s*(""|null)`)

// unsound returns what is wrong with an order that reached the backend, "" for nothing.
func unsound(order any) string {
	switch o := order.(type) {
	case Open:
		if !soundDoor(o.Door, false) || !soundSource(o.Source, false) || !soundLength(o.For, config.LongestGrant) || !soundLength(o.Wait, LongestWait) {
			return "not checked"
		}
	case Close:
		if !soundDoor(o.Door, false) || !soundSource(o.Source, true) {
			return "not checked"
		}
	case Arm:
		if !soundDoor(o.Door, true) || !soundSource(o.Source, true) {
			return "not checked"
		}
	case ApplyRequest:
		if o.Action == "apply" && soundTime(o.Confirm) && o.ID == 0 {
			return ""
		}
		if (o.Action != "keep" && o.Action != "undo") || o.Confirm != "" || o.Force {
			return "not checked"
		}
	case KindRequest:
		if !soundDoor(o.Kind, false) || !soundDoor(o.What, false) || !bytes.HasPrefix(bytes.TrimSpace(o.Args), []byte("{")) || !json.Valid(o.Args) {
			return "not checked"
		}
	default:
		return "not an order"
	}
	return ""
}

var soundName = regexp.MustCompile(`\A[a-z][a-z0-9_-]*\z`)

func soundDoor(s string, empty bool) bool {
	return s == "" && empty || len(s) <= 24 && soundName.MatchString(s)
}

// soundSource reports whether connections can come from a source, and whether it is in
// canonical form. It may be the zero Prefix if none is set.
func soundSource(p netip.Prefix, none bool) bool {
	if p == (netip.Prefix{}) {
		return none
	}
	a := p.Addr()
	return p == door.Any || p.Bits() > 0 && p.Masked() == p && !a.Is4In6() && !a.IsMulticast() && a.Zone() == "" &&
		!(p.IsSingleIP() && a.IsUnspecified())
}

// soundText reports whether the text of a source is the one that netip writes for it.
func soundText(s string) bool {
	if s == "" || s == "any" {
		return true
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return a.String() == s && soundSource(netip.PrefixFrom(a, a.BitLen()), false)
	}
	p, err := netip.ParsePrefix(s)
	return err == nil && p.String() == s && !p.IsSingleIP() && soundSource(p, false)
}

func soundEvents(events []string) bool {
	return !slices.ContainsFunc(events, func(e string) bool { return !slices.Contains(audit.Events(), e) })
}

func soundLength(d, longest time.Duration) bool { return d == 0 || time.Second <= d && d <= longest }

func soundTime(s string) bool {
	d, err := time.ParseDuration(s)
	return s == "" || err == nil && soundLength(d, LongestConfirm) && d > 0
}
