package main

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
)

func TestDiff(t *testing.T) {
	text := func(s string) *string { return &s }
	changes := []control.KeyChange{
		{Key: "door.old", Change: control.KeyRemoved},
		{Key: "door.ssh.knock[0].listen", Change: control.KeyChanged, Secret: true},
		{Key: "door.ssh.open_for", Change: control.KeyChanged, Before: text(`"30s"`), After: text(`"5m"`)},
		{Key: "door.ssh.service.stop", Change: control.KeyRemoved, Before: text(`["/bin/stop"]`)},
		{Key: "door.ssh.service.unit", Change: control.KeyAdded, After: text(`"ssh.service"`)},
		{Key: "door.web", Change: control.KeyAdded},
	}
	const listed = `door.old                  removed
door.ssh.knock[0].listen  changed (part of a knock, so its value is not shown)
door.ssh.open_for         "30s" -> "5m"
door.ssh.service.stop     removed: ["/bin/stop"]
door.ssh.service.unit     added: "ssh.service"
door.web                  added
`
	const file = "/etc/doorward/doorward.toml"
	for _, tt := range []struct {
		name           string
		diff           control.Diff
		err            error
		code           int
		stdout, stderr string
	}{
		{"the same", control.Diff{Config: file, Before: "a", After: "a"}, nil, 0, file + " is in use, unchanged\n", ""},
		{"the same in other words", control.Diff{Config: file, Before: "a", After: "b"}, nil, 0,
			file + " differs from what is in use only in ways that change nothing, such as comments\n", ""},
		{"other keys", control.Diff{Config: file, Before: "a", After: "b", Changes: changes}, nil, 1, listed, ""},
		{"refused", control.Diff{Config: file, Before: "a", After: "b", Changes: changes[5:],
			Refused: &control.Error{Message: "nothing was changed: it was rolled back", Hint: "change it"}}, nil, 1,
			"door.web  added\n\ndoorward apply would refuse it: nothing was changed: it was rolled back\nwhat to do: change it\n", ""},
		{"a file with mistakes", control.Diff{}, &control.Error{Message: "it has mistakes", Hint: "doorward check"}, 6,
			"", "doorward: error: it has mistakes\ndoorward: hint: doorward check\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := controltest.New(guarded())
			b.OnDiff(tt.diff, tt.err)
			path, _ := controltest.Serve(t, b)
			if code, stdout, stderr := operate(t, nil, "--control", path, "diff"); code != tt.code || stdout != tt.stdout || stderr != tt.stderr {
				t.Errorf("got %d, %q and %q, want %d, %q and %q", code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
			}
			code, stdout, _ := operate(t, nil, "--control", path, "diff", "--json")
			var got control.Diff
			if err := json.Unmarshal([]byte(stdout), &got); tt.err == nil && err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.diff, got); code != tt.code || d != "" && tt.err == nil {
				t.Errorf("as JSON: exit status %d, want %d (-want +got):\n%s", code, tt.code, d)
			}
		})
	}
}
