package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
)

// With --exit-code a script learns from the status alone whether all is well, of one
// door or of all; what is printed does not change.
func TestStatusExitCode(t *testing.T) {
	fence := control.Problem{Code: control.ProblemFence, Message: "the fence is down"}
	vpn := control.Problem{Code: control.ProblemFailsafe, Door: "vpn", Message: "door vpn is in failsafe"}
	for _, tt := range []struct {
		problems []control.Problem
		args     string
		code     int
	}{
		{nil, "status --exit-code", 0},
		{nil, "status --exit-code --json", 0},
		{[]control.Problem{vpn}, "status", 0},
		{[]control.Problem{vpn}, "status --exit-code", 1},
		{[]control.Problem{vpn}, "status --exit-code --json", 1},
		{[]control.Problem{vpn}, "status vpn --exit-code", 1},
		{[]control.Problem{vpn}, "status ssh --exit-code", 0},
		{[]control.Problem{vpn, fence}, "status ssh --exit-code", 1},
	} {
		s := guarded()
		s.Problems = tt.problems
		path, _ := controltest.Serve(t, controltest.New(s))
		args := append([]string{"--control", path}, strings.Fields(tt.args)...)
		code, stdout, stderr := operate(t, nil, args...)
		if code != tt.code || stderr != "" {
			t.Errorf("%s with %v: status %d and %q, want %d and nothing", tt.args, tt.problems, code, stderr, tt.code)
		}
		_, without, _ := operate(t, nil, strings.Fields(strings.Replace(strings.Join(args, " "), " --exit-code", "", 1))...)
		if stdout != without {
			t.Errorf("%s prints\n%s\nand without --exit-code\n%s", tt.args, stdout, without)
		}
	}
	code, _, stderr := operate(t, nil, "--control", filepath.Join(t.TempDir(), "none"), "status", "--exit-code")
	if code == 0 || !strings.Contains(stderr, "no daemon answers") {
		t.Errorf("without a daemon: status %d, %q", code, stderr)
	}
	listener, err := control.Listen(filepath.Join(t.TempDir(), "old"), "")
	if err != nil {
		t.Fatal(err)
	}
	old := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, `{"time":"2026-11-24T12:00:00Z","fence":{"up":false},"doors":[]}`)
	})}
	go old.Serve(listener)
	defer old.Close()
	code, _, stderr = operate(t, nil, "--control", listener.Addr().String(), "status", "--exit-code")
	want := "doorward: error: the daemon is of a version that does not report problems\ndoorward: hint: systemctl restart doorward\n"
	if code != 1 || stderr != want {
		t.Errorf("of an old daemon: status %d, %q, want 1, %q", code, stderr, want)
	}
	code, _, stderr = operate(t, nil, "status", "--exit-code", "--watch")
	want = "doorward: error: --exit-code cannot be combined with --watch, which goes on whatever it sees\ndoorward: hint: doorward status --exit-code\n"
	if code != 2 || stderr != want {
		t.Errorf("with --watch: status %d, %q, want 2, %q", code, stderr, want)
	}
}
