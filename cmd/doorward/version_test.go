package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
)

func TestVersion(t *testing.T) {
	own := thisVersion()
	same, _ := controltest.Serve(t, controltest.New(control.Status{Time: noon, Version: own.Version}))
	other, _ := controltest.Serve(t, controltest.New(control.Status{Time: noon, Version: "0.0.1\x1b[2J"}))
	none := t.TempDir() + "/s"
	for _, tt := range []struct{ line, want string }{
		{"--version", own.String() + "\n"},
		{"version --control " + none, own.String() + "\n"},
		{"version --control " + same, own.String() + "\ndoorwardd " + own.Version + "\n"},
		{"version --control " + other, own.String() + "\ndoorwardd 0.0.1\ufffd[2J: another version than this program's; " +
			"systemctl restart doorward brings the installed one\n"},
	} {
		code, stdout, stderr := operate(t, nil, strings.Fields(tt.line)...)
		if code != 0 || stdout != tt.want || stderr != "" {
			t.Errorf("%s: status %d, %q and %q; want 0 and %q", tt.line, code, stdout, stderr, tt.want)
		}
	}
	for path, want := range map[string]string{none: "", same: own.Version} {
		var got versionJSON
		code, stdout, _ := operate(t, nil, "version", "--json", "--control", path)
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 || got.Version != own.Version || got.Go == "" {
			t.Errorf("status %d, %q: %v", code, stdout, err)
		}
		if daemon := got.Daemon; want == "" && daemon != nil || want != "" && (daemon == nil || *daemon != want) {
			t.Errorf("the daemon's version is %v, want %q", daemon, want)
		}
	}
	if code, stdout, stderr := operate(t, nil, "--version", "--json", "--control", none); code != 0 || !strings.HasPrefix(stdout, "{\n  \"api\": 1,\n  \"version\": ") {
		t.Errorf("--version --json: status %d, %q and %q", code, stdout, stderr)
	}
}
