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
