//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/control"
)

var errNone = errors.New("there is none")

// Killed at any moment, also while it starts and while it gives grants, the
// daemon leaves a fence through which no stranger comes, and starts again.
func TestKilledAtRandomMoments(t *testing.T) {
	s := newSite(t, "sshd", "ssh")
	s.serve(s.server, ":8080")
	door, ssh := s.sshDoor("idle = \"10m\"\nlogins = \"off\"", touchKnock)
	web := strings.NewReplacer("59000", "59010", "59001", "59011", "59002", "59012").Replace(webDoor(`open_for = "1s"`, touchKnock))
	s.start(door + web)
	s.knock(s.visitor, gate4)
	s.state("ssh", "open")
	in := s.login(ssh, s.visitor, gate4)
	begun := time.Now()
	for n := 0; n < 12 && time.Since(begun) < 40*time.Second; n++ {
		moment := time.Duration(rand.N(int64(120 * time.Millisecond)))
		knocks := make(chan struct{})
		go func() { // ends by itself: each dial is bounded
			defer close(knocks)
			for range 20 {
				for _, port := range []string{"59010", "59012"} {
					if c, err := s.dial(s.visitor, gate4, port, 50*time.Millisecond); err == nil {
						c.Close()
					}
				}
			}
		}()
		time.Sleep(moment)
		s.must(s.gate.Kill())
		s.refuses(s.stranger, gate4, "8080")
		s.refuses(s.stranger, gate6, "22")
		<-knocks
		// Sometimes the next one is killed while it starts.
		if n%3 == 2 {
			p, err := s.server.Start(bin+"/doorwardd", "-c", s.config)
			s.must(err)
			time.Sleep(moment / 2)
			s.must(p.Kill())
			s.refuses(s.stranger, gate4, "8080")
		}
		s.start("")
		s.lives(in)
		if d := s.door("ssh"); d.State != "open" {
			t.Fatalf("killed after %s: door ssh came back %s: %s", moment, d.State, d.Reason)
		}
		s.becomes("ssh", "its service seen to run", func(d *control.Door) bool { return d.State == "open" && d.Running })
		s.refuses(s.stranger, gate4, "8080")
	}
	s.becomes("web", "no grant", func(d *control.Door) bool { return len(d.Grants) == 0 })
	s.refuses(s.visitor, gate4, "8080")
}

func TestPenaltiesSurvive(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor("", touchKnock))
	s.touch(s.visitor, gate4, "59001")
	s.penalised("web", visitor4)
	until := s.door("web").Penalties[0].Until
	for _, end := range []func(*lab.Doorward) error{
		func(d *lab.Doorward) error { return d.Stop() },
		func(d *lab.Doorward) error { return d.Kill() },
	} {
		s.must(end(s.gate))
		s.start("")
		s.penalised("web", visitor4)
		if got := s.door("web").Penalties[0].Until; !got.Equal(until) {
			t.Errorf("the penalty's end moved from %s to %s", until, got)
		}
		s.knock(s.visitor, gate4)
		s.refuses(s.visitor, gate4, "8080")
	}
	s.operator("arm", "web")
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
}

func TestSecondDaemon(t *testing.T) {
	s := newSite(t)
	s.start(webDoor("", touchKnock))
	s.says(s.fails("-c", s.config), fmt.Sprintf(`another doorwardd \(process %d\)`, s.gate.PID))
	s.knock(s.visitor, gate4)
	s.state("web", "open")
}

func TestListenerPortTaken(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":59001")
	s.serve(s.server, ":8080")
	s.configure(webDoor("", touchKnock))
	// Guarding goes before listening: the doors are fenced whatever becomes of
	// the listener, and the operator is told which port it is.
	p, err := s.server.Start(bin+"/doorwardd", "-c", s.config)
	s.must(err)
	s.must(p.Says(t.Context(), "59001", soon))
	s.says(p.Output(), `59001.*(in use|taken)`)
	s.until("a fence", func() error {
		_, err := s.server.Run(t.Context(), "nft", "list", "table", "inet", "doorward")
		return err
	})
	s.refuses(s.stranger, gate4, "8080")
}

func TestCorruptStoreIsSetAside(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor("", touchKnock))
	s.must(s.gate.Kill())
	files, err := os.ReadDir(s.lab.Path("state"))
	s.must(err)
	damaged := ""
	for _, f := range files {
		if f.Name() == "doorward.state.0" {
			damaged = s.lab.Path("state/" + f.Name())
		}
	}
	junk := strings.Repeat("no database ", 2000)
	s.must(os.WriteFile(damaged, []byte(junk), 0o600))
	s.start("")
	s.refuses(s.stranger, gate4, "8080")
	s.operator("status") // what it shows is on disk, and what the trail has of the start with it
	s.says(s.operator("log"), `was moved to`)
	s.says(s.operator("log", "--verify"), `are intact`)
	kept := false
	files, err = os.ReadDir(s.lab.Path("state"))
	s.must(err)
	for _, f := range files {
		b, _ := os.ReadFile(s.lab.Path("state/" + f.Name()))
		kept = kept || string(b) == junk
	}
	if !kept {
		t.Errorf("the damaged store is gone; the state has %v", files)
	}
}

// With a full disk nothing is remembered, which the operator is told; the doors are
// guarded all the same, and nobody comes in who may not.
func TestDiskFull(t *testing.T) {
	s := newSite(t, "mount")
	s.serve(s.server, ":8080")
	state := s.lab.Path("state")
	s.must(os.Mkdir(state, 0o700))
	s.run(s.server, "mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", state)
	s.start(webDoor("", touchKnock))
	s.server.Run(t.Context(), "dd", "if=/dev/zero", "of="+state+"/fill", "bs=4k") // until it is full
	s.touch(s.stranger, gate4, "59001")
	s.penalised("web", stranger4)
	for range 600 { // enough records for the store to want to grow
		s.knock(s.visitor, gate4)
	}
	s.until("a warning in status", func() error {
		st, err := s.gate.Status(t.Context())
		if err == nil && !strings.Contains(strings.Join(st.Warnings, "\n"), "no space left on device") {
			err = fmt.Errorf("the warnings are %q", st.Warnings)
		}
		return err
	})
	s.refuses(s.stranger, gate4, "8080")
	s.run(s.server, "rm", state+"/fill")
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
	s.until("no warning", func() error {
		st, err := s.gate.Status(t.Context())
		if err == nil && strings.Contains(strings.Join(st.Warnings, "\n"), "no space left") {
			err = fmt.Errorf("the warnings are %q", st.Warnings)
		}
		return err
	})
	s.must(s.gate.Kill())
	s.start("")
	s.penalised("web", stranger4) // what could not be written then was written later
	s.refuses(s.stranger, gate4, "8080")
}

// S12: what died is brought back while the door says that it should run.
func TestServiceThatDies(t *testing.T) {
	s := newSite(t, "sshd", "ssh", "pgrep")
	door, ssh := s.sshDoor("idle = \"10m\"\nlogins = \"off\"", touchKnock)
	s.start(door)
	s.knock(s.visitor, gate4)
	s.state("ssh", "open")
	in := s.login(ssh, s.visitor, gate4)
	listener := func() (pid int) {
		out := s.run(s.server, "ss", "-Hltnp", "sport = :22")
		if _, after, ok := strings.Cut(out, "pid="); ok {
			fmt.Sscanf(after, "%d", &pid)
		}
		return pid
	}
	first := listener()
	s.must(syscall.Kill(first, syscall.SIGKILL))
	s.until("another sshd", func() error {
		if pid := listener(); pid == 0 || pid == first {
			return fmt.Errorf("the listener is %d, the one killed was %d", pid, first)
		}
		return nil
	})
	s.lives(in)
	s.knock(s.visitor, gate4)
	out := s.run(s.visitor, "ssh", ssh.Client(gate4, 5, "echo", "in")...)
	if out != "in\n" {
		t.Errorf("ssh printed %q", out)
	}
}

func TestServiceThatCannotStart(t *testing.T) {
	s := newSite(t)
	s.start(fmt.Sprintf("[door.ssh]\nports = [\"22/tcp\"]\n[door.ssh.service]\nstart = [%q]\ntimeout = \"2s\"\n"+
		"[door.ssh.presence]\nlogins = \"off\"\n[[door.ssh.knock]]\n%s", program(t, "false"), touchKnock))
	s.knock(s.visitor, gate4)
	s.until("the failure in the trail", func() error {
		if out := s.operator("log"); !strings.Contains(out, "exit status 1") {
			return fmt.Errorf("the trail has\n%s", out)
		}
		return nil
	})
	s.state("ssh", "dark")
	if d := s.door("ssh"); len(d.Grants) > 0 {
		t.Errorf("a dark door has the grants %v", d.Grants)
	}
}

// program is the path of a program.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Thousands of connections that never hang up are nothing to wait for.
func TestListenersAreNotHeld(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.start(webDoor("", touchKnock))
	for range 10_000 {
		c, err := s.dial(s.stranger, gate4, "59000", time.Second)
		if err == nil {
			defer c.Close() // held until the test ends
		}
	}
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
	s.refuses(s.stranger, gate4, "8080")
}

func TestReload(t *testing.T) {
	s := newSite(t)
	s.serve(s.server, ":8080")
	s.serve(s.server, ":9090")
	s.start(webDoor(`open_for = "1m"`, touchKnock))
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")

	s.configure(webDoor(`open_fro = "1m"`, touchKnock))
	s.hup()
	s.must(s.gate.Says(t.Context(), "open_fro", soon))
	s.admits(s.visitor, gate4, "8080")
	s.refuses(s.stranger, gate4, "8080")

	admin := strings.NewReplacer("door.web", "door.admin", "8080", "9090", "5900", "5901").Replace(webDoor("", touchKnock))
	s.configure(webDoor(`open_for = "1m"`, touchKnock) + admin)
	s.hup()
	s.until("a second door", func() error {
		_, err := s.gate.Door(t.Context(), "admin")
		return err
	})
	s.refuses(s.stranger, gate4, "9090")
	s.admits(s.visitor, gate4, "8080") // its grant lives through the reload
	s.touch(s.stranger, gate4, "59010", "59012")
	s.admits(s.stranger, gate4, "9090")
}
