//go:build linux

package fence

import "sync"

// fair is a lock that goes to a waiter before whoever held it last gets it again: a
// caller that takes it many times, as Guard does, holds each waiter up only once. Its
// zero value is unlocked.
type fair struct {
	next sync.Mutex // held by the next one in line while waiting
	lock sync.Mutex
}

// Lock acquires the lock when it is this caller's turn.
func (f *fair) Lock() {
	f.next.Lock()
	f.lock.Lock()
	f.next.Unlock()
}

// Unlock releases the lock.
func (f *fair) Unlock() { f.lock.Unlock() }
