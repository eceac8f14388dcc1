//go:build !linux

package descriptors

// Limit is not asked for: the daemon runs on Linux.
func Limit() int { return Few }
