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

// Whether somebody has had the lock meanwhile is known without taking it.
func TestUnheld(t *testing.T) {
	var f fair
	before := f.steps.Load()
	if !f.unheld(before) {
		t.Error("nobody has had the lock, but somebody has")
	}
	f.Lock()
	held := f.steps.Load()
	if f.unheld(before) || f.unheld(held) {
		t.Error("somebody has the lock, but nobody has")
	}
	f.Unlock()
	if f.unheld(before) || f.unheld(held) || !f.unheld(f.steps.Load()) {
		t.Error("somebody has had the lock, but nobody has; or they still have it")
	}
}
