//go:build linux

// Package priority lets the few threads that visitors wait for run before others. On a
// machine that is busy, a thread whose turn it is waits for a core for as long as the
// kernel lets another one run, which is often longer than all that is done for a knock.
package priority

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Nice is the nice value of a raised thread, sched(7).
const Nice = -10

// Raise keeps the calling goroutine on its thread for as long as it runs, and raises the
// thread's priority, if the limit RLIMIT_NICE or CAP_SYS_NICE allows that; otherwise it
// does nothing. A priority that is as high already stays.
//
// A goroutine that has called it must not give up its thread (runtime.UnlockOSThread),
// which then ends with it: so no other goroutine ever runs there. (The process's first
// thread would sleep for good; see mexit in Go's runtime/proc.go.) It must not start
// programs, which would inherit the priority. New threads do not: the runtime has a thread
// that is locked to a goroutine make none (newm, in the same file).
func Raise() {
	runtime.LockOSThread()
	const thread = 0 // the calling one
	// The system call returns 20 less the nice value, getpriority(2).
	if p, err := unix.Getpriority(unix.PRIO_PROCESS, thread); err != nil || 20-p <= Nice ||
		unix.Setpriority(unix.PRIO_PROCESS, thread, Nice) != nil {
		runtime.UnlockOSThread()
	}
}
