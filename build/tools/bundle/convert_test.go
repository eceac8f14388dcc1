//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const service = `services:
  doorward:
    image: doorward
    network_mode: host
    user: "1:2"
    group_add: ["4"]
    cap_drop: [ALL]
    cap_add: [NET_ADMIN]
`

// converted reads a service of a compose file and converts it.
func converted(t *testing.T, text string) (caps []string, groups []uint32, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := read(path, "doorward")
	if err != nil {
		return nil, nil, err
	}
	spec, err := convert(s, v1.Config{Cmd: []string{"doorwardd"}}, func(v string) string { return v })
	if err != nil {
		return nil, nil, err
	}
	c := spec.Process.Capabilities
	if len(c.Permitted)+len(c.Effective)+len(c.Inheritable)+len(c.Ambient) > 0 {
		t.Errorf("a user other than root begins with capabilities: %+v", *c)
	}
	return c.Bounding, append([]uint32{spec.Process.User.UID, spec.Process.User.GID}, spec.Process.User.AdditionalGids...), nil
}

func TestConvert(t *testing.T) {
	caps, groups, err := converted(t, service)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"CAP_NET_ADMIN"}, caps); d != "" {
		t.Errorf("capabilities (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]uint32{1, 2, 4}, groups); d != "" {
		t.Errorf("user and groups (-want +got):\n%s", d)
	}
}

// What would make another container than it is taken for is an error.
func TestUnknown(t *testing.T) {
	for _, tt := range []struct{ old, now, want string }{
		{"network_mode: host", "network_mode: bridge", `network_mode is "bridge", want host`},
		{"cap_drop: [ALL]", "cap_drop: [CHOWN]", `cap_drop is ["CHOWN"], want ALL`},
		{"network_mode: host", "network_mode: host\n    privileged: true", "privileged"},
		{"network_mode: host", "network_mode: host\n    pid: host", "namespaces"},
		{"network_mode: host", "network_mode: host\n    environment: {A: b}", "environment"},
		{`user: "1:2"`, "user: doorward", "want numbers"},
		{"network_mode: host", "network_mode: host\n    ulimits: {nofile: {soft: 1, hard: 2}}", "ulimits: nofile: allowed is one number"},
		{"network_mode: host", "network_mode: host\n    ulimits: {core: 1}", "ulimits: core: allowed is one number for nofile or sigpending"},
		{"image: doorward", "imgae: doorward", "imgae"},
	} {
		t.Run(tt.now, func(t *testing.T) {
			_, _, err := converted(t, strings.Replace(service, tt.old, tt.now, 1))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
}
