package config

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A file that gives only what has no default must mean the same as the
// reference, which spells every default out.
func TestReferenceIsTheDefaults(t *testing.T) {
	full, err := Parse("reference.toml", []byte(Reference()))
	if err != nil {
		t.Fatal(err)
	}
	least, err := Parse("least.toml", []byte(`
[door.ssh]
ports = ["22/tcp"]
service.unit = "ssh.service"
[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
[door.panel]
ports = ["8443/tcp"]
[door.panel.service]
start = ["/usr/local/bin/panel", "--port", "8443"]
stop = ["/usr/local/bin/panel-stop"]
status = ["/usr/bin/pgrep", "-x", "panel"]
[[door.panel.knock]]
kind = "touch"
listen = [24117, 25633, 28904]
touch = [28904, 24117]
`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(least, full, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the reference differs from the defaults (-defaults +reference):\n%s", diff)
	}
	if w := full.Warnings(); len(w) > 0 {
		t.Errorf("the reference has warnings: %q", w)
	}
}

var (
	index    = regexp.MustCompile(`\[\d+\]`)
	doorName = regexp.MustCompile(`^door\.[^.]+`)
)

// Every key is in the reference, and the reference has no other.
func TestReferenceIsWhole(t *testing.T) {
	documented := map[string]bool{}
	for key := range locate([]byte(Reference())) {
		key = doorName.ReplaceAllString(index.ReplaceAllString(key, ""), "door.*")
		documented[key] = true
	}
	want := []string{"door.*"}
	tables := map[string]any{"": rawConfig{}, "gateway.": rawGateway{}, "door.*.": rawDoor{},
		"door.*.service.": rawService{}, "door.*.presence.": rawPresence{}, "door.*.knock.": rawTouch{}}
	for prefix, raw := range tables {
		for f := range reflect.TypeOf(raw).Fields() {
			want = append(want, prefix+f.Tag.Get("toml"))
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(documented))); diff != "" {
		t.Errorf("keys of the reference (-known +documented):\n%s", diff)
	}
}
