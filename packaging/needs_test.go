//go:build linux

package packaging

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
)

// settings are the values of a setting of the unit, line by line, each word one.
func settings(t *testing.T, name string) (lines [][]string) {
	t.Helper()
	text, err := files.ReadFile("doorward.service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			lines = append(lines, strings.Fields(v))
		}
	}
	if len(lines) == 0 {
		t.Fatalf("the unit has no %s", name)
	}
	return lines
}

// calls are the system calls of a group as systemd has them, or the one with the name.
func calls(t *testing.T, name string) (all []string) {
	t.Helper()
	if name[0] != '@' {
		return []string{name}
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", name).Output()
	if err != nil {
		t.Skipf("systemd does not tell which system calls %s has: %v", name, err)
	}
	for line := range strings.Lines(string(out)) {
		if word := strings.TrimSpace(line); word != "" && word[0] != '#' && word != name {
			all = append(all, calls(t, word)...)
		}
	}
	return all
}

// lacks is what a kind needs and the unit does not let the daemon have.
func lacks(t *testing.T, needs knock.Needs) (all []string) {
	t.Helper()
	bounding := slices.Concat(settings(t, "CapabilityBoundingSet")...)
	ambient := slices.Concat(settings(t, "AmbientCapabilities")...)
	for _, c := range needs.Capabilities {
		if !slices.Contains(bounding, c) || !slices.Contains(ambient, c) {
			all = append(all, c)
		}
	}
	if len(needs.SystemCalls) == 0 {
		return all
	}
	allowed := map[string]bool{}
	for _, line := range settings(t, "SystemCallFilter") {
		first, denied := strings.CutPrefix(line[0], "~")
		for _, group := range append([]string{first}, line[1:]...) {
			for _, c := range calls(t, group) {
				allowed[c] = !denied
			}
		}
	}
	for _, c := range needs.SystemCalls {
		if !allowed[c] {
			all = append(all, c)
		}
	}
	return all
}

// The unit lets the daemon have what any kind of knock needs.
func TestTheUnitHasWhatEveryKindNeeds(t *testing.T) {
	for _, k := range kinds.All {
		if lacks := lacks(t, k.Needs()); lacks != nil {
			t.Errorf("knocks of kind %q need %q, which the unit does not have", k.Name(), lacks)
		}
	}
	all := knock.Needs{Capabilities: []string{"CAP_NET_ADMIN", "CAP_SYS_ADMIN"},
		SystemCalls: []string{"recvmmsg", "capset", "getpriority", "setpriority", "mount", "setrlimit"}}
	want := []string{"CAP_SYS_ADMIN", "mount", "setrlimit"}
	if diff := cmp.Diff(want, lacks(t, all)); diff != "" {
		t.Errorf("what the unit lacks (-want +got):\n%s", diff)
	}
}
