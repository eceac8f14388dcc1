//go:build linux

package packaging

import (
	"strings"

	"github.com/doorward/doorward/internal/nstest"
)

// sealedKnock is a second knock for the SSH server's door.
const sealedKnock = `
[[door.ssh.knock]]
kind = "sealed"
port = 41641
identity = "/etc/doorward/sealed.key"
keys = "/etc/doorward/authorized_keys"
`

// secrets describe the files beside the configuration: their owners, modes and sums.
const secrets = `cd /etc/doorward && stat -c '%n %a %U:%G' . *[!~] && sha256sum sealed.key authorized_keys`

// invites gives the door a sealed knock, and has the visitor enrol a key.
func (l *life) invites() {
	l.m.Run("doorward", "keys", "identity")
	l.m.Run("sh", "-c", `printf '%s' "$1" >>/etc/doorward/doorward.toml`, "sh", sealedKnock)
	l.m.Run("sh", "-c", "umask 027; echo '# nobody yet' >/etc/doorward/authorized_keys; chgrp doorward /etc/doorward/authorized_keys")
	l.m.Run("doorward", "apply")
	l.kept = l.m.Run("sh", "-c", secrets)
	for _, line := range []string{". 750 root:doorward", "doorward.toml 640 root:doorward", "sealed.key 640 root:doorward"} {
		if !strings.Contains(l.kept, line+"\n") {
			l.Errorf("in /etc/doorward is not %q:\n%s", line, l.kept)
		}
	}
	line := l.m.Run("doorward", "invite", "--for", "alice", "--door", "ssh", "--host", "192.0.2.1", "--quiet")
	l.visits("accept", "--key", l.key, "--name", "gate", strings.TrimSpace(line))
	l.m.Run("doorward", "close", "ssh")
	l.dark()
	l.seals("after the invite")
	l.m.Run("systemctl", "restart", "doorward.service")
	l.dark()
	l.seals("after a restart")
}

// visits runs the visitor's doorward.
func (l *life) visits(args ...string) {
	l.Helper()
	cmd := l.visitor.Command(l.Context(), l.client, args...)
	cmd.Env = l.home
	if out, err := cmd.CombinedOutput(); err != nil {
		l.Fatalf("the visitor's doorward %s: %v\n%s", args[0], err, out)
	}
}

// seals knocks with the key that was enrolled, logs in, and has the door closed again.
// The files that the knock goes by are as they were.
func (l *life) seals(when string) {
	l.Helper()
	if is := l.m.Run("sh", "-c", secrets); is != l.kept {
		l.Errorf("%s there is in /etc/doorward\n%s\nand not as before\n%s", when, is, l.kept)
	}
	l.visits("knock", "gate", "ssh", "--wait", "22")
	logsIn(l.T, l.visitor, l.key)
	nstest.Eventually(l.T, "status names whom the door is open for, "+when, func() bool {
		return strings.Contains(l.m.Run("doorward", "status"), "alice")
	})
	l.m.Run("doorward", "close", "ssh")
	l.dark()
}
