package control

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowSource answers once let is closed.
type slowSource struct {
	let   chan struct{}
	asked atomic.Int32

	datagrams map[string]uint64
}

func (m *slowSource) ReadMetrics() GatewayMetrics {
	m.asked.Add(1)
	<-m.let
	return GatewayMetrics{FenceUp: true, Datagrams: m.datagrams}
}

func ask(h http.Handler, method, host, target string) *httptest.ResponseRecorder {
	w, r := httptest.NewRecorder(), httptest.NewRequest(method, "http://127.0.0.1"+target, nil)
	r.Host = host
	h.ServeHTTP(w, r)
	return w
}

// However many requests come at once, a few are answered at a time; the others wait for
// a second, and are then refused for the moment. /healthz has a line of its own.
func TestMetricsInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &slowSource{let: make(chan struct{})}
		h := Metrics(m)
		codes := make(chan *httptest.ResponseRecorder, 300)
		for range cap(codes) {
			go func() { codes <- ask(h, "GET", "127.0.0.1:9472", "/metrics") }()
		}
		synctest.Wait()
		if n := m.asked.Load(); n != atOnce {
			t.Errorf("%d of 300 requests are answered at a time, want %d", n, atOnce)
		}
		health := make(chan *httptest.ResponseRecorder, 1)
		go func() { health <- ask(h, "GET", "localhost:9472", "/healthz") }()
		synctest.Wait()
		if n := m.asked.Load(); n != atOnce+1 {
			t.Errorf("health waits behind the metrics: %d are answered", n)
		}
		time.Sleep(lineTime)
		synctest.Wait()
		close(m.let)
		count := map[int]int{}
		for range cap(codes) {
			w := <-codes
			count[w.Code]++
			if w.Code == 503 && (w.Header().Get("Retry-After") != "1" || w.Body.String() != "busy: 4 requests are answered at a time\n") {
				t.Fatalf("503 says %q, with Retry-After %q", w.Body, w.Header().Get("Retry-After"))
			}
		}
		if count[200] != atOnce || count[503] != 300-atOnce {
			t.Errorf("answers by status: %v, want %d of 200 and the rest of 503", count, atOnce)
		}
		if w := <-health; w.Code != 200 {
			t.Errorf("health: %d %q, want 200", w.Code, w.Body)
		}
		if w := ask(h, "GET", "[::1]:9472", "/metrics"); w.Code != 200 {
			t.Errorf("afterwards: %d, want 200", w.Code)
		}
	})
}

// A web page whose name points here is not answered, nor are methods other than GET and
// HEAD.
func TestWhoMayAskForMetrics(t *testing.T) {
	m := &slowSource{let: make(chan struct{})}
	close(m.let)
	h := Metrics(m)
	for _, tt := range []struct {
		method, host string
		code         int
		body         string
	}{
		{"GET", "127.0.0.1:9472", 200, "ok\n"},
		{"GET", "192.0.2.1", 200, "ok\n"},
		{"GET", "[::1]:9472", 200, "ok\n"},
		{"GET", "[2001:db8::1]", 200, "ok\n"},
		{"GET", "localhost:9472", 200, "ok\n"},
		{"GET", "LocalHost", 200, "ok\n"},
		{"GET", "", 200, "ok\n"},
		{"GET", "evil.example:9472", 421, "host \"evil.example:9472\": allowed are an IP address and localhost\n"},
		{"GET", "localhost.evil.example", 421, "host \"localhost.evil.example\": allowed are an IP address and localhost\n"},
		{"GET", "127.0.0.1.evil.example", 421, "host \"127.0.0.1.evil.example\": allowed are an IP address and localhost\n"},
		{"POST", "evil.example", 421, "host \"evil.example\": allowed are an IP address and localhost\n"},
		{"POST", "127.0.0.1", 405, "Method Not Allowed\n"},
		{"DELETE", "127.0.0.1", 405, "Method Not Allowed\n"},
	} {
		w := ask(h, tt.method, tt.host, "/healthz")
		if w.Code != tt.code || w.Body.String() != tt.body {
			t.Errorf("%s of host %q: got %d %q, want %d %q", tt.method, tt.host, w.Code, w.Body, tt.code, tt.body)
		}
	}
	if w := ask(h, "HEAD", "127.0.0.1", "/metrics"); w.Code != 200 {
		t.Errorf("HEAD: %d, want 200", w.Code)
	}
}

// Silent connections are cut off, and only a few connections are accepted at a time.
func TestMetricsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		m := &slowSource{let: make(chan struct{})}
		close(m.let)
		ended := make(chan error)
		go func() { ended <- ServeMetrics(ctx, p, m, quiet) }()
		var silent []net.Conn
		for range maxScrapes() {
			silent = append(silent, p.dial(t, ""))
		}
		late, theirs := net.Pipe()
		go func() { p.conns <- theirs }()
		go io.WriteString(late, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
		synctest.Wait()
		if n := m.asked.Load(); n != 0 {
			t.Errorf("%d were answered beyond %d connections", n, maxScrapes())
		}
		begun := time.Now()
		got, err := io.ReadAll(late)
		if took := time.Since(begun); err != nil || took > readTimeout || !strings.HasSuffix(string(got), "\r\n\r\nok\n") {
			t.Errorf("after %v: got %q, %v, want ok when the silent ones are cut", took, got, err)
		}
		for _, c := range silent {
			c.Close()
		}
		late.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// silent is a backend with an empty trail.
type silent struct{ stub }

func (*silent) Log(LogQuery) (LogPage, error) { return LogPage{}, nil }

// The number of streams is bounded, and other requests are answered beside them.
func TestStreamsAreBounded(t *testing.T) {
	b := &silent{}
	inBubble(t, b, func(t *testing.T, p *pipes) {
		b.newer = make(chan struct{}) // of the bubble
		var open []net.Conn
		for n := range maxStreams() {
			target := []string{"/v1/status?watch=1", "/v1/log?follow=1"}[n%2]
			c := p.dial(t, "GET "+target+" HTTP/1.1\r\nHost: x\r\n\r\n")
			go io.Copy(io.Discard, c)
			open = append(open, c)
		}
		synctest.Wait()
		for _, tt := range []struct {
			target string
			code   int
		}{{"/v1/status?watch=1", 503}, {"/v1/log?follow=1", 503}, {"/v1/log?limit=1001", 503},
			{"/v1/status", 200}, {"/v1/log", 200}, {"/v1/log?limit=1000&oldest=1", 200}} {
			c := p.dial(t, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", tt.target))
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != tt.code {
				t.Errorf("%s beside %d streams: %v, %v, want %d", tt.target, maxStreams(), resp, err, tt.code)
			}
			c.Close()
		}
		for _, c := range open {
			c.Close()
		}
	})
}

// Dropped datagrams are counted by reason, if a knock hears datagrams.
func TestMetricsOfDatagrams(t *testing.T) {
	let := make(chan struct{})
	close(let)
	const line = `doorward_datagrams_dropped_total{reason="crowded"} 7`
	for _, tt := range []struct {
		counts map[string]uint64
		want   bool
	}{{map[string]uint64{"crowded": 7}, true}, {nil, false}} {
		got := ask(Metrics(&slowSource{let: let, datagrams: tt.counts}), "GET", "127.0.0.1:9472", "/metrics").Body.String()
		if strings.Contains(got, line) != tt.want || strings.Contains(got, "datagrams_dropped") != tt.want {
			t.Errorf("with %v the metrics have %q: %t, want %t", tt.counts, line, !tt.want, tt.want)
		}
	}
}
