//go:build linux

package systemdtest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

func TestMachinesBootSideBySideAndLeaveNothing(t *testing.T) {
	var names []string
	t.Run("boot", func(t *testing.T) {
		file := t.TempDir() + "/brought"
		if err := os.WriteFile(file, []byte("from outside"), 0o644); err != nil {
			t.Fatal(err)
		}
		ns := nstest.New(t)
		a, b := Boot(t, ns, file+":/brought"), Boot(t, nstest.New(t))
		names = []string{a.Name, b.Name}

		if got := a.Run("cat", "/brought"); got != "from outside" {
			t.Errorf("the bound file has %q", got)
		}
		a.Write("/etc/mine", "a", 0o600)
		if _, err := os.Stat(b.Path("/etc/mine")); err == nil {
			t.Error("one machine sees what the other has written")
		}
		if got := a.Run("stat", "-c", "%a", "/etc/mine"); got != "600\n" {
			t.Errorf("the mode of a written file is %q", got)
		}
		if !strings.Contains(ns.Run("ss", "-Hltn", "sport = :22"), ":22") {
			t.Error("the machine's sshd does not listen in the namespace that it was given")
		}
		// Units of the same name do not affect each other.
		a.Run("systemctl", "kill", "--signal=KILL", "--kill-whom=all", "ssh.service")
		if got := b.Run("systemctl", "is-active", "ssh.service"); got != "active\n" {
			t.Errorf("ssh.service of the other machine is %q", got)
		}
		out, err := a.CommandAs(t.Context(), "nobody", "sh", "-c", "id -u; cat /etc/mine").CombinedOutput()
		if err == nil || !strings.HasPrefix(string(out), "65534\n") {
			t.Errorf("as nobody: %v, %q", err, out)
		}
	})
	if t.Failed() {
		return // or skipped
	}
	for _, h := range hierarchies() {
		for _, n := range names {
			if _, err := os.Stat(h + "/" + n); err == nil {
				t.Errorf("cgroup %q of %q is left", n, h)
			}
		}
	}
}

// childEnv, if set, makes TestKilledTestsMachineIsEnded the test that is killed.
const childEnv = "DOORWARD_SYSTEMDTEST_CHILD"

func TestKilledTestsMachineIsEnded(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		ns := nstest.New(t)
		fmt.Println("machine", ns.Name, Boot(t, ns).PID)
		select {}
	}
	nstest.Need(t, "systemd-nspawn", "debootstrap")
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var ns string
	var pid int
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		fmt.Sscanf(lines.Text(), "machine %s %d", &ns, &pid)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if pid == 0 {
		t.Fatal("the other test booted no machine")
	}
	if out, err := exec.Command("ip", "netns", "delete", ns).CombinedOutput(); err != nil {
		t.Errorf("delete namespace %q: %v: %s", ns, err, out)
	}
	Boot(t, nstest.New(t))
	for end := time.Now().Add(haltLimit); ; time.Sleep(look) {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the machine of a killed test still runs")
		}
	}
}
