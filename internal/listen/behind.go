//go:build linux

package listen

import "golang.org/x/sys/unix"

// Behind says whether connections wait that already waited when it was last
// asked, while none was accepted: for want of descriptors or memory, or because
// the loop gets no time to run. What is heard of them will be late.
func (e *Listener) Behind() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.epoll < 0 || e.closed {
		return false
	}
	// The epoll descriptor is ready itself while a port is (epoll(7)). If it
	// cannot be asked, nothing is known.
	fds := []unix.PollFd{{Fd: int32(e.epoll), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	waits, rounds := err == nil && n > 0, e.rounds.Load()
	behind := waits && e.waited && rounds == e.asked
	e.waited, e.asked = waits, rounds
	return behind
}
