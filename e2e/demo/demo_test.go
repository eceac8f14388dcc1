//go:build linux

package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/pages"
)

// TestDemo is `make demo`: what a newcomer sees first has to happen.
func TestDemo(t *testing.T) {
	nstest.Need(t, "sshd", "ssh", "ssh-keygen", "nmap", "telnet", "nft", "ip", "ss", "bash", "unshare", "nsenter")
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin,
		"github.com/doorward/doorward/cmd/doorwardd", "github.com/doorward/doorward/cmd/doorward")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var said bytes.Buffer
	if err := run(t.Context(), io.MultiWriter(os.Stdout, &said), bin); err != nil {
		t.Fatal(err)
	}
	quoted(t, said.String())
}

// quoted: what the documentation shows of the demo is what it says, in its order.
func quoted(t *testing.T, demo string) {
	t.Helper()
	all, err := pages.Read("../..", "README.md", "docs/index.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		blocks, err := p.Blocks()
		if err != nil {
			t.Fatal(err)
		}
		shown := slices.IndexFunc(blocks, func(b *pages.Block) bool { return strings.HasPrefix(b.Text, "visitor$ ") })
		if shown < 0 {
			t.Errorf("%s shows nothing of the demo", p.Name)
			continue
		}
		rest := demo
		for line := range strings.Lines(blocks[shown].Text) {
			var ok bool
			if _, rest, ok = strings.Cut(rest, strings.TrimSpace(line)); !ok {
				t.Errorf("%s: the demo does not say %q there", blocks[shown].At(), line)
				break
			}
		}
	}
}
