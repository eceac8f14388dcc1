package store

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/audit"
)

// model is what a store should hold, in maps.
type model struct {
	limit     AuditLimit
	doors     map[string]Door
	penalties map[PenaltyKey]Penalty
	grants    map[GrantKey]Grant
	applied   Applied
	last      uint64
	trail     []audit.Record
}

func newModel(limit AuditLimit) *model {
	return &model{limit: limit, doors: map[string]Door{}, penalties: map[PenaltyKey]Penalty{}, grants: map[GrantKey]Grant{}}
}

func (m *model) commit(c Change) (added []audit.Record) {
	for _, k := range c.EndDoors {
		delete(m.doors, k)
	}
	for _, k := range c.EndPenalties {
		delete(m.penalties, k)
	}
	for _, k := range c.EndGrants {
		delete(m.grants, k)
	}
	for _, d := range c.Doors {
		d.Since, d.Opened, d.LastSeen = plain(d.Since), plain(d.Opened), plain(d.LastSeen)
		m.doors[d.Name] = d
	}
	for _, p := range c.Penalties {
		p.Until = plain(p.Until)
		m.penalties[PenaltyKey{p.Door, p.Source}] = p
	}
	for _, g := range c.Grants {
		g.Until = plain(g.Until)
		m.grants[GrantKey{g.Door, g.Source, g.By}] = g
	}
	if c.Applied != nil {
		m.applied = *c.Applied
		m.applied.Deadline = plain(m.applied.Deadline)
	}
	for _, r := range c.Records {
		m.last++
		r.ID, r.Time = m.last, plain(r.Time)
		if r.Until != nil {
			u := plain(*r.Until)
			r.Until = &u
		}
		added = append(added, r)
	}
	m.trail = append(m.trail, added...)
	if len(c.Doors)+len(c.EndDoors)+len(c.Penalties)+len(c.EndPenalties)+len(c.Grants)+len(c.EndGrants)+len(c.Records) == 0 &&
		c.Applied == nil {
		return nil // nothing to write, nothing to prune
	}
	// No commit here adds more than 64, so that pruning keeps up at once.
	refused := m.keep(isRefusal, m.limit.Records/2, added)
	m.keep(func(r audit.Record) bool { return !isRefusal(r) }, m.limit.Records-min(refused, m.limit.Records/2), added)
	return added
}

// keep prunes one class of records to the limit, but not the added ones nor the
// newest, and returns how many are left.
func (m *model) keep(class func(audit.Record) bool, limit int, added []audit.Record) int {
	count := func(list []audit.Record) (n int) {
		for _, r := range list {
			if class(r) {
				n++
			}
		}
		return n
	}
	have := count(m.trail)
	over := have - max(limit, count(added), min(have, 1))
	m.trail = slices.DeleteFunc(slices.Clone(m.trail), func(r audit.Record) bool {
		over--
		if !class(r) {
			over++
		}
		return class(r) && over >= 0
	})
	return count(m.trail)
}

// plain is the time as it should come back.
func plain(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.Unix(t.Unix(), int64(t.Nanosecond())).UTC()
}

func (m *model) state() State {
	text := func(p netip.Prefix) string { s, _ := sourceText(p); return s }
	st := State{Applied: m.applied}
	for _, k := range slices.Sorted(maps.Keys(m.doors)) {
		st.Doors = append(st.Doors, m.doors[k])
	}
	st.Penalties = slices.SortedFunc(maps.Values(m.penalties), func(a, b Penalty) int {
		return cmp.Or(cmp.Compare(a.Door, b.Door), cmp.Compare(text(a.Source), text(b.Source)))
	})
	st.Grants = slices.SortedFunc(maps.Values(m.grants), func(a, b Grant) int {
		return cmp.Or(cmp.Compare(a.Door, b.Door), cmp.Compare(text(a.Source), text(b.Source)), cmp.Compare(a.By, b.By))
	})
	return st
}

func (m *model) records(door, source string, after uint64, limit int) (want []audit.Record) {
	for _, r := range m.trail {
		if r.ID > after && (door == "" || r.Door == door) && (source == "" || r.Source == source) {
			want = append(want, r)
		}
	}
	if limit < 1 {
		limit = 100
	}
	return want[max(0, len(want)-limit):]
}

func drawChange(t *rapid.T) Change {
	c := Change{
		Doors:     rapid.SliceOfN(rapid.Custom(drawDoor), 0, 3).Draw(t, "doors"),
		EndDoors:  rapid.SliceOfN(genDoor, 0, 1).Draw(t, "end doors"),
		Penalties: rapid.SliceOfN(rapid.Custom(drawPenalty), 0, 4).Draw(t, "penalties"),
		Grants:    rapid.SliceOfN(rapid.Custom(drawGrant), 0, 6).Draw(t, "grants"),
		Records:   rapid.SliceOfN(rapid.Custom(drawRecord), 0, 8).Draw(t, "records"),
	}
	for range rapid.IntRange(0, 4).Draw(t, "ends") {
		g := drawGrant(t)
		c.EndGrants = append(c.EndGrants, GrantKey{g.Door, g.Source, g.By})
		c.EndPenalties = append(c.EndPenalties, PenaltyKey{g.Door, g.Source})
	}
	if rapid.IntRange(0, 4).Draw(t, "apply") == 0 {
		a := drawApplied(t)
		c.Applied = &a
	}
	return c
}

// TestAgainstModel commits changes, opens anew at any moment, and compares all
// that can be read with the model.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, remove := quickDir(t)
		defer remove()
		limit := AuditLimit{Records: rapid.IntRange(1, 40).Draw(t, "limit")}
		open := func() *Store {
			s, err := Open(dir, limit, (&book{}).log())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s, m := open(), newModel(limit)
		defer func() { s.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				c := drawChange(t)
				got, err := s.Commit(c)
				if err != nil {
					t.Fatal(err)
				}
				if d := diff(m.commit(c), got); d != "" {
					t.Fatalf("records of the commit (-want +got):\n%s", d)
				}
			},
			"reopen": func(t *rapid.T) {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open()
				if s.SetAside() != "" {
					t.Fatal("a sound file was set aside")
				}
			},
			"records": func(t *rapid.T) {
				door := rapid.OneOf(rapid.Just(""), genDoor).Draw(t, "door")
				source := genText.Draw(t, "source")
				after := rapid.Uint64Range(0, m.last+2).Draw(t, "after")
				n := rapid.IntRange(-1, 12).Draw(t, "limit")
				got, err := s.Records(door, source, after, n)
				if err != nil {
					t.Fatal(err)
				}
				if d := diff(m.records(door, source, after, n), got); d != "" {
					t.Fatalf("records (-want +got):\n%s", d)
				}
			},
			"": func(t *rapid.T) {
				got, err := s.Load()
				if err != nil {
					t.Fatal(err)
				}
				got.BootID, got.Rebooted = "", false
				if d := diff(m.state(), got); d != "" {
					t.Fatalf("state (-want +got):\n%s", d)
				}
			},
		})
	})
}
