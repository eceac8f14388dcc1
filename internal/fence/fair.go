//go:build linux

package fence

import "sync"

// fair is a lock that goes to whoever waits for it before whoever had it last has it
// again: who takes it many times, as Guard does, holds nobody up for longer than once.
// Its zero value is free.
type fair struct {
	next sync.Mutex // held by who is to have it next, while they wait
	lock sync.Mutex
}

// Lock takes the lock when it is this caller's turn.
func (f *fair) Lock() {
	f.next.Lock()
	f.lock.Lock()
	f.next.Unlock()
}

// Unlock gives the lock back.
func (f *fair) Unlock() { f.lock.Unlock() }
