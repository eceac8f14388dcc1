//go:build linux

package fence

import (
	"sync"
	"sync/atomic"
)

// fair is a lock that goes to a waiter before whoever held it last gets it again: a
// caller that takes it many times, as Guard does, holds each waiter up only once. Its
// zero value is unlocked.
type fair struct {
	next sync.Mutex // held by the next one in line while waiting
	lock sync.Mutex

	steps atomic.Uint64 // odd while somebody has the lock, and never the same again
}

// Lock acquires the lock when it is this caller's turn.
func (f *fair) Lock() {
	f.next.Lock()
	f.lock.Lock()
	f.next.Unlock()
	f.steps.Add(1)
}

// Unlock releases the lock.
func (f *fair) Unlock() {
	f.steps.Add(1)
	f.lock.Unlock()
}

// unheld says whether nobody has had the lock since a call of steps.Load returned step.
func (f *fair) unheld(step uint64) bool { return step%2 == 0 && f.steps.Load() == step }
