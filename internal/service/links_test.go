package service

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNamesByLinks(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"/etc/systemd/system", "/usr/lib/systemd/system"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"ssh.service", "ssh.socket", "site@.service", "plain.service", "shadowed.service"} {
		if err := os.WriteFile(filepath.Join(root, "/usr/lib/systemd/system", file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"sshd.service":      "/usr/lib/systemd/system/ssh.service", // as systemctl enable writes it
		"sshd.socket":       "../../../usr/lib/systemd/system/ssh.socket",
		"secure.service":    "sshd.service",
		"web@.service":      "/usr/lib/systemd/system/site@.service",
		"odd@.service":      "plain.service",
		"only@a.service":    "/usr/lib/systemd/system/site@.service",
		"same@a.service":    "/usr/lib/systemd/system/site@a.service",
		"differs@a.service": "/usr/lib/systemd/system/site@b.service",
		"first.service":     "/usr/lib/systemd/system/site@first.service",
		"masked.service":    "/dev/null",
		"elsewhere.service": "/opt/other.service",
		"a.service":         "b.service",
		"b.service":         "a.service",
		"other.socket":      "ssh.service",
		"shadowed.service":  "/usr/lib/systemd/system/plain.service",
	} {
		if err := os.Symlink(target, filepath.Join(root, "/etc/systemd/system", name)); err != nil {
			t.Fatal(err)
		}
	}
	for unit, want := range map[string]Names{
		"ssh.service":       {ID: "ssh.service"},
		"sshd.service":      {ID: "ssh.service"},
		"secure.service":    {ID: "ssh.service"},
		"ssh.socket":        {ID: "ssh.socket", Feeds: []string{"ssh.service"}},
		"sshd.socket":       {ID: "ssh.socket", Feeds: []string{"ssh.service"}},
		"web@a.service":     {ID: "site@a.service"},
		"web@a-b@c.service": {ID: "site@a-b@c.service"},
		"site@a.service":    {ID: "site@a.service"},
		"odd@a.service":     {ID: "odd@a.service"},
		"only@a.service":    {ID: "site@a.service"},
		"only@b.service":    {ID: "only@b.service"},
		"same@a.service":    {ID: "site@a.service"},
		"differs@a.service": {ID: "differs@a.service"},
		"first.service":     {ID: "first.service"},
		"masked.service":    {ID: "masked.service"},
		"elsewhere.service": {ID: "elsewhere.service"},
		"a.service":         {ID: "a.service"},
		"other.socket":      {ID: "other.socket", Feeds: []string{"other.service"}},
		"shadowed.service":  {ID: "plain.service"},
		"none.service":      {ID: "none.service"},
	} {
		if d := cmp.Diff(want, NamesByLinks(root, unit)); d != "" {
			t.Errorf("%s: %s", unit, d)
		}
	}
}
