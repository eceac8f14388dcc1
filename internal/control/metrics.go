package control

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/doorward/doorward/internal/audit"
)

// Metrics returns the handler of the metrics listener: /metrics for Prometheus,
// with the Go runtime's and the process's own, and /healthz. Neither tells
// sources, credentials or configuration; both read one snapshot a request.
//
// /healthz is 200 while every door does what it is for: the fence is up and no
// door is in failsafe, which is deaf to its visitors. Otherwise it is 503, with
// a line for each thing that is wrong.
func Metrics(b Backend) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newCollector(b),
	)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		s, _ := b.Status()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		sick := ailments(s)
		if len(sick) == 0 {
			fmt.Fprintln(w, "ok")
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, strings.Join(sick, "\n"))
	})
	return mux
}

// ailments lists what keeps the gateway from being healthy.
func ailments(s Status) []string {
	var sick []string
	if !s.Fence.Up {
		sick = append(sick, "the fence is down")
	}
	for _, d := range s.Doors {
		if d.State == "failsafe" {
			sick = append(sick, "door "+d.Name+" is in failsafe")
		}
	}
	return sick
}

// states are those of a door, as the metrics name them.
var states = []string{"dark", "opening", "open", "closing", "failsafe"}

// events are those that have a counter from the start, so that a rate can be
// taken of the first one too.
var events = []string{
	audit.EventOpened, audit.EventGranted, audit.EventRevoked, audit.EventExpired, audit.EventRefused,
	audit.EventDark, audit.EventFailsafe, audit.EventArmed, audit.EventRepaired, audit.EventError,
	audit.EventStarted, audit.EventStopped, audit.EventApplied,
}

// collector turns one snapshot into metrics.
type collector struct {
	backend Backend

	info, warnings                      *prometheus.Desc
	fenceUp, fenceRepairs, events       *prometheus.Desc
	state, running, sessions            *prometheus.Desc
	grants, penalties, refused, pending *prometheus.Desc
}

func newCollector(b Backend) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("doorward_"+name, help, labels, nil)
	}
	return &collector{
		backend:      b,
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
	}
}

// Describe sends the description of every metric.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.info, c.warnings, c.pending, c.fenceUp, c.fenceRepairs, c.events,
		c.state, c.running, c.sessions, c.grants, c.penalties, c.refused,
	} {
		ch <- d
	}
}

// Collect sends the values of one snapshot.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s, _ := c.backend.Status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(c.info, 1, s.Version)
	gauge(c.warnings, float64(len(s.Warnings)))
	gauge(c.pending, truth(s.Pending != nil))
	gauge(c.fenceUp, truth(s.Fence.Up))
	counter(c.fenceRepairs, s.Fence.Repairs)
	for _, e := range eventsOf(s) {
		counter(c.events, s.Events[e], e)
	}
	for _, d := range s.Doors {
		for _, state := range states {
			gauge(c.state, truth(d.State == state), d.Name, state)
		}
		gauge(c.running, truth(d.Running), d.Name)
		gauge(c.sessions, float64(d.Sessions), d.Name)
		gauge(c.grants, float64(len(d.Grants)), d.Name)
		gauge(c.penalties, float64(len(d.Penalties)), d.Name)
		counter(c.refused, d.Refused, d.Name)
	}
}

// eventsOf lists the known events and whatever else the snapshot counts.
func eventsOf(s Status) []string {
	all := slices.Concat(events, slices.Collect(maps.Keys(s.Events)))
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
