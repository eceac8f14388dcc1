//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/doorward/doorward/e2e/lab"
	"github.com/doorward/doorward/internal/systemdtest"
	"github.com/doorward/doorward/packaging"
)

const (
	panelPort = 7070
	vaultPort = 7171
	metrics   = "127.0.0.1:9472"
)

// config is the daemon's. Port 8081 is for connections that live for long; the
// vault's knock is for somebody to guess.
const config = `[gateway]
metrics = "` + metrics + `"

[door.vault]
ports = ["7171/tcp"]
open_for = "2s"
[door.vault.presence]
logins = "off"
[[door.vault.knock]]
kind = "touch"
listen = [59100, 59101, 59102, 59103, 59104, 59105, 59106, 59107, 59108, 59109, 59110, 59111]
touch = [59107, 59102, 59110, 59100, 59105]
order = "given"
within = "1s"
penalty = "4s"

[door.ssh]
ports = ["22/tcp"]
open_for = "3s"
service = { unit = "ssh.service" }
[door.ssh.presence]
idle = "4s"
logins = ["/var/log/auth.log", "/var/log/auth.log.1"]
[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
within = "1s"
penalty = "4s"

[door.web]
ports = ["8080/tcp", "8081/tcp"]
open_for = "2s"
always = ["203.0.113.0/24", "2001:db8:a::/48"]
[door.web.presence]
logins = "off"
[[door.web.knock]]
kind = "touch"
listen = [59010, 59011, 59012]
touch = [59012, 59010]
order = "given"
within = "1s"
penalty = "4s"

[door.one]
ports = ["9090/tcp"]
open_for = "4s"
single_use = true
[door.one.presence]
logins = "off"
[[door.one.knock]]
kind = "touch"
listen = [59020, 59021, 59022]
touch = [59020, 59022]
within = "1s"
penalty = "4s"

[door.game]
ports = ["60000-60010/udp"]
open_for = "2s"
refuse = "reject"
[door.game.presence]
logins = "off"
[[door.game.knock]]
kind = "touch"
listen = [59040, 59041, 59042]
touch = [59040, 59041]
within = "1s"
penalty = "4s"

[door.echo]
ports = ["8888/tcp"]
open_for = "3s"
service = { start = ["/usr/bin/systemd-socket-activate", "--listen=8888", "--accept", "--inetd", "/usr/bin/cat"] }
[door.echo.presence]
idle = "4s"
logins = "off"
[[door.echo.knock]]
kind = "touch"
listen = [59060, 59061, 59062]
touch = [59060, 59061]
within = "1s"
penalty = "4s"

[door.safe]
ports = ["7272/tcp"]
open_for = "2s"
[door.safe.presence]
logins = "off"
[[door.safe.knock]]
kind = "sealed"
port = 41641

[door.attic]
ports = ["7373/tcp"]
open_for = "2s"
[door.attic.presence]
logins = "off"
[[door.attic.knock]]
kind = "sealed"
port = 41641

[door.cellar]
ports = ["7474/tcp"]
open_for = "2s"
[door.cellar.presence]
logins = "off"
[[door.cellar.knock]]
kind = "sealed"
port = 41642
identity = "/etc/doorward/cellar-sealed.key"
keys = "/etc/doorward/cellar-authorized_keys"

[door.panel]
ports = ["7070/tcp"]
open_for = "4s"
service = { unit = "panel.service" }
[door.panel.presence]
idle = "4s"
logins = "off"
[[door.panel.knock]]
kind = "touch"
listen = [59030, 59031, 59032]
touch = [59030, 59032]
within = "1s"
judge = "every 2s"
penalty = "4s"
scope = "door"
`

// extra is the door that a configuration which is applied has more.
const extra = `
[door.extra]
ports = ["7777/tcp"]
[door.extra.presence]
logins = "off"
[[door.extra.knock]]
kind = "touch"
listen = [59050, 59051]
touch = [59050]
`

// settings are the files below /etc/systemd that are beside the distribution's.
// The panel echoes. What dies or is started often is the campaign's to see, not
// for systemd to mend or to forbid.
func settings() map[string]string {
	const asOften = "[Unit]\nStartLimitIntervalSec=0\n"
	return map[string]string{
		"system/doorward.service.d/campaign.conf": "[Service]\nRestart=no\n" +
			"StandardOutput=append:" + daemonLog + "\nStandardError=append:" + daemonLog + "\n",
		"system/ssh.service.d/campaign.conf":    asOften + "[Service]\nRestart=no\n",
		"system/dbus.service.d/campaign.conf":   asOften,
		"system/polkit.service.d/campaign.conf": asOften,
		"system/panel.service": asOften + "[Service]\nType=exec\nKillMode=process\n" +
			"ExecStart=systemd-socket-activate --listen=7070 --accept --inetd cat\n",
		"journald.conf.d/campaign.conf": "[Journal]\nForwardToSyslog=yes\n",
	}
}

// machine is a booted Debian in the network of a host of the lab: with the daemon
// in its unit, locked in, and the services of its doors in theirs. Its files are
// reached from here through /proc.
type machine struct {
	*systemdtest.System
}

const (
	daemonUnit = "doorward.service"
	daemonLog  = "/var/log/doorwardd.log"
	stateDir   = "/var/lib/doorward"
	// stateDisk is the size of the state's disk.
	stateDisk = "48m"
)

// bootMachine boots the server with the programs of the directory bin. Nothing
// of it runs yet that belongs to a door.
func bootMachine(ctx context.Context, l *lab.Lab, host *lab.Host, bin string, ssh *lab.SSH) (*machine, error) {
	system, err := systemdtest.Start(ctx, systemdtest.Options{
		Network: host.Network(), Console: l.Path("console.log"), Logf: logf,
		Binds: []string{filepath.Join(bin, "doorwardd") + ":/usr/sbin/doorwardd", filepath.Join(bin, "doorward") + ":/usr/bin/doorward"},
	})
	if err != nil {
		return nil, err
	}
	m := &machine{system}
	if err := m.install(ctx, l, host, ssh); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *machine) install(ctx context.Context, l *lab.Lab, host *lab.Host, ssh *lab.SSH) error {
	run := func(args ...string) error { _, err := m.Run(ctx, args[0], args[1:]...); return err }
	for name, text := range settings() {
		if err := m.Write("/etc/systemd/"+name, text, 0o644); err != nil {
			return err
		}
	}
	// Its sshd has the lab's keys, at the same place.
	for _, f := range []struct{ from, to string }{
		{l.Path("host_key"), l.Path("host_key")}, {l.Path("user_key.pub"), l.Path("user_key.pub")},
		{ssh.Config, "/etc/ssh/sshd_config"},
	} {
		text, err := os.ReadFile(f.from)
		if err != nil {
			return err
		}
		if err := m.Write(f.to, string(text), 0o600); err != nil {
			return err
		}
	}
	if err := packaging.Install(m.Write, run); err != nil {
		return err
	}
	if err := host.Syslog(m.Path("/run/systemd/journal/syslog"), m.authLog()); err != nil {
		return err
	}
	if err := m.Write("/etc/doorward/doorward.toml", config, 0o640); err != nil {
		return err
	}
	for path, text := range safeFiles() {
		if err := m.Write(path, text, 0o640); err != nil {
			return err
		}
	}
	for _, line := range []string{
		"chgrp adm /var/log/auth.log", "chgrp -R doorward /etc/doorward",
		"mount -t tmpfs -o mode=700,size=" + stateDisk + " tmpfs /var/lib/doorward", "chown doorward:doorward /var/lib/doorward",
		"systemctl restart systemd-journald.service", "systemctl disable --now ssh.service",
		"doorward polkit --install",
		"systemctl restart polkit.service", // by itself it rereads rules only at some later moment
	} {
		if err := run(strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// Files of the server as they are reached from here.
func (m *machine) configPath() string { return m.Path("/etc/doorward/doorward.toml") }
func (m *machine) state() string      { return m.Path(stateDir) }
func (m *machine) authLog() string    { return m.Path("/var/log/auth.log") }
func (m *machine) socket() string     { return m.Path("/run/doorward/control.sock") }

// systemctl gives systemd an order. It needs no D-Bus: root's go to systemd itself.
func (m *machine) systemctl(ctx context.Context, args ...string) (string, error) {
	out, err := m.Run(ctx, "systemctl", args...)
	return strings.TrimSpace(out), err
}
