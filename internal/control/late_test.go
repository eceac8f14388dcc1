package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
)

// unanswered is a client of a daemon that accepts requests and does not answer.
func unanswered() *Client {
	c := NewClient("/run/control.sock")
	c.http.Transport = answering(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	return c
}

// A client waits for a daemon that does not answer as long as the answer should take, or
// for its Timeout.
func TestLateAnswers(t *testing.T) {
	const late = "the daemon at /run/control.sock did not answer in time"
	asked := &Error{Code: CodeTimeout, Message: late, Hint: "systemctl status doorward", Cause: context.DeadlineExceeded}
	ordered := &Error{Code: CodeTimeout, Message: late + "; it may still carry out the order", Hint: "doorward status",
		Cause: context.DeadlineExceeded}
	order := func(c *Client) error {
		_, err := c.Close(context.Background(), CloseRequest{Door: "ssh"})
		return err
	}
	wait := func(c *Client) error {
		_, err := c.Open(context.Background(), OpenRequest{Door: "ssh", Source: "any", Wait: "20s"})
		return err
	}
	diff := func(c *Client) error { _, err := c.Diff(context.Background()); return err }
	explain := func(c *Client) error {
		_, err := c.Explain(context.Background(), "192.0.2.7", "ssh")
		return err
	}
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		ask     func(c *Client) error
		want    *Error
		after   time.Duration
	}{
		{"status", 0, func(c *Client) error { _, err := c.Status(context.Background()); return err }, asked, 10 * time.Second},
		{"status, 2s", 2 * time.Second, func(c *Client) error { _, err := c.Status(context.Background()); return err }, asked, 2 * time.Second},
		{"watch, 2s", 2 * time.Second, func(c *Client) error {
			return c.Watch(context.Background(), func(Status) error { return nil })
		}, asked, 2 * time.Second},
		{"log, 2s", 2 * time.Second, func(c *Client) error {
			return c.Log(context.Background(), LogQuery{Follow: true}, func(audit.Record) error { return nil })
		}, asked, 2 * time.Second},
		{"diff", 0, diff, asked, 10 * time.Second},
		{"diff, 2s", 2 * time.Second, diff, asked, 2 * time.Second},
		{"close", 0, order, ordered, 5 * time.Minute},
		{"close, 2s", 2 * time.Second, order, ordered, 2 * time.Second},
		{"explain", 0, explain, asked, 5 * time.Minute},
		{"explain, 2s", 2 * time.Second, explain, asked, 2 * time.Second},
		{"open that waits", 0, wait, ordered, 30 * time.Second}, // the daemon itself answers when the wait is over
		{"open that waits, 20s", 20 * time.Second, wait, ordered, 21 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := unanswered()
				c.Timeout = tt.timeout
				begin := time.Now()
				err := tt.ask(c)
				if took := time.Since(begin); took != tt.after {
					t.Errorf("waited for %v, want %v", took, tt.after)
				}
				if e, ok := errors.AsType[*Error](err); !ok || *e != *tt.want {
					t.Errorf("got %+v, want %+v", err, tt.want)
				}
			})
		})
	}
}

// A stream that has begun may last longer than it may take to begin.
func TestStreamsOutliveTheirBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		c := fake(200, r)
		c.Timeout = time.Second
		go func() {
			time.Sleep(time.Hour)
			io.WriteString(w, "{\"id\":1}\n")
			w.Close()
		}()
		n := 0
		if err := c.Log(context.Background(), LogQuery{}, func(audit.Record) error { n++; return nil }); err != nil || n != 1 {
			t.Errorf("%d records, %v", n, err)
		}
	})
}

// If an older daemon does not know a key, the hint says that the versions may differ; and
// its errors, which have no codes, are given some.
func TestOlderDaemons(t *testing.T) {
	body := `{"error":"the body is not one JSON object as expected: json: unknown field \"wait\"","hint":""}`
	_, err := fake(400, strings.NewReader(body)).Open(t.Context(), OpenRequest{Door: "ssh", Source: "any", Wait: "30s"})
	want := &Error{Code: CodeUsage, Message: `the body is not one JSON object as expected: json: unknown field "wait"`,
		Hint: "doorward and doorwardd may be of different versions: systemctl restart doorward"}
	if d := cmp.Diff(error(want), err); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	_, err = fake(409, strings.NewReader(`{"error":"door \"ssh\" is in failsafe"}`)).Close(t.Context(), CloseRequest{Door: "ssh"})
	if e := (*Error)(nil); !errors.As(err, &e) || e.Code != CodeRefused {
		t.Errorf("an order that an older daemon refuses: %#v, want code %q", err, CodeRefused)
	}
}

// A source is one that connections can come from, in canonical form, or it is refused.
func TestSources(t *testing.T) {
	for s, want := range map[string]string{
		"any": "any", "192.0.2.7": "192.0.2.7", "192.0.2.7/32": "192.0.2.7", "192.0.2.0/24": "192.0.2.0/24",
		"::ffff:192.0.2.7": "192.0.2.7", "2001:DB8::/64": "2001:db8::/64",
		"": "", "nobody": "", "0.0.0.0": "", "::": "", "0.0.0.0/0": "", "::/0": "", "224.0.0.1": "", "::ffff:192.0.2.7/128": "",
		"192.0.2.7/24": "", "2001:db8::1/64": "", "ff00::/8": "", "fe80::1%eth0": "", "255.255.255.255/0": "",
	} {
		got, err := parseSource(s)
		if (err == nil) != (want != "") || err == nil && door.SourceString(got) != want || err != nil && got != (netip.Prefix{}) {
			t.Errorf("source %q is %s (%v), want %q", s, door.SourceString(got), err, want)
		}
	}
}

// Clients that wait for doors to open leave room for orders, so that a door that hangs
// can be closed.
func TestWhoWaitsIsBounded(t *testing.T) {
	b := &stub{do: func(ctx context.Context, _ Caller, order any) (Reply, error) {
		if _, waits := order.(Open); waits {
			<-ctx.Done()
		}
		return Reply{Message: "done"}, ctx.Err()
	}}
	inBubble(t, b, func(t *testing.T, p *pipes) {
		post := func(path, body string) net.Conn {
			return p.dial(t, fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body))
		}
		const waits = `{"door":"ssh","source":"any","wait":"1h"}`
		var open []net.Conn
		for range maxStreams() {
			open = append(open, post("/v1/open", waits))
		}
		synctest.Wait()
		for _, tt := range []struct {
			path, body string
			code       int
		}{{"/v1/open", waits, 503}, {"/v1/close", `{"door":"ssh"}`, 200}} {
			c := post(tt.path, tt.body)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != tt.code {
				t.Errorf("%s beside %d who wait: %v, %v, want %d", tt.path, maxStreams(), resp, err, tt.code)
			}
			c.Close()
		}
		open[0].Close() // makes room for another
		synctest.Wait()
		c := post("/v1/open", waits)
		synctest.Wait()
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after one has gone: %v, want the next to wait", err)
		}
		for _, c := range append(open, c) {
			c.Close()
		}
	})
}
