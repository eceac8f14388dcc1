//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whoever knocks at three in the morning is told what, where, and what to type next.
func TestWhatIsSaidAtNight(t *testing.T) {
	v, _ := enrolled(t)
	key := filepath.Join(v.home, ".ssh", "id_ed25519")
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	v.want(1, "", "doorward: error: private key: open HOME/.ssh/id_ed25519: no such file or directory\n"+
		"doorward: hint: profile gate names it, for which there may be another key now: doorward profiles show gate says where to write that\n", "knock", "gate")
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	v.vars["SUDO_USER"] = "alice\x1b[2J"
	if code, _, errs := v.run("hold", "gone"); code != 1 || strings.Contains(errs, "\x1b") ||
		!strings.Contains(errs, "hint: without sudo: this looks among root's profiles, not among alice") {
		t.Errorf("by sudo: status %d, %q", code, errs)
	}
	if code, _, errs := v.run("knock", "gate"); code != 0 {
		t.Errorf("by sudo, with a profile of root's: status %d, %q", code, errs)
	}
	if code, _, errs := v.run("knock", "gone"); code != 2 || !strings.Contains(errs, "without sudo: ") {
		t.Errorf("knock by sudo: status %d, %q", code, errs)
	}
}
