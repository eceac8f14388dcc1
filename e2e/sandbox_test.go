//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/doorward/doorward/e2e/lab"
)

// seccomp is a process's seccomp mode: 0 for none, 2 for a filter
// (proc_pid_status(5)).
func (s *site) seccomp(pid int) int64 {
	s.t.Helper()
	mode, err := lab.StatusField(fmt.Sprintf("/proc/%d/status", pid), "Seccomp")
	s.must(err)
	return mode
}

// launcher is the pid of the daemon's launcher, 0 for none.
func (s *site) launcher() (pid int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range stats {
		text, _ := os.ReadFile(file)
		if strings.Contains(string(text), fmt.Sprintf("\nPPid:\t%d\n", s.gate.PID)) {
			pid, _ = strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return pid
}

// The daemon that strangers talk to is locked in; what it has started is not.
func TestLockedInBesideItsCommands(t *testing.T) {
	s := newSite(t, "sshd", "ssh", "ss", "sleep")
	door, ssh := s.sshDoor("logins = \"off\"\nidle = \"10m\"", touchKnock)
	s.start(door)
	s.knock(s.visitor, gate4)
	s.state("ssh", "open")
	if out := s.run(s.visitor, "ssh", ssh.Client(gate4, 5, "echo", "in")...); out != "in\n" {
		t.Errorf("ssh printed %q", out)
	}
	const filtered, not = 2, 0
	launcher := s.launcher()
	if got := s.seccomp(s.gate.PID); got != filtered {
		t.Errorf("the daemon's seccomp mode is %d", got)
	}
	if launcher == 0 {
		t.Fatal("it has no launcher")
	}
	if got := s.seccomp(launcher); got != not {
		t.Errorf("the launcher's seccomp mode is %d", got)
	}

	// Commands that a later configuration names can be started, too.
	s.configure(door + "\n" + strings.NewReplacer("door.web", "door.nap", "8080", "9090", "5900", "5901").Replace(
		webDoor("[door.web.service]\nstart = [\""+program(t, "sleep")+"\", \"1000\"]", touchKnock)))
	s.hup()
	s.until("a second door", func() error {
		_, err := s.gate.Door(t.Context(), "nap")
		return err
	})
	s.touch(s.visitor, gate4, "59010", "59012")
	s.state("nap", "open")

	// Without its launcher the daemon could not run commands: it exits.
	s.must(syscall.Kill(launcher, syscall.SIGKILL))
	<-s.gate.Ended()
	s.must(s.gate.Says(t.Context(), "the launcher of doors' commands has ended", soon))
	s.refuses(s.stranger, gate4, "22")
	s.start("")
	s.state("nap", "open") // the daemon has taken over what runs
	s.state("ssh", "open")
	s.operator("close", "nap")
	s.state("nap", "dark")
}

// Without commands in the configuration at the start there is no launcher, and a later
// configuration that has some is refused, with what to type.
func TestCommandsThatComeLater(t *testing.T) {
	s := newSite(t, "sshd")
	s.start(webDoor("", touchKnock))
	if pid := s.launcher(); pid != 0 {
		t.Errorf("it has a launcher (process %d)", pid)
	}
	door, _ := s.sshDoor("logins = \"off\"", touchKnock)
	s.configure(door)
	s.hup()
	s.must(s.gate.Says(t.Context(), `door \"ssh\" has commands, which cannot be started any more: the sandbox was set up `+
		`when the daemon started; systemctl restart doorward`, soon))
	if _, err := s.gate.Door(t.Context(), "web"); err != nil {
		t.Errorf("the door before is gone: %v", err)
	}
}
