package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}

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
		t.Errorf("the rule speaks of a unit that no door has:\n%s", out.String())
	}

	write("service.start = [\"/usr/sbin/sshd\", \"-D\"]\n")
	if code := run(t.Context(), e, []string{"polkit", path}); code != 1 ||
		!strings.Contains(errs.String(), "no door has a unit, so that no rule is needed") {
		t.Errorf("exit status %d: %s", code, errs.String())
	}
}
