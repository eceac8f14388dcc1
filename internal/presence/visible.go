//go:build linux

package presence

// FlowsVisible says why flows cannot be seen, nil if they can: connection
// tracking tells them over ctnetlink. errors.Is(err, fs.ErrPermission): it was not
// asked, for lack of leave.
func FlowsVisible() error { return nil }
