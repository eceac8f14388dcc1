//go:build linux

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// A state directory that cannot be written is no reason to leave a port open. Each case
// begins with a machine that has no fence.
func TestAStateThatTakesNothing(t *testing.T) {
	for name, spoil := range map[string]func(s *site, state string){
		"read-only": func(s *site, state string) {
			s.run(s.server, "mount", "-o", "remount,ro", state)
		},
		"full at the first start": func(s *site, state string) {
			s.server.Run(s.t.Context(), "dd", "if=/dev/zero", "of="+state+"/fill", "bs=4k") // until it is full
			s.run(s.server, "sh", "-c", "i=0; while touch "+state+"/inode$i; do i=$((i+1)); done 2>/dev/null; true")
		},
		"damaged, and read-only": func(s *site, state string) {
			s.run(s.server, "sh", "-c", "yes no database | head -c 20000 > "+state+"/doorward.state.0")
			s.run(s.server, "mount", "-o", "remount,ro", state)
		},
		"not a directory": func(s *site, state string) {
			s.run(s.server, "umount", state)
			s.must(os.Remove(state))
			s.must(os.WriteFile(state, nil, 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "mount")
			s.serve(s.server, ":8080")
			state := s.lab.Path("state")
			s.must(os.Mkdir(state, 0o700))
			s.run(s.server, "mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=16,mode=700", "tmpfs", state)
			spoil(s, state)
			s.start(webDoor("", touchKnock))
			s.refuses(s.stranger, gate4, "8080")
			st, err := s.gate.Status(t.Context())
			s.must(err)
			if !strings.Contains(strings.Join(st.Warnings, "\n"), "nothing is saved: a restart would forget") {
				t.Errorf("the warnings are %q", st.Warnings)
			}
			s.touch(s.stranger, gate4, "59001")
			s.penalised("web", stranger4)
			s.knock(s.visitor, gate4)
			s.admits(s.visitor, gate4, "8080")
			s.refuses(s.stranger, gate4, "8080")
			s.says(s.operator("log"), `nothing is saved until the daemon is restarted`)
			s.says(s.gate.Output(), `"level":"ERROR","msg":"cannot keep state`)
			s.says(s.fails("-c", s.config), fmt.Sprintf(`another doorwardd \(process %d\)`, s.gate.PID))
			s.admits(s.visitor, gate4, "8080") // the second one has changed nothing

			// Killed and started again: dark, and guarded all the while.
			s.must(s.gate.Kill())
			s.start("")
			s.refuses(s.visitor, gate4, "8080")
			s.refuses(s.stranger, gate4, "8080")
		})
	}
}

// Nor is a directory of the control socket that takes nothing.
func TestNoControlSocket(t *testing.T) {
	s := newSite(t, "mount")
	s.serve(s.server, ":8080")
	run := s.lab.Path("run")
	s.must(os.Mkdir(run, 0o755))
	s.run(s.server, "mount", "-t", "tmpfs", "-o", "ro", "tmpfs", run)
	config, err := s.lab.Write("doorward.toml", fmt.Sprintf("[gateway]\nstate = %q\ncontrol = %q\n%s",
		s.lab.Path("state"), run+"/control.sock", webDoor("", touchKnock)))
	s.must(err)
	p, err := s.server.Start(bin+"/doorwardd", "-c", config)
	s.must(err)
	s.must(p.Says(t.Context(), "ready: the doors are guarded", soon))
	s.says(p.Output(), `"level":"ERROR","msg":"operators get no answer.*read-only file system`)
	s.refuses(s.stranger, gate4, "8080")
	s.knock(s.visitor, gate4)
	s.admits(s.visitor, gate4, "8080")
	s.says(s.fails("-c", config), `another doorwardd`)
	s.admits(s.visitor, gate4, "8080")
}

// A service that is a command runs all the same.
func TestACommandWithoutAStateDirectory(t *testing.T) {
	s := newSite(t, "mount", "sshd", "ssh")
	state := s.lab.Path("state")
	s.must(os.Mkdir(state, 0o700))
	s.run(s.server, "mount", "-t", "tmpfs", "-o", "ro,mode=700", "tmpfs", state)
	door, ssh := s.sshDoor("logins = \"off\"", touchKnock)
	s.start(door)
	s.refuses(s.visitor, gate4, "22")
	s.knock(s.visitor, gate4)
	s.state("ssh", "open")
	s.login(ssh, s.visitor, gate4)
	s.refuses(s.stranger, gate4, "22")
}
