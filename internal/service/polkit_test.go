package service

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPolkitRule(t *testing.T) {
	want := `// Made by doorward from the units of its configuration; make it anew when they change.
polkit.addRule(function(action, subject) {
    var orders = [
        "reset-failed a\"b\\x2d\n\u003c\u2028.service",
        "reset-failed main.service",
        "reset-failed ssh.socket",
        "start a\"b\\x2d\n\u003c\u2028.service",
        "start ssh.socket",
        "stop a\"b\\x2d\n\u003c\u2028.service",
        "stop main.service",
        "stop ssh.socket",
        null
    ];
    if (action.id === "org.freedesktop.systemd1.manage-units" &&
        subject.user === "doorward" &&
        orders.indexOf(action.lookup("verb") + " " + action.lookup("unit")) >= 0) {
        return polkit.Result.YES;
    }
    return polkit.Result.NOT_HANDLED;
});
`
	got := PolkitRule("doorward", []Names{{ID: "ssh.socket", Feeds: []string{"main.service"}},
		{ID: "a\"b\\x2d\n<\u2028.service"}, {ID: "ssh.socket"}})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPolkitUnits(t *testing.T) {
	names := []Names{{ID: "ssh.socket", Feeds: []string{"ssh.service"}}, {ID: `odd\x2d"name@.service`}, {ID: "panel.service"}}
	want := []string{`odd\x2d"name@.service`, "panel.service", "ssh.socket"}
	if diff := cmp.Diff(want, PolkitUnits(PolkitRule("doorward", names))); diff != "" {
		t.Errorf("the units that the rule allows to be started (-want +got):\n%s", diff)
	}
	for _, rule := range []string{"", "polkit.addRule(", "\"start\n", "null,\n\"stop ssh.service\",\n[],\n"} {
		if got := PolkitUnits(rule); got != nil {
			t.Errorf("%q allows %q to be started, want none", rule, got)
		}
	}
}
