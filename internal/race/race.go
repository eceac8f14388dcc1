// Package race leaves tests that the race detector slows down for nothing to a run
// without it, which build/test.sh makes.
package race

import "testing"

// Skip skips a test under the race detector. It is for tests that take long and in
// which no two goroutines share anything, or that repeat at size what other tests do
// under the race detector.
func Skip(t testing.TB) {
	t.Helper()
	if enabled {
		t.Skip("is run without the race detector")
	}
}
