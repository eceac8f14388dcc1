package control

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// The login of a process that has ended is not known: another process may have its number.
func TestWhoLoggedIn(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: to be another login")
	}
	p := exec.Command("/bin/sh", "-c", "echo 1234567 > /proc/self/loginuid && echo done && exec cat")
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Wait()
	defer in.Close()
	if _, err := out.Read(make([]byte, 5)); err != nil {
		t.Skip("a kernel without audit has no logins")
	}
	pid := int32(p.Process.Pid)
	fd, err := unix.PidfdOpen(p.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if got := loginOf(pid, fd); got == nil || *got != 1234567 {
		t.Errorf("who logged in is %v, want 1234567", got)
	}
	in.Close()
	for n := 0; n == 0; { // it has ended, but its files in /proc are there until it is waited for
		if n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	if got := loginOf(pid, fd); got != nil {
		t.Errorf("who logged in is %d for a process that has ended, want it not known", *got)
	}
}
