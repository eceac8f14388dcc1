package store

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/race"
)

// model is what a store should contain, in maps.
type model struct {
	doors     map[string]Door
	penalties map[PenaltyKey]Penalty
	grants    map[GrantKey]Grant
	marks     map[markKey]Mark
	applied   Applied
	last      uint64
	trail     []audit.Record
}

type markKey struct{ door, knock, key string }

func newModel() *model {
	return &model{doors: map[string]Door{}, penalties: map[PenaltyKey]Penalty{},
		grants: map[GrantKey]Grant{}, marks: map[markKey]Mark{}}
}

func (m *model) commit(c Change) (added []audit.Record) {
	for _, k := range c.ClearGrants {
		maps.DeleteFunc(m.grants, func(g GrantKey, _ Grant) bool { return g.Door == k })
	}
	for _, k := range c.ClearPenalties {
		maps.DeleteFunc(m.penalties, func(p PenaltyKey, _ Penalty) bool { return p.Door == k })
	}
	for _, k := range c.EndDoors {
		delete(m.doors, k)
		maps.DeleteFunc(m.marks, func(g markKey, _ Mark) bool { return g.door == k })
	}
	for _, k := range c.EndKnocks {
		maps.DeleteFunc(m.marks, func(g markKey, _ Mark) bool { return g.door == k.Door && g.knock == k.Knock })
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
		m.penalties[PenaltyKey{p.Door, p.Knock, p.Source}] = p
	}
	for _, g := range c.Grants {
		g.Until = plain(g.Until)
		m.grants[GrantKey{g.Door, g.Source, g.By}] = g
	}
	for _, g := range c.Marks {
		m.marks[markKey{g.Door, g.Knock, g.Key}] = g
		if g.Value == nil {
			delete(m.marks, markKey{g.Door, g.Knock, g.Key})
		}
	}
	if c.Applied != nil {
		m.applied = *c.Applied
		m.applied.Deadline = plain(m.applied.Deadline)
		m.applied.Ended = slices.Clone(m.applied.Ended)
		for i := range m.applied.Ended {
			m.applied.Ended[i].Time = plain(m.applied.Ended[i].Time)
		}
	}
	for _, r := range c.Records {
		m.last++
		r.ID, r.Time = m.last, plain(r.Time)
		if r.Until != nil {
			u := plain(*r.Until)
			r.Until = &u
		}
		if r.Login != nil {
			l, g := *r.Login, *r.Login.Grant
			g.Since = plain(g.Since)
			l.Grant, r.Login = &g, &l
		}
		added = append(added, r)
	}
	m.trail = append(m.trail, added...)
	return added
}

// plain returns the time as it should be read back.
func plain(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.Unix(t.Unix(), int64(t.Nanosecond())).UTC()
}

func (m *model) state() State {
	return State{Applied: m.applied, Doors: slices.Collect(maps.Values(m.doors)), Penalties: slices.Collect(maps.Values(m.penalties)),
		Marks: slices.Collect(maps.Values(m.marks)), Grants: maps.Values(m.grants)}
}

// records returns the records that a query selects, and up to which ID they were
// searched.
func (m *model) records(q Query) (want []audit.Record, through uint64) {
	for _, r := range m.trail {
		if r.ID > q.After && (q.Door == "" || r.Door == q.Door) && concerns(q.Source, r) &&
			(len(q.Events) == 0 || slices.Contains(q.Events, r.Event)) && r.Time.Compare(q.Since) >= 0 &&
			(q.Until.IsZero() || r.Time.Compare(q.Until) < 0) {
			want = append(want, r)
		}
	}
	if q.Limit < 1 {
		q.Limit = 100
	}
	switch {
	case !q.Oldest:
		return want[max(0, len(want)-q.Limit):], max(m.last, q.After)
	case len(want) >= q.Limit:
		want = want[:q.Limit]
		return want, want[q.Limit-1].ID
	}
	return want, max(m.last, q.After)
}

// sources has, for prefixes to search for, the sources of genWho that they concern.
var sources = map[netip.Prefix][]string{
	prefix("192.0.2.1/32"):    {"any", "192.0.2.1", "192.0.2.0/24"},
	prefix("192.0.2.0/25"):    {"any", "192.0.2.1", "192.0.2.0/24"},
	prefix("192.0.2.200/32"):  {"any", "192.0.2.0/24", "192.0.2.128/25"},
	prefix("198.18.0.0/15"):   {"any"},
	prefix("2001:db8::/32"):   {"any", "2001:db8::1", "2001:db8:1::/64"},
	prefix("2001:db8::1/128"): {"any", "2001:db8::1"},
	anybody:                   {"any"},
}

func concerns(source netip.Prefix, r audit.Record) bool {
	texts, ok := sources[source]
	return !ok || slices.Contains(texts, r.Source) || r.Source == "" && r.Count > 0 && source != anybody
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
		g, p, m := drawGrant(t), drawPenalty(t), drawMark(t)
		c.EndGrants = append(c.EndGrants, GrantKey{g.Door, g.Source, g.By})
		c.EndPenalties = append(c.EndPenalties, PenaltyKey{p.Door, p.Knock, p.Source})
		c.Marks = append(c.Marks, m)
		switch rapid.IntRange(0, 9).Draw(t, "clears") {
		case 0:
			c.ClearGrants = append(c.ClearGrants, g.Door)
		case 1:
			c.ClearPenalties = append(c.ClearPenalties, p.Door)
		case 2:
			c.EndKnocks = append(c.EndKnocks, KnockKey{m.Door, m.Knock})
		}
	}
	if rapid.IntRange(0, 4).Draw(t, "apply") == 0 {
		a := drawApplied(t)
		c.Applied = &a
	}
	return c
}

// TestAgainstModel commits changes, opens the store again at any moment, and compares
// everything that can be read with the model.
func TestAgainstModel(t *testing.T) {
	race.Skip(t)
	rapid.Check(t, func(t *rapid.T) {
		dir, remove := quickDir(t)
		defer remove()
		open := func() *Store {
			s, err := Open(dir, AuditLimit{}, (&book{}).log())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s, m := open(), newModel()
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
			"renew": func(*rapid.T) { s.renew() },
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
				q := Query{After: rapid.Uint64Range(0, m.last+2).Draw(t, "after"), Limit: rapid.IntRange(-1, 12).Draw(t, "limit"),
					Oldest: rapid.Bool().Draw(t, "oldest")}
				draw := func(what string) bool { return rapid.IntRange(0, 2).Draw(t, what) == 0 }
				if draw("of a door") {
					q.Door = genDoor.Draw(t, "door")
				}
				if draw("of a source") {
					q.Source = rapid.SampledFrom(slices.SortedFunc(maps.Keys(sources), netip.Prefix.Compare)).Draw(t, "source")
				}
				if draw("of events") {
					q.Events = []string{rapid.SampledFrom([]string{audit.EventGranted, audit.EventRefused}).Draw(t, "event"), audit.EventDark}
				}
				if draw("of a time") {
					q.Since, q.Until = genTime.Draw(t, "since"), genTime.Draw(t, "until")
				}
				got, err := s.Records(q)
				if err != nil {
					t.Fatal(err)
				}
				want, through := m.records(q)
				if d := diff(want, got.Records); d != "" || got.Through != through || got.Last != m.last || got.Gone != 0 {
					t.Fatalf("through %d, want %d; the last is %d, want %d; up to %d are gone, want none; records (-want +got):\n%s",
						got.Through, through, got.Last, m.last, got.Gone, d)
				}
			},
			"verify": func(t *rapid.T) { verify(t, s) },
			"": func(t *rapid.T) {
				got, err := s.Load()
				if err != nil {
					t.Fatal(err)
				}
				got.BootID, got.Rebooted = "", false
				if d := diff(sorted(m.state()), sorted(got)); d != "" {
					t.Fatalf("state (-want +got):\n%s", d)
				}
			},
		})
	})
}
