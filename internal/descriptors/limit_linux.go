package descriptors

import (
	"math"

	"golang.org/x/sys/unix"
)

// Limit returns how many files this process may have open: RLIMIT_NOFILE of
// getrlimit(2), which Go has raised as far as it may.
func Limit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return Few // it cannot fail
	}
	return int(min(limit.Cur, math.MaxInt32))
}
