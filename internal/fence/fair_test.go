//go:build linux

package fence

import (
	"runtime"
	"testing"
)

// A change of grants waits for one part of a Guard, but never for the next one as well.
func TestChangesWaitForOnePart(t *testing.T) {
	var f fair
	for range 1000 {
		f.Lock()
		had := false
		go func() {
			f.Lock()
			defer f.Unlock()
			had = true
		}()
		for f.next.TryLock() { // until the other one waits
			f.next.Unlock()
			runtime.Gosched()
		}
		f.Unlock()
		f.Lock()
		if !had {
			t.Fatal("the lock went to its previous holder before the one who waited for it")
		}
		f.Unlock()
	}
}
