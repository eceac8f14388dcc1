//go:build !unix

package sshconfig

import "os"

// keepOwner does nothing where a directory says whose its files are.
func keepOwner(*os.File, string) error { return nil }
