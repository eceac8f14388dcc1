//go:build !linux

package descriptors

// Limit returns Few; the daemon runs on Linux only.
func Limit() int { return Few }
