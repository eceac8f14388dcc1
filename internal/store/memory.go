package store

import (
	"slices"
	"sync"

	"github.com/doorward/doorward/internal/audit"
)

// inMemory is how many records of each class a Memory keeps.
const inMemory = 4096

// Memory stands in for a Store that cannot be opened. It keeps the latest
// records of the audit trail, refusals apart from all others as a Store does,
// and takes all else without keeping it: nobody reads that but the next start.
// Its methods may be called from several goroutines.
type Memory struct {
	mu                sync.Mutex // guards what follows
	last              uint64     // ID
	refusals, decided []audit.Record
}

// InMemory returns an empty Memory.
func InMemory() *Memory { return &Memory{} }

// Load returns the state that a start without any before it finds.
func (m *Memory) Load() (State, error) {
	return State{Grants: func(func(Grant) bool) {}}, nil
}

// SetAside returns "": nothing was.
func (m *Memory) SetAside() string { return "" }

// Commit returns the change's records with their IDs. It never fails.
func (m *Memory) Commit(c Change) ([]audit.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var kept []audit.Record
	for _, r := range c.Records {
		m.last++
		r = stamped(r)
		r.ID = m.last
		kept = append(kept, r)
		class := &m.decided
		if isRefusal(r) {
			class = &m.refusals
		}
		if len(*class) >= 2*inMemory { // seldom, so that a record costs a constant
			*class = slices.Clone((*class)[inMemory:])
		}
		*class = append(*class, r)
	}
	return kept, nil
}

// Records returns what a Store's Records does.
func (m *Memory) Records(door, source string, after uint64, limit int) ([]audit.Record, error) {
	if limit < 1 {
		limit = 100
	}
	m.mu.Lock()
	all := slices.Concat(newest(m.refusals, inMemory), newest(m.decided, inMemory))
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b audit.Record) int { return int(int64(a.ID - b.ID)) })
	all = slices.DeleteFunc(all, func(r audit.Record) bool {
		return r.ID <= after || door != "" && r.Door != door || source != "" && r.Source != source
	})
	return newest(all, limit), nil
}

// newest is the end of list, of at most n.
func newest(list []audit.Record, n int) []audit.Record { return list[max(0, len(list)-n):] }
