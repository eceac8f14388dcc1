package control

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/doorward/doorward/internal/audit"
)

// Meter is what the metrics listener asks of the daemon. Its method is called
// from a few goroutines at once.
type Meter interface {
	// Vitals returns how things stand, in numbers. It takes no longer for many
	// grants and penalties than for few.
	Vitals() Vitals
}

// Vitals is how things stand, in numbers.
type Vitals struct {
	Version      string
	Warnings     int
	Pending      bool // an applied configuration waits to be confirmed
	FenceUp      bool
	FenceRepairs uint64
	Events       map[string]uint64 // as in Status
	Doors        []DoorVitals
	// Datagrams are those at knocks' ports that came to nothing before they were heard,
	// by why; nil where no knock hears any.
	Datagrams map[string]uint64
	// Turns are how long the turns of the gateway's loop took, and Waits how long what
	// was heard had to wait for its turn; nil where they are not measured. They go on.
	Turns, Waits *Spans
}

// DoorVitals is one door of Vitals; its fields are as in Door.
type DoorVitals struct {
	Name, State                 string
	Running                     bool
	Sessions, Grants, Penalties int
	Refused                     uint64
}

// What may be asked of the metrics listener at a time, and how long a request
// waits for its turn.
const (
	atOnce   = 4
	lineTime = time.Second
)

// Metrics returns the handler of the metrics listener: /metrics for Prometheus,
// with the Go runtime's and the process's own, and /healthz. Neither tells
// sources, credentials or configuration. Whoever can reach the listener can ask,
// so that a few are answered at a time, and the others told to come again (503);
// and a page in somebody's browser is not answered (421), see ownHost.
//
// /healthz is 200 while every door does what it is for: the fence is up and no
// door is in failsafe, which is deaf to its visitors. Otherwise it is 503, with
// a line for each thing that is wrong.
func Metrics(m Meter) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newCollector(m),
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", inLine(promhttp.HandlerFor(reg, promhttp.HandlerOpts{})))
	mux.Handle("GET /healthz", inLine(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		sick := ailments(m.Vitals())
		if len(sick) == 0 {
			fmt.Fprintln(w, "ok")
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, strings.Join(sick, "\n"))
	})))
	return ownHost(mux)
}

// inLine has a few requests answered at a time. Each path has a line of its own,
// so that those who look at the metrics do not make the daemon seem sick.
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
// the browser says the name. A request without one is no browser's (HTTP/1.0).
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

// ailments lists what keeps the gateway from being healthy.
func ailments(v Vitals) []string {
	var sick []string
	if !v.FenceUp {
		sick = append(sick, "the fence is down")
	}
	for _, d := range v.Doors {
		if d.State == StateFailsafe {
			sick = append(sick, "door "+d.Name+" is in failsafe")
		}
	}
	return sick
}

// states are those of a door, which the metrics name.
var states = []string{StateDark, StateOpening, StateOpen, StateClosing, StateFailsafe}

// events are those that have a counter from the start, so that a rate can be
// taken of the first one too.
var events = []string{
	audit.EventOpened, audit.EventGranted, audit.EventRevoked, audit.EventExpired, audit.EventRefused,
	audit.EventDark, audit.EventFailsafe, audit.EventArmed, audit.EventRepaired, audit.EventError,
	audit.EventStarted, audit.EventStopped, audit.EventApplied,
}

// collector turns vitals into metrics.
type collector struct {
	meter Meter

	info, warnings                      *prometheus.Desc
	fenceUp, fenceRepairs, events       *prometheus.Desc
	state, running, sessions            *prometheus.Desc
	grants, penalties, refused, pending *prometheus.Desc
	datagrams, turns, waits             *prometheus.Desc
}

func newCollector(m Meter) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("doorward_"+name, help, labels, nil)
	}
	return &collector{
		meter:        m,
		info:         desc("info", "The daemon's version, always 1.", "version"),
		warnings:     desc("warnings", "Things that an operator should act on."),
		pending:      desc("config_pending", "1 while an applied configuration waits to be confirmed."),
		fenceUp:      desc("fence_up", "1 while the fence guards the doors."),
		fenceRepairs: desc("fence_repairs_total", "Times that the fence was put right."),
		events:       desc("events_total", "Records of the audit trail.", "event"),
		state:        desc("door_state", "1 for the state that the door is in.", "door", "state"),
		running:      desc("service_running", "1 while the door's service was last seen to run.", "door"),
		sessions:     desc("sessions", "Live connections to the door's ports.", "door"),
		grants:       desc("grants", "Sources that may open new connections now.", "door"),
		penalties:    desc("penalties", "Sources whose knocks are ignored now.", "door"),
		refused:      desc("refused_packets_total", "Packets that the fence refused at the door.", "door"),
		datagrams:    desc("datagrams_dropped_total", "Datagrams at the knocks' ports that were thrown away, and answers withheld.", "why"),
		turns:        desc("turn_seconds", "How long each turn of the gateway's loop took."),
		waits:        desc("knock_wait_seconds", "How long what was heard of knocks waited for its turn, the first of each batch."),
	}
}

// Describe sends the description of every metric.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.info, c.warnings, c.pending, c.fenceUp, c.fenceRepairs, c.events,
		c.state, c.running, c.sessions, c.grants, c.penalties, c.refused, c.datagrams,
		c.turns, c.waits,
	} {
		ch <- d
	}
}

// Collect sends the values of one moment.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	v := c.meter.Vitals()
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge(c.info, 1, v.Version)
	gauge(c.warnings, float64(v.Warnings))
	gauge(c.pending, truth(v.Pending))
	gauge(c.fenceUp, truth(v.FenceUp))
	counter(c.fenceRepairs, v.FenceRepairs)
	for _, e := range eventsOf(v) {
		counter(c.events, v.Events[e], e)
	}
	for why, n := range v.Datagrams {
		counter(c.datagrams, n, why)
	}
	if v.Turns != nil {
		ch <- v.Turns.metric(c.turns)
	}
	if v.Waits != nil {
		ch <- v.Waits.metric(c.waits)
	}
	for _, d := range v.Doors {
		for _, state := range states {
			gauge(c.state, truth(d.State == state), d.Name, state)
		}
		gauge(c.running, truth(d.Running), d.Name)
		gauge(c.sessions, float64(d.Sessions), d.Name)
		gauge(c.grants, float64(d.Grants), d.Name)
		gauge(c.penalties, float64(d.Penalties), d.Name)
		counter(c.refused, d.Refused, d.Name)
	}
}

// eventsOf lists the known events and whatever else was counted.
func eventsOf(v Vitals) []string {
	all := slices.Concat(events, slices.Collect(maps.Keys(v.Events)))
	slices.Sort(all)
	return slices.Compact(all)
}

// truth is 1 for true.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
