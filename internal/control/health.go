package control

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// ListProblems returns the codes of Problems, and what /healthz says of each. It says no
// more, since anybody may ask it; status gives the reasons.
func ListProblems() []Word { return slices.Clone(problems) }

var problems = []Word{
	{ProblemFence, "the doors are not guarded"},
	{ProblemStore, "nothing can be saved: a restart would forget what happens now"},
	{ProblemService, "its service could not be started, so right knocks do not open it"},
	{ProblemFailsafe, "it is dark and ignores knocks, since there is no log data"},
	{ProblemListeners, "no knock can be heard"},
	{ProblemEnding, "the daemon is shutting down"},
}

// health answers GET /healthz.
func health(m MetricSource) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		sick := healthProblems(m.ReadMetrics())
		if len(sick) == 0 {
			fmt.Fprintln(w, "ok")
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, strings.Join(sick, "\n"))
	})
}

// healthProblems are the problems, a line each: "failsafe: door vpn: it is dark ...".
func healthProblems(v GatewayMetrics) (lines []string) {
	for _, p := range v.Problems {
		where := ": "
		if p.Door != "" {
			where = ": door " + p.Door + ": "
		}
		lines = append(lines, p.Code+where+meaning(p.Code))
	}
	return lines
}

// meaning is what a Problem's code means.
func meaning(code string) string {
	for _, p := range problems {
		if p.Code == code {
			return p.Means
		}
	}
	return "doorward status says why"
}

// MetricsManual describes the metrics, and HealthManual what /healthz answers.
const (
	MetricsManual = `With gateway.metrics in its configuration, the daemon serves metrics for Prometheus at
/metrics, and its health at /healthz. Anyone who can reach that address can read them,
so they contain no sources, credentials or ports, and no stranger can choose the value
of a label. Counters start at 0 when the daemon starts. The metrics of the Go runtime
(go_*) and of the process (process_*) are served as well.

Alert rules and a Grafana dashboard are in contrib, in the source tree of doorward.
`
	HealthManual = `/healthz answers 200 and "ok" while all is well, and 503 while there are problems, with
a line for each: its code, its door if it concerns one, and what it means. Details are
for operators alone: doorward status shows each problem with its reason, and doorward
status --exit-code exits with status 1 while there are any.
`
)
