package control

import (
	"runtime"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/version"
)

// Metric is one of doorward's metrics, with what the manual says of it. Names and labels
// follow Prometheus' conventions (prometheus.io/docs/practices/naming), and strangers
// cannot choose the value of a label.
type Metric struct {
	Name   string
	Type   string   // "gauge", "counter" or "histogram"
	Labels []string // nil for none
	Help   string   // a sentence, which is served with the metric
	Note   string   // what else the manual says, "" for nothing

	values func(v *GatewayMetrics, is func(n float64, labels ...string)) // nil for a histogram
	spans  func(v *GatewayMetrics) *Spans                                // of a histogram
}

// The types of a Metric.
const (
	gauge     = "gauge"
	counter   = "counter"
	histogram = "histogram"
)

// ListMetrics returns the metrics that are doorward's own, in the order of the manual.
func ListMetrics() []Metric { return slices.Clone(metrics) }

// Word is a value that a label can have, and what it means.
type Word struct{ Code, Means string }

// ListRefusals returns the values of "reason" in doorward_refusals_total.
func ListRefusals() []Word { return slices.Clone(refused) }

// refused lists the reasons why knocks are refused. The list is fixed, so that nobody
// who knocks can add to it.
var refused = []Word{
	{"port", "a port was touched that must be left alone"},
	{"order", "the ports were touched in the wrong order"},
	{"unfinished", "the knock was not complete when its time was up"},
	{"late", "it was complete, but took too long"},
	{"deaf", "it was right, but the door ignored knocks by then"},
	{"crowded", "it was right, but too many were already waiting for the service, or who knocked had too many grants"},
	{"unsaved", "it was right, but what must be remembered of it could not be saved"},
	{other, "whatever else"},
}

const other = "other"

// Refusal returns the reason under which a refused knock is counted: the given one if it
// is on the list, otherwise "other".
func Refusal(reason string) string {
	if slices.ContainsFunc(refused, func(w Word) bool { return w.Code == reason }) {
		return reason
	}
	return other
}

// metrics is the table of all metrics. A new one is added here, and its value to
// GatewayMetrics.
var metrics = []Metric{
	{Name: "doorward_build_info", Type: gauge, Labels: []string{"version", "goversion", "revision"},
		Help: "The daemon's version, the Go version that built it, and the commit it was built from; always 1.",
		values: func(v *GatewayMetrics, is func(float64, ...string)) {
			is(1, v.Version, runtime.Version(), version.Commit())
		}},
	{Name: "doorward_problems", Type: gauge, Labels: []string{"code"},
		Help:   "Reasons for which /healthz fails, by their code.",
		Note:   "0 for all while the doors are guarded and usable. The codes are below.",
		values: problemCounts},
	{Name: "doorward_warnings", Type: gauge,
		Help:   "Things that an operator should act on.",
		Note:   "doorward status lists them.",
		values: one(func(v *GatewayMetrics) float64 { return float64(v.Warnings) })},

	{Name: "doorward_fence_up", Type: gauge,
		Help:   "1 while the fence guards the doors.",
		values: one(func(v *GatewayMetrics) float64 { return truth(v.FenceUp) })},
	{Name: "doorward_fence_owned", Type: gauge,
		Help:   "1 while the kernel keeps others from changing the fence.",
		Note:   "0 before Linux 6.9, where changes by others are noticed and undone.",
		values: one(func(v *GatewayMetrics) float64 { return truth(v.FenceOwned) })},
	{Name: "doorward_fence_repairs_total", Type: counter,
		Help:   "Times that the fence was repaired after somebody else had changed it.",
		values: one(func(v *GatewayMetrics) float64 { return float64(v.FenceRepairs) })},
	{Name: "doorward_refused_packets_total", Type: counter, Labels: []string{"door"},
		Help:   "Packets that the fence refused at the door.",
		values: each(func(d *DoorMetrics) float64 { return float64(d.PacketsRefused) })},

	{Name: "doorward_door_state", Type: gauge, Labels: []string{"door", "state"},
		Help:   "1 for the state that the door is in, 0 for the others.",
		Note:   "The states are dark, opening, open, closing and failsafe.",
		values: among(states, func(d *DoorMetrics) string { return d.State })},
	{Name: "doorward_grants", Type: gauge, Labels: []string{"door"},
		Help:   "Sources that may open new connections now.",
		values: each(func(d *DoorMetrics) float64 { return float64(d.Grants) })},
	{Name: "doorward_penalties", Type: gauge, Labels: []string{"door"},
		Help:   "Sources whose knocks are ignored now.",
		values: each(func(d *DoorMetrics) float64 { return float64(d.Penalties) })},
	{Name: "doorward_sessions", Type: gauge, Labels: []string{"door"},
		Help:   "Live connections and flows that came in by the door.",
		values: each(func(d *DoorMetrics) float64 { return float64(d.Sessions) })},
	{Name: "doorward_logs_readable", Type: gauge, Labels: []string{"door"},
		Help:   "1 if the logs of the door's logins could be read in full at the latest look.",
		Note:   "Only for doors that read logins.",
		values: logs},
	{Name: "doorward_last_knock_timestamp_seconds", Type: gauge, Labels: []string{"door"},
		Help: "When a right knock was last heard.", Note: sinceStart,
		values: each(func(d *DoorMetrics) float64 { return seconds(d.LastKnock) })},
	{Name: "doorward_last_grant_timestamp_seconds", Type: gauge, Labels: []string{"door"},
		Help: "When a grant was last given or renewed.", Note: sinceStart,
		values: each(func(d *DoorMetrics) float64 { return seconds(d.LastGrant) })},
	{Name: "doorward_last_login_timestamp_seconds", Type: gauge, Labels: []string{"door"},
		Help: "When somebody last logged in, according to the logs.", Note: "0 while none is known.",
		values: each(func(d *DoorMetrics) float64 { return seconds(d.LastLogin) })},
	{Name: "doorward_last_dark_timestamp_seconds", Type: gauge, Labels: []string{"door"},
		Help: "When the door last went dark.", Note: "0 while that is not known.",
		values: each(func(d *DoorMetrics) float64 { return seconds(d.LastDark) })},

	{Name: "doorward_service_state", Type: gauge, Labels: []string{"door", "state"},
		Help: "1 for the state that the door's service was last seen in, 0 for the others.",
		Note: "The states are running, stopped, failed (it could not be started, or died) and unknown (not seen yet). " +
			"Only for doors that have a service.",
		values: services(among(serviceStates, func(d *DoorMetrics) string { return d.Service }))},
	{Name: "doorward_service_start_failures_total", Type: counter, Labels: []string{"door"},
		Help:   "Times that the door's service failed to start.",
		Note:   "Only for doors that have a service.",
		values: services(each(func(d *DoorMetrics) float64 { return float64(d.StartFailures) }))},

	{Name: "doorward_events_total", Type: counter, Labels: []string{"door", "event"},
		Help:   "Records of the audit trail, by event.",
		Note:   "Events that concern no door have an empty door. The events are those of doorward log; a record that sums up refusals counts for all of them.",
		values: events},
	{Name: "doorward_refusals_total", Type: counter, Labels: []string{"door", "reason"},
		Help:   "Knocks that did not open a door, by reason.",
		Note:   "The reasons are below. Knocks of a source that is penalised are ignored, and not counted.",
		values: refusals},
	{Name: "doorward_touches_dropped_total", Type: counter,
		Help:   "Touches that were dropped because too many waited.",
		values: one(func(v *GatewayMetrics) float64 { return float64(v.Touches) })},
	{Name: "doorward_datagrams_dropped_total", Type: counter, Labels: []string{"reason"},
		Help: "Datagrams at the knocks' ports that were dropped, and answers that were withheld.",
		Note: "The reasons are foreign (not a knock), strange (an impossible sender, or too long), crowded (too many waited), " +
			"replied (answered at once, and to be sent again with what the answer contains), overrun (they came faster than they were read) and withheld (an answer that was too long, or one too many). " +
			"Only where a knock hears datagrams.",
		values: datagrams},

	{Name: "doorward_config_info", Type: gauge, Labels: []string{"id"},
		Help: "Which configuration is in use; always 1.",
		Note: "The id changes with the configuration and with each start of the daemon. It is not the hash that doorward status shows: " +
			"with that, whoever reads the metrics could try knocks until one fits.",
		values: func(v *GatewayMetrics, is func(float64, ...string)) { is(1, v.Config.ID) }},
	{Name: "doorward_config_pending", Type: gauge,
		Help:   "1 while an applied configuration waits to be confirmed.",
		values: one(func(v *GatewayMetrics) float64 { return truth(v.Pending) })},
	{Name: "doorward_config_last_reload_successful", Type: gauge,
		Help:   "1 if the latest attempt to take a configuration file into use went well.",
		Note:   "An attempt is a start, doorward apply, or SIGHUP.",
		values: one(func(v *GatewayMetrics) float64 { return truth(v.Config.LoadedOK) })},
	{Name: "doorward_config_last_reload_success_timestamp_seconds", Type: gauge,
		Help:   "When a configuration file was last taken into use.",
		Note:   "0 if that was not since the start.",
		values: one(func(v *GatewayMetrics) float64 { return seconds(v.Config.Loaded) })},

	{Name: "doorward_store_up", Type: gauge,
		Help:   "1 while what must survive a restart can be written to disk.",
		values: one(func(v *GatewayMetrics) float64 { return truth(v.Store.Up) })},
	{Name: "doorward_store_commit_seconds", Type: histogram,
		Help:  "How long commits to the disk took.",
		spans: func(v *GatewayMetrics) *Spans { return v.Store.Commits }},
	{Name: "doorward_store_commit_failures_total", Type: counter,
		Help:   "Commits to the disk that failed.",
		Note:   "They are retried with the next.",
		values: one(func(v *GatewayMetrics) float64 { return float64(v.Store.Failures) })},
	{Name: "doorward_store_lost_records_total", Type: counter,
		Help:   "Records that are missing from the audit trail because too many waited for the disk.",
		values: one(func(v *GatewayMetrics) float64 { return float64(v.Store.Lost) })},

	{Name: "doorward_turn_seconds", Type: histogram,
		Help:  "How long each turn of the gateway's loop took.",
		spans: func(v *GatewayMetrics) *Spans { return v.Turns }},
	{Name: "doorward_knock_wait_seconds", Type: histogram,
		Help:  "How long touches and datagrams waited for a turn, the first of each batch.",
		spans: func(v *GatewayMetrics) *Spans { return v.Waits }},
}

const sinceStart = "0 while none is known since the start."

// states are the states of a door, and serviceStates those of its service.
var (
	states        = []string{StateDark, StateOpening, StateOpen, StateClosing, StateFailsafe}
	serviceStates = []string{ServiceRunning, ServiceStopped, ServiceFailed, ServiceUnknown}
)

// doorEvents have a counter for each door from the start, so that a rate includes the
// first of them too; gatewayEvents have one for the gateway as a whole.
var (
	doorEvents = []string{
		audit.EventOpened, audit.EventGranted, audit.EventRevoked, audit.EventExpired, audit.EventRefused, audit.EventLogin,
		audit.EventDark, audit.EventFailsafe, audit.EventArmed, audit.EventRepaired, audit.EventError,
	}
	gatewayEvents = []string{audit.EventStarted, audit.EventStopped, audit.EventApplied, audit.EventRepaired, audit.EventError}
)

// one is a metric without labels.
func one(of func(*GatewayMetrics) float64) func(*GatewayMetrics, func(float64, ...string)) {
	return func(v *GatewayMetrics, is func(float64, ...string)) { is(of(v)) }
}

// each is a metric of each door.
func each(of func(*DoorMetrics) float64) func(*GatewayMetrics, func(float64, ...string)) {
	return func(v *GatewayMetrics, is func(float64, ...string)) {
		for i := range v.Doors {
			is(of(&v.Doors[i]), v.Doors[i].Name)
		}
	}
}

// among is a metric of each door that is 1 for the value that applies and 0 for the
// others.
func among(all []string, of func(*DoorMetrics) string) func(*GatewayMetrics, func(float64, ...string)) {
	return func(v *GatewayMetrics, is func(float64, ...string)) {
		for i := range v.Doors {
			for _, value := range all {
				is(truth(of(&v.Doors[i]) == value), v.Doors[i].Name, value)
			}
		}
	}
}

// services is a metric of the doors that have a service.
func services(of func(*GatewayMetrics, func(float64, ...string))) func(*GatewayMetrics, func(float64, ...string)) {
	return func(v *GatewayMetrics, is func(float64, ...string)) {
		with := *v
		with.Doors = slices.DeleteFunc(slices.Clone(v.Doors), func(d DoorMetrics) bool { return d.Service == "" })
		of(&with, is)
	}
}

func problemCounts(v *GatewayMetrics, is func(float64, ...string)) {
	for _, p := range problems {
		n := 0
		for _, has := range v.Problems {
			if has.Code == p.Code {
				n++
			}
		}
		is(float64(n), p.Code)
	}
}

func logs(v *GatewayMetrics, is func(float64, ...string)) {
	for _, d := range v.Doors {
		if d.Logs != nil {
			is(truth(*d.Logs), d.Name)
		}
	}
}

func events(v *GatewayMetrics, is func(float64, ...string)) {
	all := func(door string, known []string) {
		for _, e := range known {
			is(float64(v.Events[door][e]), door, e)
		}
		for e, n := range v.Events[door] {
			if !slices.Contains(known, e) {
				is(float64(n), door, e)
			}
		}
	}
	all("", gatewayEvents)
	for _, d := range v.Doors {
		all(d.Name, doorEvents)
	}
}

func refusals(v *GatewayMetrics, is func(float64, ...string)) {
	for _, d := range v.Doors {
		for _, why := range refused {
			is(float64(d.Refusals[why.Code]), d.Name, why.Code)
		}
	}
}

func datagrams(v *GatewayMetrics, is func(float64, ...string)) {
	for why, n := range v.Datagrams {
		is(float64(n), why)
	}
}

// seconds returns t in seconds since 1970, 0 for the zero time.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// truth returns 1 for true and 0 for false.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
