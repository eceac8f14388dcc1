//go:build linux

package packaging

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

// released is the last commit before there were packages: upgrades from its
// programs and files are tried.
const released = "71694b71d23328706af16691179155ca6d5a0cc3"

// codeBlocks are the lines that are indented by four spaces, by block.
func codeBlocks(text string) (blocks [][]string) {
	inside := false
	for line := range strings.Lines(text) {
		code, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		switch {
		case ok && inside:
			last := len(blocks) - 1
			blocks[last] = append(blocks[last], code)
		case ok:
			blocks = append(blocks, []string{code})
		}
		inside = ok
	}
	return blocks
}

// packagesOf builds today's packages, into one directory, and into another the same
// with the programs and the unit of the last commit that had no packages.
func packagesOf(t *testing.T) (before, now, built string) {
	t.Helper()
	now, before, built = t.TempDir(), t.TempDir(), t.TempDir()
	runBuild(t, "..", []string{"FORMATS=deb"}, "build/packages.sh", now, runtime.GOARCH)
	tree := t.TempDir()
	sh(t, "..", `git archive "$1" | tar -x -C "$2"`, released, tree)
	sh(t, tree, `CGO_ENABLED=0 go build -trimpath -buildvcs=false -o bin/ ./cmd/doorwardd ./cmd/doorward
		for deb in "$1"/*.deb; do
			root=$PWD/$(basename "$deb")
			dpkg-deb --raw-extract "$deb" "$root"
			for program in sbin/doorwardd bin/doorward; do
				[ ! -e "$root/usr/$program" ] || cp "bin/${program#*bin/}" "$root/usr/$program"
			done
			for unit in "$root"/usr/lib/systemd/system/*; do
				[ ! -e "$unit" ] || cp packaging/doorward.service "$unit"
			done
			sed -i 's/^Version: .*/Version: 0.0.0~before/; s/(= .*)/(= 0.0.0~before)/' "$root/DEBIAN/control"
			dpkg-deb -Znone --root-owner-group --build "$root" "$2/" >/dev/null
		done`, now, before)
	// What make install takes: the programs that are in the packages.
	sh(t, built, `for deb in "$1"/*.deb; do dpkg-deb --extract "$deb" .; done
		cp usr/sbin/doorwardd usr/bin/doorward .
		mkdir completions
		cp usr/share/bash-completion/completions/doorward completions/doorward.bash
		cp usr/share/zsh/*/_doorward completions/doorward.zsh
		cp usr/share/fish/vendor_completions.d/doorward.fish completions/`, now)
	return before, now, built
}

// sh runs a script in a directory of this machine.
func sh(t *testing.T, dir, script string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-euc", script, "sh"}, args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
}
