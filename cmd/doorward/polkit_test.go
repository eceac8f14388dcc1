//go:build linux

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/service"
)

func TestPolkitNamesJustTheUnitsOfTheDoors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doorward.toml")
	write := func(service string) {
		t.Helper()
		text := "[door.a]\nports = [\"1/tcp\"]\n" + service +
			"[[door.a.knock]]\nkind = \"touch\"\nlisten = [11, 12]\ntouch = [11]\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" },
		polkitRules: filepath.Join(t.TempDir(), "none")}

	write("service.unit = \"panel.service\"\n")
	if code := run(t.Context(), e, []string{"polkit", path}); code != 0 {
		t.Fatalf("exit status %d: %s", code, errs.String())
	}
	for _, want := range []string{`"start panel.service"`, `"stop panel.service"`, `"reset-failed panel.service"`, `subject.user === "doorward"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the rule lacks %s:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "ssh") {
		t.Errorf("the rule names a unit that no door has:\n%s", out.String())
	}

	write("service.start = [\"/usr/sbin/sshd\", \"-D\"]\n")
	if code := run(t.Context(), e, []string{"polkit", path}); code != 0 ||
		!strings.Contains(errs.String(), "no door has a unit, so no rule is needed") {
		t.Errorf("exit status %d: %s", code, errs.String())
	}
	out.Reset()
	if code := run(t.Context(), e, []string{"polkit", path, "--json"}); code != 0 || !strings.Contains(out.String(), `"units": []`) {
		t.Errorf("exit status %d, want 0 and no units: %s%s", code, out.String(), errs.String())
	}
}

// The rule that is written keeps what the daemon may still need of the one before,
// and nothing that only the daemon says.
func TestPolkitKeepsUnitsInUse(t *testing.T) {
	tests := []struct {
		name  string
		doors []control.Door
		waits bool // a configuration, to be confirmed
		none  bool // no daemon answers
		want  []string
	}{
		{name: "no daemon", none: true, want: []string{"new.service"}},
		{name: "in use", doors: []control.Door{{Service: "old.service"}}, want: []string{"new.service", "old.service"}},
		{name: "in use by an alias", doors: []control.Door{{Service: "o.service (old.service)"}}, want: []string{"new.service", "old.service"}},
		{name: "in use no more", doors: []control.Door{{Service: "new.service"}}, want: []string{"new.service"}},
		{name: "only the daemon says", doors: []control.Door{{Service: "other.service"}}, want: []string{"new.service"}},
		{name: "waits", doors: []control.Door{{Service: "new.service"}}, waits: true, want: []string{"ancient.service", "new.service", "old.service"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path, rules := filepath.Join(dir, "doorward.toml"), filepath.Join(dir, "50-doorward.rules")
			before := service.PolkitRule("doorward", []service.Names{{ID: "old.service"}, {ID: "ancient.service"}})
			text := "[door.a]\nports = [\"1/tcp\"]\nservice.unit = \"new.service\"\n" +
				"[[door.a.knock]]\nkind = \"touch\"\nlisten = [11, 12]\ntouch = [11]\n"
			if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.WriteFile(rules, []byte(before), 0o644)); err != nil {
				t.Fatal(err)
			}
			socket := filepath.Join(dir, "none")
			if !tt.none {
				socket = (&applier{config: path, doors: tt.doors, waits: tt.waits}).serve(t)
			}
			var out, errs bytes.Buffer
			e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }, polkitRules: rules}
			if code := run(t.Context(), e, []string{"polkit", path, "--install", "--control", socket}); code != 0 {
				t.Fatalf("exit status %d: %s", code, errs.String())
			}
			rule, err := os.ReadFile(rules)
			if err != nil {
				t.Fatal(err)
			}
			got := service.PolkitUnits(string(rule))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("units of the rule (-want +got):\n%s", diff)
			}
			for _, u := range tt.want[min(1, len(tt.want)):] {
				if u != "new.service" && !strings.Contains(errs.String(), "the rule has "+u+", too: ") {
					t.Errorf("the output does not mention %s, which is kept:\n%s", u, errs.String())
				}
			}
		})
	}
}
