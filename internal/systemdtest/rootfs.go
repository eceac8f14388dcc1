//go:build linux

package systemdtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The system that is booted. libpam-systemd is named although openssh-server
// wants it anyway: polkitd needs a "logind", which is a virtual package, and
// debootstrap finds no provider of those by itself.
const (
	suite    = "bookworm"
	packages = "systemd,systemd-sysv,libpam-systemd,dbus,polkitd,openssh-server,nftables,iproute2"
	stamp    = "etc/doorward-test-recipe" // in the tree: what it was made from
	recipe   = suite + " " + packages + "\n"
)

// buildLimit is how long making the tree may take; about a minute is usual.
const buildLimit = 8 * time.Minute

func cacheDir() string {
	if d := os.Getenv("DOORWARD_CACHE"); d != "" {
		return d
	}
	return "/var/cache/doorward-test"
}

// rootfs returns the cached tree of a Debian system, which nobody may write to.
// It makes the tree when there is none or one of another recipe; processes that
// want it meanwhile wait.
func rootfs(ctx context.Context, logf func(string, ...any)) (string, error) {
	dir := cacheDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	root := filepath.Join(dir, suite)
	lock, err := os.OpenFile(root+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close() // and with it the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %q: %w", lock.Name(), err)
	}
	if made, err := os.ReadFile(filepath.Join(root, stamp)); err == nil && string(made) == recipe {
		return root, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	logf("making a Debian system for tests in %s, once; it takes a minute or two", root)
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	return root, build(ctx, root)
}

// build makes the tree beside its place and moves it there when it is whole.
func build(ctx context.Context, root string) error {
	tmp, log := root+".tmp", root+".log"
	if err := removeTree(ctx, tmp, root); err != nil {
		return err
	}
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer out.Close()
	// In a mount namespace of its own, so that what debootstrap mounts is gone
	// with it however it ends. Nothing of this machine's environment may leak
	// in; SYSTEMD_OFFLINE keeps maintainer scripts from its systemd.
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation=private", "--",
		"debootstrap", "--variant=minbase", "--include="+packages, suite, tmp)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root",
		"DEBIAN_FRONTEND=noninteractive", "SYSTEMD_OFFLINE=1"}
	for _, name := range []string{"http_proxy", "https_proxy"} {
		if v := os.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("debootstrap %s: %w; see %s and %s/debootstrap/debootstrap.log", suite, err, log, tmp)
	}
	if err := finish(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, root)
}

// finish takes out what no test needs and signs the tree.
func finish(tree string) error {
	debs, err := filepath.Glob(filepath.Join(tree, "var/cache/apt/archives/*.deb"))
	if err != nil {
		return err
	}
	for _, d := range debs {
		if err := os.Remove(d); err != nil {
			return err
		}
	}
	// Empty, so that every boot makes an identity of its own, machine-id(5).
	if err := os.WriteFile(filepath.Join(tree, "etc/machine-id"), nil, 0o444); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(tree, stamp), []byte(recipe), 0o644)
}

// removeTree removes trees, but nothing that is mounted in them.
func removeTree(ctx context.Context, trees ...string) error {
	args := append([]string{"-rf", "--one-file-system", "--"}, trees...)
	if out, err := exec.CommandContext(ctx, "rm", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("remove %q: %w: %s", trees, err, out)
	}
	return nil
}
