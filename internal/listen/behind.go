//go:build linux

package listen

import "golang.org/x/sys/unix"

// Behind says whether connections wait that already waited when it was last asked, while
// none was accepted: for lack of descriptors or memory, or because the loop gets no time
// to run. What is heard from them will be late.
func (l *Listener) Behind() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoll < 0 || l.closed {
		return false
	}
	// The epoll descriptor is ready itself while a port is (epoll(7)). If it cannot be
	// asked, nothing is reported.
	fds := []unix.PollFd{{Fd: int32(l.epoll), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	waits, rounds := err == nil && n > 0, l.rounds.Load()
	behind := waits && l.waited && rounds == l.asked
	l.waited, l.asked = waits, rounds
	return behind
}
