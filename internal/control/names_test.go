package control

import (
	"strings"
	"testing"
)

// Users that cannot be looked up any more have the names that they had at the start.
func TestNamesOfUsers(t *testing.T) {
	const nobodys = "\nnext:x:3999999998:1::/:\nagain:x:3999999998:1::/:\n:x:3999999997::\nshort:x\nlarge:x:4294967296:\nodd:x:-1:\n"
	names := readNames(strings.NewReader("root:x:0:0::/root:/bin/sh\nalice:x:3999999999:1::/:\n" + nobodys))
	for uid, want := range map[uint32]string{
		0:          "root (uid 0)",
		3999999999: "alice (uid 3999999999)",
		3999999998: "next (uid 3999999998)",
		3999999997: "uid 3999999997",
	} {
		if got := names.of(uid); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if len(names) != 3 {
		t.Errorf("got %v, want three names", names)
	}
	long := readNames(strings.NewReader(strings.Repeat("x:x:1:\n", maxPasswd) + "alice:x:2:\n"))
	if len(long) != 1 {
		t.Errorf("read %d names from a file that is too long, want only the one of its beginning", len(long))
	}
	if got := namesNow().of(0); !strings.HasSuffix(got, " (uid 0)") {
		t.Errorf("uid 0 is %q", got)
	}
}
