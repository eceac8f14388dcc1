//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// TestMain makes the test's program run another with slow syncs when it is asked to, as
// the bench does.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == withSlowSyncs {
		fmt.Println(execSlowSyncs(os.Args[2], os.Args[3], os.Args[4:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// Each sync of a program waits for its word, and nothing else of it does.
func TestSyncsAreHeard(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a seccomp filter that asks another process")
	}
	file := filepath.Join(t.TempDir(), "file")
	for _, c := range []struct {
		argv []string
		want int64
	}{
		{[]string{"/bin/sh", "-c", "echo something >" + file}, 0},
		{[]string{"/bin/dd", "if=/dev/zero", "of=" + file, "count=3", "status=none", "conv=fsync"}, 1},
		{[]string{"/bin/dd", "if=/dev/zero", "of=" + file, "count=3", "status=none", "conv=fdatasync"}, 1},
	} {
		var heard atomic.Int64
		under, err := underSyncs(filepath.Join(t.TempDir(), "syncs"), func(goOn func()) {
			heard.Add(1)
			goOn()
		})
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(under[0], append(under[1:], c.argv...)...).CombinedOutput(); err != nil {
			t.Errorf("%q: %v: %s", c.argv, err, out)
		}
		if got := heard.Load(); got != c.want {
			t.Errorf("%q: heard of %d syncs, want %d", c.argv, got, c.want)
		}
	}
}
