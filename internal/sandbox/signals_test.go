//go:build linux

package sandbox

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Without room for a signal to each thread, the process would wait for itself for ever.
// So it does not enter the sandbox then, not even in part.
func TestWithoutSignalsNothingIsBegun(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_SIGPENDING, &limit); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_SIGPENDING, &limit); err != nil {
			t.Fatal(err)
		}
	}()
	for _, tt := range []struct {
		n    uint64
		want string
	}{
		{0, "only 0 signals may be pending: raise the limit to 128 or more (LimitSIGPENDING= in the unit, ulimit -i)"},
		{127, "only 127 signals may be pending: raise the limit to 128 or more (LimitSIGPENDING= in the unit, ulimit -i)"},
	} {
		low := unix.Rlimit{Cur: tt.n, Max: limit.Max}
		if err := unix.Setrlimit(unix.RLIMIT_SIGPENDING, &low); err != nil {
			t.Fatal(err)
		}
		if _, err := (Policy{}).Enter(); err == nil || err.Error() != tt.want {
			t.Fatalf("got %v, want %s", err, tt.want)
		}
		if n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || n != 0 {
			t.Fatalf("no_new_privs is %d, %v, want 0", n, err)
		}
	}
}
