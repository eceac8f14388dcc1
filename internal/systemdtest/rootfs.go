//go:build linux

package systemdtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The system that is booted. libpam-systemd is named since polkitd depends on the
// virtual package "logind", and debootstrap does not find providers of virtual
// packages by itself. openrc is there only for its openrc-run.
const (
	packages = "systemd,systemd-sysv,libpam-systemd,dbus,polkitd,openssh-server,nftables,iproute2"
	stamp    = "etc/doorward-test-recipe" // in the tree: the recipe that it was made from
)

// Suites are the Debian releases that can be booted. The first is the default.
var Suites = [...]string{"bookworm", "trixie"}

// Managed is the first suite with what Ansible needs on a machine that it manages.
const Managed = "bookworm+ansible"

// contents returns the release of a suite and the packages to include. From trixie on,
// openrc cannot be installed beside systemd-sysv.
func contents(suite string) (release, include string) {
	switch suite {
	case "bookworm":
		return suite, packages + ",openrc"
	case Managed:
		return "bookworm", packages + ",python3,python3-apt,sudo"
	}
	return suite, packages
}

// recipe returns a text that describes how the tree of a suite is made.
func recipe(suite string) string {
	release, include := contents(suite)
	return release + " " + include + "\n"
}

// buildLimit is how long making the tree may take; about a minute is usual.
const buildLimit = 8 * time.Minute

func cacheDir() string {
	if d := os.Getenv("DOORWARD_CACHE"); d != "" {
		return d
	}
	return "/var/cache/doorward-test"
}

// rootfs returns the cached tree of a Debian release, which nobody may write to, and
// a lock that keeps it from being replaced until the lock is closed. It makes the tree
// if there is none, or if the one that is there has another recipe and no machine uses
// it. Other processes that want the tree meanwhile wait.
func rootfs(ctx context.Context, suite string, logf func(string, ...any)) (string, *os.File, error) {
	dir := cacheDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	root := filepath.Join(dir, suite)
	file, err := os.OpenFile(root+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", nil, err
	}
	for {
		if err = lock(ctx, file, unix.LOCK_SH); err != nil || usable(root, suite) {
			break
		}
		// A change of lock is not atomic: somebody else may have made it by then.
		if err = lock(ctx, file, unix.LOCK_EX); err != nil {
			break
		}
		if usable(root, suite) {
			continue
		}
		logf("making a Debian %s system for tests in %s, once; it takes a minute or two", suite, root)
		if err = build(ctx, suite, root); err != nil {
			break
		}
	}
	if err != nil {
		file.Close()
		return "", nil, err
	}
	return root, file, nil
}

// lock waits for a lock on file, or for ctx to end.
func lock(ctx context.Context, file *os.File, how int) error {
	for {
		err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %q, which another test holds: %w", file.Name(), ctx.Err())
		case <-time.After(look):
		}
	}
}

// usable reports whether root is a complete tree of the suite, made by this recipe.
func usable(root, suite string) bool {
	made, err := os.ReadFile(filepath.Join(root, stamp))
	return err == nil && string(made) == recipe(suite)
}

// build makes the tree beside its place and moves it there when it is complete.
func build(ctx context.Context, suite, root string) error {
	ctx, cancel := context.WithTimeout(ctx, buildLimit)
	defer cancel()
	tmp, log := root+".tmp", root+".log"
	if err := removeTree(ctx, tmp, root); err != nil {
		return err
	}
	out, err := os.Create(log)
	if err != nil {
		return err
	}
	defer out.Close()
	release, include := contents(suite)
	// debootstrap runs in a mount namespace of its own, so that what it mounts goes
	// with it, however it ends. Nothing of this machine's environment may leak in;
	// SYSTEMD_OFFLINE keeps maintainer scripts away from this machine's systemd.
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation=private", "--",
		"debootstrap", "--variant=minbase", "--include="+include, release, tmp)
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
	if err := finish(tmp, suite); err != nil {
		return err
	}
	return os.Rename(tmp, root)
}

// finish removes what no test needs, and writes the stamp.
func finish(tree, suite string) error {
	debs, err := filepath.Glob(filepath.Join(tree, "var/cache/apt/archives/*.deb"))
	if err != nil {
		return err
	}
	for _, d := range debs {
		if err := os.Remove(d); err != nil {
			return err
		}
	}
	// Empty, so that every boot makes an ID of its own, machine-id(5).
	if err := os.WriteFile(filepath.Join(tree, "etc/machine-id"), nil, 0o444); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(tree, stamp), []byte(recipe(suite)), 0o644)
}

// removeTree removes trees, but nothing on file systems mounted in them.
func removeTree(ctx context.Context, trees ...string) error {
	args := append([]string{"-rf", "--one-file-system", "--"}, trees...)
	if out, err := exec.CommandContext(ctx, "rm", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("remove %q: %w: %s", trees, err, out)
	}
	return nil
}
