//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/priority"
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
	for _, pid = range children(s.gate.PID) {
	}
	return pid
}

// children are the processes that a process has started.
func children(parent int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range stats {
		text, _ := os.ReadFile(file)
		if strings.Contains(string(text), fmt.Sprintf("\nPPid:\t%d\n", parent)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// nices are the nice values of a process's threads, and how many have each.
func (s *site) nices(pid int) map[int]int {
	s.t.Helper()
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	s.must(err)
	count := make(map[int]int)
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		nice, err := strconv.Atoi(strings.Fields(rest)[19-3]) // field 19, proc_pid_stat(5)
		s.must(err)
		count[nice]++
	}
	return count
}

// niceness is the nice value that the tests are run with, and with them the daemon.
func niceness(s *site) int {
	s.t.Helper()
	p, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	s.must(err)
	return 20 - p // getpriority(2): as the system call returns it
}

// The threads that visitors wait for run before others, the loop's and the listener's two,
// as far as that is allowed; nothing else does, above all not what the daemon starts.
func TestOnlyFewThreadsComeFirst(t *testing.T) {
	s := newSite(t, "sleep")
	// As the unit has it (LimitNICE=). Where nobody may, the daemon does without.
	raised, ordinary := 3, niceness(s)
	if err := unix.Setrlimit(unix.RLIMIT_NICE, &unix.Rlimit{Cur: 20 - priority.Nice, Max: 20 - priority.Nice}); err != nil {
		raised = 0
	}
	nap := "[door.web.service]\nstart = [\"" + program(t, "sleep") + "\", \"1000\"]"
	s.start(webDoor(nap, touchKnock))
	for i := range 5 { // each has the fence guard the door anew
		s.configure(webDoor(fmt.Sprintf("open_for = \"%ds\"\nsingle_use = %v\n", 60+i, i%2 == 0)+nap, touchKnock))
		s.hup()
		s.until("a change in use", func() error {
			st, err := s.gate.Status(t.Context())
			if err == nil && st.Events["applied"] <= uint64(i) {
				err = errors.New("not yet")
			}
			return err
		})
	}
	s.knock(s.visitor, gate4)
	s.state("web", "open")
	s.until("the others to have no priority", func() error {
		got := s.nices(s.gate.PID)
		if got[ordinary] == 0 || got[priority.Nice] != raised || len(got) > 2 {
			return fmt.Errorf("threads by nice value: %v, want %d with %d and all others with %d", got, raised, priority.Nice, ordinary)
		}
		return nil
	})
	launcher := s.launcher()
	started := append(children(launcher), launcher)
	if launcher == 0 || len(started) < 2 {
		t.Fatalf("the daemon has started %v", started)
	}
	for _, pid := range started {
		if got := s.nices(pid); got[ordinary] == 0 || len(got) != 1 {
			t.Errorf("process %d, which the daemon has started, has threads by nice value: %v, want %d for all", pid, got, ordinary)
		}
		var limit unix.Rlimit
		s.must(unix.Prlimit(pid, unix.RLIMIT_NICE, nil, &limit))
		if limit.Cur != 0 || limit.Max != 0 {
			t.Errorf("process %d may raise its priority: %+v", pid, limit)
		}
	}
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
