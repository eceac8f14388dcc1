package config

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/pelletier/go-toml/v2"

	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/tables"
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
kind = "sealed"
secrets = "/etc/doorward/secrets"
revoked = "/etc/doorward/revoked_keys"
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
	index   = regexp.MustCompile(`\[\d+\]`)
	aDoor   = regexp.MustCompile(`^door\.[^.]+`)
	allowed = regexp.MustCompile(`^(.*)unasked$`)
)

// plainKey returns a key without the names of doors and the indexes of lists.
func plainKey(key string) string {
	return aDoor.ReplaceAllString(index.ReplaceAllString(key, ""), "door.*")
}

// Every key is in the reference, and the reference has no other. Which keys a table
// may have is known from the message about a key that it may not have.
func TestReferenceIsWhole(t *testing.T) {
	text := "unasked = 1\n[gateway]\nunasked = 1\n[door.x]\nunasked = 1\n" +
		"[door.x.service]\nunasked = 1\n[door.x.presence]\nunasked = 1\n"
	for _, k := range kinds.All {
		text += fmt.Sprintf("[[door.x.knock]]\nkind = %q\nunasked = 1\n", k.Name())
	}
	_, err := Parse("t.toml", []byte(text))
	known := map[string]bool{"door.*": true}
	for _, m := range tables.Mistakes(err) {
		if table := allowed.FindStringSubmatch(plainKey(m.Key)); table != nil {
			for _, key := range strings.Split(m.Allowed, ", ") {
				known[table[1]+key] = true
			}
		}
	}
	var tree map[string]any
	if err := toml.Unmarshal([]byte(Reference()), &tree); err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	keysOf("", tree, func(key string) { documented[plainKey(key)] = true })
	if diff := cmp.Diff(known, documented); diff != "" {
		t.Errorf("keys of the reference (-known +documented):\n%s", diff)
	}
}

// keysOf calls note for every key below a value.
func keysOf(path string, v any, note func(key string)) {
	switch v := v.(type) {
	case map[string]any:
		for name, v := range v {
			at := strings.TrimPrefix(path+"."+name, ".")
			note(at)
			keysOf(at, v, note)
		}
	case []any:
		for _, e := range v {
			keysOf(path, e, note)
		}
	}
}
