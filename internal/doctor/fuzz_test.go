//go:build linux

package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/touch"
)

// blanks replaces all white space within lines, as strings.Fields sees it, by blanks.
func blanks(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) && r != '\n' {
			return ' '
		}
		return r
	}, s)
}

// FuzzProcStatus checks that the daemon's user, groups and capabilities are what its
// status file says by its form, and that a file that cannot be read gives it none.
func FuzzProcStatus(f *testing.F) {
	for _, s := range []string{
		"Name:\tdoorwardd\nUid:\t990\t991\t992\t993\nGid:\t990\t991\t992\t993\nGroups:\t4 101 \nCapEff:\t0000000000001400\n",
		"Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n", "Uid:\tx\tx\nGroups:\t\nCapEff:\t1000\n", "", "CapEff:\t\n", "CapEff: fffffffffffffffff\n", "Uid:\t1\n",
		"Uid:\t1\t99999999999999999999\t1\t1\n",
		"Uid:\t1\t-5\t1\t1\nGid:\t+4\nCapEff:+1000\n",
	} {
		f.Add(s)
	}
	root, err := os.MkdirTemp("", "doorward-proc")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(root) })
	dir := filepath.Join(root, "proc/77")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.Fatal(err)
	}
	c := &config.Config{Doors: []config.Door{{Knocks: []config.Knock{{Rule: touch.Rule{Listen: []uint16{22}}}}}}}
	f.Fuzz(func(t *testing.T, status string) {
		if err := os.WriteFile(filepath.Join(dir, "status"), []byte(status), 0o644); err != nil {
			t.Fatal(err)
		}
		if r := (&Host{Root: root}).daemonReader(77); r != nil {
			uids := regexp.MustCompile(`(?m)^Uid: *[^ \n]+ +\+?0*([0-9]+)`).FindAllStringSubmatch(blanks(status), -1)
			if len(uids) == 0 || strconv.Itoa(r.uid) != uids[len(uids)-1][1] || r.uid <= 0 {
				t.Fatalf("%q: user %d", status, r.uid)
			}
			for _, g := range r.gids {
				form := fmt.Sprintf(`(?m)^(?:Gid|Groups):(?:.* )?%s0*%d(?: |$)`, map[bool]string{true: "-", false: `[+-]?`}[g < 0], max(g, -g))
				if !regexp.MustCompile(form).MatchString(blanks(status)) {
					t.Fatalf("%q: group %d", status, g)
				}
			}
		}
		found := capabilities(77, status, c)
		caps := regexp.MustCompile(`(?m)^CapEff: *([0-9A-Fa-f]+) *$`).FindAllStringSubmatch(blanks(status), -1)
		fine := len(found) == 1 && found[0].Verdict == OK
		if fine && len(caps) == 0 {
			t.Fatalf("%q: %v", status, found)
		}
		if fine {
			n, err := strconv.ParseUint(caps[len(caps)-1][1], 16, 64)
			if err != nil || n>>12&1 == 0 || n>>10&1 == 0 { // linux/capability.h
				t.Fatalf("%q has %#x (%v): %v", status, n, err, found)
			}
		}
	})
}
