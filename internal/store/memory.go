package store

import (
	"cmp"
	"slices"
	"sync"

	"github.com/doorward/doorward/internal/audit"
)

// inMemory is how many records of each class a Memory keeps.
const inMemory = 4096

// Memory stands in for a Store that cannot be opened. It keeps the latest records of the
// audit trail, each class separately as a Store does, and discards everything else: only
// the next start would read that. Its methods may be called from several goroutines.
type Memory struct {
	mu      sync.Mutex // guards what follows
	last    uint64     // ID
	ends    audit.Ends
	records [len(audit.Ends{})][]audit.Record // by class
}

// InMemory returns an empty Memory.
func InMemory() *Memory { return &Memory{} }

// Load returns the state of a very first start.
func (m *Memory) Load() (State, error) {
	return State{Grants: func(func(Grant) bool) {}}, nil
}

// SetAside returns "": nothing was set aside.
func (m *Memory) SetAside() string { return "" }

// Commit returns the change's records with their IDs. It fails as a Store's does where
// one cannot be written as JSON, as with a time in the year 10000.
func (m *Memory) Commit(c Change) ([]audit.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept, _, ends, err := numbered(c.Records, m.last, m.ends)
	if err != nil {
		return nil, err
	}
	m.last, m.ends = m.last+uint64(len(kept)), ends
	for _, r := range kept {
		class := &m.records[r.Class()]
		if len(*class) >= 2*inMemory { // rarely, so that the cost of a record is constant
			*class = slices.Clone((*class)[inMemory:])
		}
		*class = append(*class, r)
	}
	return kept, nil
}

// Records returns what a Store's Records does.
func (m *Memory) Records(q Query) (Page, error) {
	if q.Limit < 1 {
		q.Limit = 100
	}
	m.mu.Lock()
	p := Page{Through: max(q.After, m.last), Last: m.last}
	var all []audit.Record
	for _, class := range m.records {
		all = append(all, newest(class, inMemory)...)
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b audit.Record) int { return cmp.Compare(a.ID, b.ID) })
	for _, class := range audit.Classes() {
		i := slices.IndexFunc(all, func(r audit.Record) bool { return r.Class() == class })
		if i >= 0 && q.Oldest && q.wants(class) && before(all[i]) > q.After {
			p.Gone = max(p.Gone, before(all[i]))
		}
	}
	all = slices.DeleteFunc(all, func(r audit.Record) bool { return r.ID <= q.After || !q.selects(r) })
	if p.Records = newest(all, q.Limit); q.Oldest && len(all) > q.Limit {
		p.Records = all[:q.Limit]
		p.Through = p.Records[q.Limit-1].ID
	}
	return p, nil
}

// newest returns the last n of list, at most.
func newest(list []audit.Record, n int) []audit.Record { return list[max(0, len(list)-n):] }
