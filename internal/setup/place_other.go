//go:build !unix

package setup

// mayWrite does not know here: writing tells.
func mayWrite(string) error { return nil }
