//go:build linux

package doctor

import (
	"fmt"
	"os"
	"testing"

	"github.com/doorward/doorward/internal/config"
)

// What a knock goes by is read as the daemon reads it, and each line that does not count
// is named.
func TestEquipped(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINq6kpRSHpckj7CVZnQe2YsZHClKOyJDUdaJ6DJUyNp/ alice\n"
	p := machine(t, map[string]string{"/etc/doorward/authorized_keys": key + "nonsense\n", "/etc/doorward/secrets": ""})
	c, err := config.Parse("f", []byte("[door.ssh]\nports = [\"22/tcp\"]\n[[door.ssh.knock]]\nkind = \"sealed\"\nport = 28511\none_way = true\n"+
		"secrets = \"/etc/doorward/secrets\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	keys, secrets := p.path("/etc/doorward/authorized_keys"), p.path("/etc/doorward/secrets")
	for path, mode := range map[string]os.FileMode{keys: 0o600, secrets: 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	daemon := &reader{name: "the user doorward", uid: os.Geteuid() + 1}
	identity := "problem: /etc/doorward/sealed.key: does not exist, and without the gateway's key nobody can knock > doorward keys identity /etc/doorward/sealed.key"
	open := "problem: /etc/doorward/secrets: may be read by everybody, and is a secret: allowed are its owner and its group: it is not used > chmod o= "
	want(t, p.equipped(&c.Doors[0], daemon), identity,
		fmt.Sprintf("problem: /etc/doorward/authorized_keys: the user doorward may not read it (-rw-------, owner %d, group %d), and knocks go by it"+
			" > chgrp doorward %s && chmod g+r ", os.Geteuid(), os.Getegid(), keys), open)
	want(t, p.equipped(&c.Doors[0], nil), identity,
		"problem: /etc/doorward/authorized_keys: line 2: ", "ok: /etc/doorward/authorized_keys: 1 key > ", open)
	want(t, p.needs(&c.Doors[0], daemon))

	want(t, timed(c, clockState{synced: true}))
	want(t, timed(c, clockState{}), "warning: clock: is not synchronised: single packets at door ssh count only within 5m of it > timedatectl")
	want(t, timed(sshDoor(t), clockState{}))
	want(t, once([]Finding{{OK, "a", "b", ""}, {OK, "a", "c", ""}, {OK, "a", "b", ""}}), "ok: a: b", "ok: a: c")
}
