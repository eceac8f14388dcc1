package control_test

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
)

// The metrics follow Prometheus' conventions, as "promtool check metrics" checks them.
func TestMetricsFollowTheConventions(t *testing.T) {
	page := fetch(t, control.Metrics(controltest.New(sample())), "/metrics", 200)
	found, err := promlint.New(strings.NewReader(page)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range found {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Every metric of the table is served, with the labels that the table has.
func TestEveryMetricIsServed(t *testing.T) {
	page := fetch(t, control.Metrics(controltest.New(sample())), "/metrics", 200)
	for _, m := range control.ListMetrics() {
		if !strings.Contains(page, "# HELP "+m.Name+" "+m.Help+"\n# TYPE "+m.Name+" "+m.Type+"\n") {
			t.Errorf("%s is not served as a %s that says %q", m.Name, m.Type, m.Help)
		}
		series := regexp.MustCompile(`(?m)^` + m.Name + `(?:\{(.*)\})? `).FindStringSubmatch(page)
		if m.Type == "histogram" {
			continue
		}
		if series == nil {
			t.Errorf("%s has no value", m.Name)
			continue
		}
		var labels []string
		for _, label := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(series[1], -1) {
			labels = append(labels, label[1])
		}
		want := slices.Sorted(slices.Values(m.Labels))
		if !slices.Equal(labels, want) {
			t.Errorf("%s has the labels %q, want %q", m.Name, labels, want)
		}
	}
}

// A reason that is not on the list is counted as "other".
func TestRefusalsAreAFixedList(t *testing.T) {
	for _, w := range control.ListRefusals() {
		if got := control.Refusal(w.Code); got != w.Code {
			t.Errorf("%q is counted as %q", w.Code, got)
		}
	}
	for _, other := range []string{"", "Port", "port ", "a reason of some kind", "port\n"} {
		if got := control.Refusal(other); got != "other" {
			t.Errorf("%q is counted as %q, want %q", other, got, "other")
		}
	}
}

// docs/METRICS.md has each metric, and no others.
func TestMetricsAreDocumented(t *testing.T) {
	var b strings.Builder
	writeMetrics(&b)
	golden(t, "../../docs/METRICS.md", b.String())
}

func writeMetrics(w io.Writer) {
	fmt.Fprint(w, `# Metrics

`+strings.ReplaceAll(control.MetricsManual, "_*", "_\\*")+`
This page is made from the daemon's own table by `+"`make generate`"+`, and so is doorward-metrics(7).

| metric | type | labels | meaning |
|---|---|---|---|
`)
	for _, m := range control.ListMetrics() {
		text := m.Help
		if m.Note != "" {
			text += " " + m.Note
		}
		labels := strings.Join(m.Labels, "`, `")
		if labels != "" {
			labels = "`" + labels + "`"
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, labels, text)
	}
	words := func(head string, of []control.Word) {
		fmt.Fprintf(w, "\n%s\n\n", head)
		for _, word := range of {
			fmt.Fprintf(w, "- `%s`: %s\n", word.Code, word.Means)
		}
	}
	words("The reasons of `doorward_refusals_total`:", control.ListRefusals())
	words("The codes of `doorward_problems`, and what `/healthz` says of each:", control.ListProblems())
	fmt.Fprint(w, "\n## Health\n\n"+control.HealthManual)
}
