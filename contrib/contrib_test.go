// Package contrib has tests only: they hold the alert rules and the dashboard to the
// metrics that there are.
package contrib

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
)

// promtool runs Prometheus' own checker.
func promtool(t *testing.T, stdin io.Reader, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("promtool is not installed: build/deps.sh test")
	}
	tool := exec.CommandContext(t.Context(), "promtool", args...)
	tool.Stdin = stdin
	if out, err := tool.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

const rules = "prometheus/doorward.rules.yml"

// The metrics are as Prometheus would have them.
func TestMetrics(t *testing.T) {
	answer := httptest.NewRecorder()
	b := controltest.New(control.Status{Doors: []control.Door{{Name: "ssh", Service: "ssh.service"}}})
	control.Metrics(b).ServeHTTP(answer, httptest.NewRequest("GET", "http://127.0.0.1/metrics", nil))
	promtool(t, answer.Body, "check", "metrics")
}

// The rules fire for what they are for, and for nothing else.
func TestAlertRules(t *testing.T) {
	promtool(t, nil, "check", "rules", rules)
	promtool(t, nil, "test", "rules", "prometheus/doorward.test.yml")
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("prometheus/doorward.test.yml")
	if err != nil {
		t.Fatal(err)
	}
	alerts := regexp.MustCompile(`(?m)- alert: (\w+)$`).FindAllStringSubmatch(string(text), -1)
	if len(alerts) == 0 {
		t.Fatal("there are no alerts: the test sees none of them")
	}
	for _, alert := range alerts {
		quiet := regexp.MustCompile(`alertname: ` + alert[1] + `\}`).Match(tests)
		fires := regexp.MustCompile(`alertname: ` + alert[1] + `\n\s+exp_alerts:`).Match(tests)
		if !quiet || !fires {
			t.Errorf("%s: tested to be quiet: %t, and to fire: %t", alert[1], quiet, fires)
		}
	}
	for _, expr := range regexp.MustCompile(`(?m)^        expr: (.*(?:\n          .*)*)`).FindAllStringSubmatch(string(text), -1) {
		known(t, rules, expr[1])
	}
}

// What the dashboard asks for are metrics that there are, in words that Prometheus
// understands.
func TestDashboard(t *testing.T) {
	const name = "grafana/doorward.json"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Definition string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	all.WriteString("groups:\n- name: dashboard\n  rules:\n")
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$instance", ".*", "$door", ".*")
	seen := map[int]bool{}
	for _, p := range board.Panels {
		if seen[p.ID] || len(p.Targets) == 0 {
			t.Errorf("panel %q: its id %d is another's, or it shows nothing", p.Title, p.ID)
		}
		seen[p.ID] = true
		for i, target := range p.Targets {
			known(t, p.Title, target.Expr)
			fmt.Fprintf(&all, "  - record: panel:%d:%d\n    expr: %q\n", p.ID, i, variables.Replace(target.Expr))
		}
	}
	for _, v := range board.Templating.List {
		if v.Definition != "" {
			known(t, "variable", v.Definition)
		}
	}
	asked := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(asked, []byte(all.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, nil, "check", "rules", asked)
}

var (
	series  = regexp.MustCompile(`\b(doorward_\w+)(?:\{([^}]*)\})?`)
	matcher = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`)
)

// known says which metrics and labels of an expression there are not.
func known(t *testing.T, where, expr string) {
	t.Helper()
	for _, s := range series.FindAllStringSubmatch(expr, -1) {
		i := slices.IndexFunc(control.ListMetrics(), func(m control.Metric) bool {
			return m.Name == s[1] || m.Type == "histogram" && m.Name+"_bucket" == s[1]
		})
		if i < 0 {
			t.Errorf("%s: there is no metric %s", where, s[1])
			continue
		}
		labels := append([]string{"job", "instance"}, control.ListMetrics()[i].Labels...)
		for _, label := range matcher.FindAllStringSubmatch(s[2], -1) {
			if !slices.Contains(labels, label[1]) {
				t.Errorf("%s: %s has no label %s", where, s[1], label[1])
			}
		}
	}
}
