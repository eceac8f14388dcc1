package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// maxPath is the length of a unix socket's path on Linux: sun_path less its
// closing zero (unix(7)).
const maxPath = 107

// ErrInUse is wrapped by errors of Listen when a live daemon answers at the path.
var ErrInUse = errors.New("another doorwardd answers")

// Listen opens the control socket at path, for its owner and, when the group
// exists and the process may give files to it, for that group (0660); otherwise
// for its owner alone (0600). There is no moment at which others could connect.
// A socket file that nobody answers on is replaced; if somebody does, or may, Listen
// fails. The directory must exist. Closing the listener removes the file.
func Listen(path string, group string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("control socket %q: the path has %d bytes: allowed are %d", path, len(path), maxPath)
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil || !fi.IsDir() {
		return nil, fmt.Errorf("control socket %q: the directory %q does not exist: make it, or set control in [gateway]", path, filepath.Dir(path))
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var modeErr error
		err := c.Control(func(fd uintptr) { modeErr = bindMode(fd, 0o600) })
		return errors.Join(err, modeErr)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket %q: %w", path, err)
	}
	if err := shareWith(path, group); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket %q: %w", path, err)
	}
	return l, nil
}

// removeStale removes a socket file that a daemon left behind.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("control socket: %w", err)
	case fi.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("control socket %q: a file that is not a socket is in the way: move it away", path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return fmt.Errorf("%w on %s", ErrInUse, path)
	}
	// Any other answer than "refused" may be a live daemon, too busy or not ours.
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("control socket %q: another doorwardd may answer there: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("control socket %q: remove the stale socket: %w", path, err)
	}
	return nil
}

// shareWith lets the group use the socket, if there is such a group and the
// process may give files to it. The group is set before the mode opens the file to it.
func shareWith(path, group string) error {
	g, err := user.LookupGroup(group)
	if err != nil {
		return nil // no such group here: the owner alone
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return fmt.Errorf("group %q has the id %q", group, g.Gid)
	}
	if err := os.Chown(path, -1, gid); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil
		}
		return err
	}
	return os.Chmod(path, 0o660)
}
