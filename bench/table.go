//go:build linux

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// print prints the tables: a column for each daemon, ratios to doorward's, and
// a row for each number of grants. With a delay of datagrams there is a row that says how
// often a knock waited for two.
func print(out io.Writer, results []result, delay time.Duration) {
	var ours *result
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "\n\t")
	for i, r := range results {
		fmt.Fprintf(w, "%s\t", r.name)
		if r.name == "doorward" {
			ours = &results[i]
		}
	}
	fmt.Fprintln(w)
	for _, row := range []struct {
		name string
		cell func(result) string
	}{
		{"time to open, median", func(r result) string { return millis(quantile(r.times, 0.5)) }},
		{"round trips", func(r result) string {
			if delay <= 0 {
				return "-"
			}
			return fmt.Sprintf("%.1f", float64(quantile(r.times, 0.5))/float64(2*delay))
		}},
		{"95% within", func(r result) string { return millis(quantile(r.times, 0.95)) }},
		{"times doorward's median", func(r result) string { return ratio(quantile(r.times, 0.5), ours) }},
		{"openings", func(r result) string { return fmt.Sprint(len(r.times)) }},
		{"resident memory, idle", func(r result) string { return megabytes(r.idle.resident) }},
		{"CPU, idle", func(r result) string { return fmt.Sprintf("%.3f %%", 100*r.idle.cpu) }},
		{"wake-ups a second, idle", func(r result) string { return fmt.Sprintf("%.2f", r.idle.wakeups) }},
	} {
		fmt.Fprintf(w, "%s\t", row.name)
		for _, r := range results {
			fmt.Fprintf(w, "%s\t", row.cell(r))
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	if ours == nil || len(ours.grown) == 0 {
		return
	}
	first := quantile(ours.grown[0].times, 0.5)
	fmt.Fprint(w, "\ndoorward with active grants\tmedian\t95% within\ttimes the first\tresident\t\n")
	for _, g := range ours.grown {
		median := quantile(g.times, 0.5)
		fmt.Fprintf(w, "%d\t%s\t%s\t%.2f\t%s\t\n", g.grants, millis(median), millis(quantile(g.times, 0.95)),
			float64(median)/float64(first), megabytes(g.resident))
	}
	w.Flush()
}

// printLoads prints a row for each load.
func printLoads(out io.Writer, loads []*load) {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nload\ttime\tresident\tvisitor: median\t95% within\tat most\tshut out\tturns\ttouches wait\t")
	for _, l := range loads {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d of %d\t%s\t%s\t%s\n", l.name, seconds(l.took), megabytes(l.resident),
			millis(quantile(l.times, 0.5)), millis(quantile(l.times, 0.95)), millis(quantile(l.times, 1)),
			l.shutOut, len(l.times), millis(l.turns.longest()), millis(l.waits.longest()), l.note)
	}
	w.Flush()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func millis(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func ratio(d time.Duration, ours *result) string {
	if ours == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(d)/float64(quantile(ours.times, 0.5)))
}
