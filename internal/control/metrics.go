package control

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// How many requests for one path the metrics listener answers at a time, and how long
// another one waits for its turn.
const (
	atOnce   = 4
	lineTime = time.Second
)

// Metrics returns the handler of the metrics listener: /metrics for Prometheus,
// with the Go runtime's and the process's own, and /healthz. Neither reveals
// sources, credentials or configuration. Whoever can reach the listener can ask it,
// so only a few requests are answered at a time, and the others are refused for the
// moment (503); a web page in somebody's browser gets no answer (421, see ownHost).
//
// /healthz answers 200 while there is no Problem. Otherwise it answers 503, with a line
// for each, which begins with its code.
func Metrics(m MetricSource) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newCollector(m),
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", inLine(promhttp.HandlerFor(reg, promhttp.HandlerOpts{})))
	mux.Handle("GET /healthz", inLine(health(m)))
	return ownHost(mux)
}

// inLine has a few requests answered at a time; the others wait in line. Each path has
// a line of its own, so that many requests for the metrics do not make the daemon seem
// unhealthy.
func inLine(h http.Handler) http.Handler {
	slots := make(chan struct{}, atOnce)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		patience := time.NewTimer(lineTime)
		defer patience.Stop()
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			h.ServeHTTP(w, r)
		case <-patience.C:
			w.Header().Set("Retry-After", "1")
			http.Error(w, fmt.Sprintf("busy: %d requests are answered at a time", atOnce), http.StatusServiceUnavailable)
		case <-r.Context().Done():
		}
	})
}

// ownHost answers only requests that were sent to an address or to localhost. A
// web page can have its visitor's browser send requests to this machine and read
// the answers, if the page's own name points here by then (DNS rebinding); but
// the browser sends that name as the host. A request without a host (HTTP/1.0) does not
// come from a browser.
func ownHost(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		_, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if err != nil && host != "" && !strings.EqualFold(host, "localhost") {
			http.Error(w, fmt.Sprintf("host %q: allowed are an IP address and localhost", r.Host), http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// collector turns GatewayMetrics into Prometheus' metrics.
type collector struct {
	source MetricSource
	descs  []*prometheus.Desc // of the metrics, in the table's order
}

func newCollector(m MetricSource) *collector {
	c := &collector{source: m}
	for _, of := range metrics {
		c.descs = append(c.descs, prometheus.NewDesc(of.Name, of.Help, of.Labels, nil))
	}
	return c
}

// Describe sends the description of every metric.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect sends the values of all metrics, as they are at one moment.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	v := c.source.ReadMetrics()
	for i, of := range metrics {
		if of.spans != nil {
			if spans := of.spans(&v); spans != nil {
				ch <- spans.metric(c.descs[i])
			}
			continue
		}
		kind := prometheus.GaugeValue
		if of.Type == counter {
			kind = prometheus.CounterValue
		}
		of.values(&v, func(n float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(c.descs[i], kind, n, labels...)
		})
	}
}
