package control_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
)

// The source reaches the backend in canonical form, and the answer comes back complete.
func TestExplain(t *testing.T) {
	b := controltest.New(sample())
	yes, until := true, start
	want := control.Explanation{Time: start, Source: "192.0.2.7", Config: "/etc/doorward/doorward.toml",
		Pending: &control.Pending{ID: 7, Until: until, By: "SIGHUP"},
		Doors: []control.ExplainedFor{{Door: "ssh", Ports: []string{"22/tcp"}, State: "open", GetsIn: &yes,
			By: []control.Cover{{Source: "192.0.2.0/24", By: "always"}}, Until: &until, WouldKnock: true,
			Obstacles: []control.Obstacle{{Code: control.ObstaclePenalty, Message: "m", Hint: "h", Until: &until, Knock: "touch"}}}}}
	b.OnExplain(func(source netip.Addr, door string) (control.Explanation, error) {
		switch {
		case source.String() != "192.0.2.7":
			t.Errorf("asked about %s, want 192.0.2.7", source)
		case door == "nix":
			return control.Explanation{}, &control.Error{Code: control.CodeNoDoor, Message: "there is no door \"nix\"", Hint: "doorward status"}
		case door == "bad":
			return control.Explanation{}, errors.New("the kernel does not answer")
		case door == "nobody":
			return control.Explanation{}, nil
		}
		return want, nil
	})
	path, _ := controltest.Serve(t, b)
	c := control.NewClient(path)
	for _, source := range []string{"192.0.2.7", "::ffff:192.0.2.7"} {
		got, err := c.Explain(t.Context(), source, "ssh")
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%s: %v, (-want +got):\n%s", source, err, d)
		}
	}
	const noAddress = ": allowed is one address, such as 192.0.2.7 or 2001:db8::7"
	for _, tt := range []struct{ source, door, code, message string }{
		{"", "", control.CodeUsage, "source is missing: the address that a connection comes from"},
		{"any", "", control.CodeUsage, `source "any"` + noAddress},
		{"192.0.2.0/24", "", control.CodeUsage, `source "192.0.2.0/24"` + noAddress},
		{"0.0.0.0", "", control.CodeUsage, `source "0.0.0.0"` + noAddress},
		{"::ffff:224.0.0.1", "", control.CodeUsage, `source "::ffff:224.0.0.1"` + noAddress},
		{"fe80::1%eth0", "", control.CodeUsage, `source "fe80::1%eth0": zones are not supported: leave out "%eth0"`},
		{"192.0.2.7", "nix", control.CodeNoDoor, `there is no door "nix"`},
	} {
		_, err := c.Explain(t.Context(), tt.source, tt.door)
		if e, ok := errors.AsType[*control.Error](err); !ok || e.Code != tt.code || e.Message != tt.message {
			t.Errorf("%s at %q: got %#v, want %s: %s", tt.source, tt.door, err, tt.code, tt.message)
		}
	}
	for door, message := range map[string]string{"bad": "the kernel does not answer",
		"nobody": "what answers at " + path + " is not doorwardd: its explanation names no source"} {
		if _, err := c.Explain(t.Context(), "192.0.2.7", door); err == nil || err.Error() != message {
			t.Errorf("door %s: got %v, want %s", door, err, message)
		}
	}
}
