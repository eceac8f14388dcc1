//go:build linux

// Package packaging is the files that bring doorward to a system, and says where
// they go. Its tests try them on a real one.
package packaging

import (
	"embed"
	"io/fs"
)

//go:embed doorward.service doorward.sysusers doorward.tmpfiles doorward.init doorward-dbus.conf
var files embed.FS

// Install brings the files to a system, and makes what they ask for. The
// programs and the configuration are the caller's to bring: write writes a file,
// run runs a program there.
func Install(write func(path, text string, mode fs.FileMode) error, run func(args ...string) error) error {
	for _, f := range []struct {
		from, to string
		mode     fs.FileMode
	}{
		{"doorward.service", "/usr/lib/systemd/system/doorward.service", 0o644},
		{"doorward.sysusers", "/usr/lib/sysusers.d/doorward.conf", 0o644},
		{"doorward.tmpfiles", "/usr/lib/tmpfiles.d/doorward.conf", 0o644},
		{"doorward.init", "/etc/init.d/doorward", 0o755},
		{"doorward-dbus.conf", "/usr/share/dbus-1/system.d/doorward.conf", 0o644},
	} {
		text, err := files.ReadFile(f.from)
		if err != nil {
			return err
		}
		if err := write(f.to, string(text), f.mode); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"systemd-sysusers"},
		{"systemd-tmpfiles", "--create", "doorward.conf"},
		{"systemctl", "daemon-reload"},
		{"busctl", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReloadConfig"},
	} {
		if err := run(args...); err != nil {
			return err
		}
	}
	return nil
}
