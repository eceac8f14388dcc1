//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/doctor"
	"github.com/doorward/doorward/internal/output"
)

func TestPrintDoctor(t *testing.T) {
	var b bytes.Buffer
	defer func() { // whoever became root by sudo needs it for what only root can do
		b.Reset()
		printDoctor(&b, output.Styles{}, []doctor.Finding{{Verdict: doctor.Problem, Where: "ufw", What: "x", Do: "ufw reload; ufws; doorward check"}}, true)
		want := "problem  ufw: x\n         > sudo ufw reload\n         > ufws\n         > doorward check\n"
		if !strings.HasPrefix(b.String(), want) {
			t.Errorf("by sudo:\n%s\nwant\n%s", b.String(), want)
		}
	}()
	printDoctor(&b, output.Styles{}, []doctor.Finding{
		{Verdict: doctor.OK, Where: "kernel", What: "Linux 6.12.0 takes doorward's nftables table and keeps others from changing it"},
		{Verdict: doctor.Note, Where: "network", What: "nobody knows", Do: "try it"},
		{Verdict: doctor.Problem, Where: "59001/tcp", What: "is taken by \x1b[31mnginx (pid 9): door ssh cannot listen for its knock",
			Do: "end that, or change the knock: doorward rotate --door ssh --output /root/a/long/way/down"},
		{Verdict: doctor.Problem, Where: "ufw", What: "drops them",
			Do: "ufw allow proto tcp to any port 22,59000,59001,59002,59003,59004,59005,59006,59007,59008,59009\nufw allow\x1b 1; ufw reload\n"},
	}, false)
	want := `ok       kernel: Linux 6.12.0 takes doorward's nftables table and keeps others
         from changing it
note     network: nobody knows
         > try it
problem  59001/tcp: is taken by ` + "\ufffd" + `[31mnginx (pid 9): door ssh cannot listen for
         its knock
         > end that, or change the knock: doorward rotate --door ssh --output /root/a/long/way/down
problem  ufw: drops them
         > ufw allow proto tcp to any port 22,59000,59001,59002,59003,59004,59005,59006,59007,59008,59009
         > ufw allow` + "\ufffd" + ` 1
         > ufw reload

2 problems, 0 warnings, 1 note, 1 ok
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

// TestDoctorCommand: a mistake in the configuration is a problem, and problems give
// exit status 1, in both forms.
func TestDoctorCommand(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "doorward.toml")
	if err := os.WriteFile(path, []byte("[door.ssh]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	doctor := func(args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
		code = run(t.Context(), e, append([]string{"doctor", "-c", path, "--control", filepath.Join(dir, "s")}, args...))
		return code, out.String(), errs.String()
	}
	const what = "has mistakes"
	code, stdout, stderr := doctor()
	if code != 1 || !strings.Contains(stdout, "problem  configuration:") || !strings.Contains(stderr, "problem") {
		t.Errorf("exit status %d:\n%s%s", code, stdout, stderr)
	}
	code, stdout, _ = doctor("--json")
	var told struct {
		API, OK  any
		Findings []map[string]string
	}
	if err := json.Unmarshal([]byte(stdout), &told); err != nil || told.API != 1.0 || told.OK != false {
		t.Fatalf("%v: %s", err, stdout)
	}
	found := told.Findings
	first := map[string]string{"verdict": "problem", "where": "configuration", "what": path + " " + what,
		"do": "doorward check " + path}
	if d := cmp.Diff(first, found[0]); code != 1 || d != "" {
		t.Errorf("exit status %d, first finding: %s", code, d)
	}
	if code, _, stderr := doctor("now"); code != 2 || !strings.Contains(stderr, `"now": no argument is expected`) {
		t.Errorf("exit status %d: %s", code, stderr)
	}
}
