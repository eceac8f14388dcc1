//go:build linux

package service

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

func TestSessionsOfARealSSHServerLiveOn(t *testing.T) {
	nstest.Need(t, "sshd", "ssh", "ssh-keygen", "nsenter")
	server, visitor := nstest.New(t), nstest.New(t)
	nstest.Link(server, visitor, []string{"192.0.2.1/24"}, []string{"192.0.2.2/24"})
	dir := t.TempDir()
	key, hostKey, conf := filepath.Join(dir, "id"), filepath.Join(dir, "host"), filepath.Join(dir, "sshd_config")
	for _, k := range []string{key, hostKey} {
		server.Run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", k)
	}
	text := fmt.Sprintf("ListenAddress 192.0.2.1:2222\nHostKey %s\nAuthorizedKeysFile %s.pub\nPermitRootLogin yes\n"+
		"StrictModes no\nUsePAM no\nPidFile none\n", hostKey, key)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // the directory to which sshd changes its root
		t.Fatal(err)
	}
	sshd := func(args ...string) []string {
		return append([]string{"/usr/bin/nsenter", "--net=" + server.Path(), "--", "/usr/sbin/sshd", "-f", conf}, args...)
	}

	c := newCommand(t, sshd("-D"), nil, nil)
	pid := mustStart(t, c)
	echo, leave := nstest.Session(t, visitor.Command(t.Context(), "ssh", "-T", "-p", "2222", "-i", key, "-F", "none", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectionAttempts=20", "root@192.0.2.1", "cat"), "")
	echo("before")
	if err := c.Stop(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if runs(pid) {
		t.Error("sshd runs after Stop")
	}
	echo("after")
	leave()
}
