package store

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Println(daemon(dir))
		return
	}
	goleak.VerifyTestMain(m)
}

var (
	anybody = door.Any
	prefix  = netip.MustParsePrefix
)

// quickDir returns a directory in memory, for tests that need no disk.
func quickDir(t interface{ Fatal(...any) }) (dir string, remove func()) {
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "doorward-store")
	if err != nil {
		t.Fatal(err)
	}
	return dir, func() { os.RemoveAll(dir) }
}

// book is a log that a test can read.
type book struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *book) log() *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

func mustOpen(t testing.TB, dir string, limit AuditLimit) *Store {
	t.Helper()
	s, err := Open(dir, limit, (&book{}).log())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.lock.Close() })
	return s
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustCommit(t testing.TB, s *Store, c Change) []audit.Record {
	t.Helper()
	r, err := s.Commit(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustLoad(t testing.TB, s *Store) State {
	t.Helper()
	st, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func mustRecords(t testing.TB, s *Store, door, source string, after uint64, limit int) []audit.Record {
	t.Helper()
	q := Query{Door: door, After: after, Limit: limit}
	if source != "" {
		q.Source = prefix(source + "/32")
	}
	p, err := s.Records(q)
	if err != nil {
		t.Fatal(err)
	}
	return p.Records
}

// verify reads the whole trail by pages, and checks that the records follow one another.
func verify(t interface {
	Helper()
	Fatal(...any)
}, s *Store) audit.Verification {
	t.Helper()
	var w audit.Verifier
	q := Query{Oldest: true, Limit: 7}
	for {
		p, err := s.Records(q)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range p.Records {
			text, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			w.Add(text)
		}
		if q.After = p.Through; len(p.Records) < q.Limit {
			v := w.End(p.Last)
			if !v.Sound {
				t.Fatal("the trail is not sound:", v.Faults)
			}
			return v
		}
	}
}

// sorted returns a state in a form that can be compared: in order, and with its grants as
// a list.
func sorted(st State) any {
	compare := func(a, b any) int { return strings.Compare(fmt.Sprintf("%#v", a), fmt.Sprintf("%#v", b)) }
	slices.SortFunc(st.Doors, func(a, b Door) int { return compare(a, b) })
	slices.SortFunc(st.Penalties, func(a, b Penalty) int { return compare(a, b) })
	slices.SortFunc(st.Marks, func(a, b Mark) int { return compare(a, b) })
	grants := slices.SortedFunc(st.Grants, func(a, b Grant) int { return compare(a, b) })
	st.Grants = nil
	return struct {
		State
		Grants []Grant
	}{st, grants}
}

// diff compares values, except for how records are chained. Times must be the same to
// the nanosecond, in UTC and without a monotonic reading.
func diff(want, got any) string {
	return cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(audit.Record{}, "Prev", "Hash"),
		cmp.Comparer(func(a, b time.Time) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }))
}

// Generators for the properties. There are few names, so that keys occur repeatedly.
var (
	genDoor   = rapid.SampledFrom([]string{"ssh", "db", "a-very.long_name", "ü"})
	genSource = rapid.SampledFrom([]netip.Prefix{
		door.Any,
		netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("198.51.100.0/24"),
		netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("2001:db8:1::/64"),
		netip.MustParsePrefix("::ffff:192.0.2.1/128"), netip.MustParsePrefix("0.0.0.0/0"),
	})
	genKnock = rapid.SampledFrom([]string{"", "touch", "touch-2"})
	genBy    = rapid.SampledFrom([]string{"", "touch", "operator alice", "nul \x00 in it", "not utf-8 \xff", "<html>&\u2028"})
	genTime  = rapid.Custom(func(t *rapid.T) time.Time {
		at := time.Unix(rapid.Int64Range(-1<<33, 1<<36).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns"))
		if rapid.Bool().Draw(t, "zero") {
			return time.Time{}
		}
		if rapid.Bool().Draw(t, "zone") {
			return at.In(time.FixedZone("east", 5*3600+1800))
		}
		return at
	})
	genWho  = rapid.SampledFrom([]string{"", "any", "192.0.2.1", "192.0.2.0/24", "192.0.2.128/25", "2001:db8::1", "2001:db8:1::/64", "<b>&\"\\\n"})
	genText = rapid.SampledFrom([]string{"", "because", "<b>&\"\\\n", "日本"})
)

func drawDoor(t *rapid.T) Door {
	return Door{
		Name: genDoor.Draw(t, "door"), State: genText.Draw(t, "state"), Reason: genText.Draw(t, "reason"),
		Since: genTime.Draw(t, "since"), Opened: genTime.Draw(t, "opened"), LastSeen: genTime.Draw(t, "seen"),
		Armed: rapid.Bool().Draw(t, "armed"), ForAll: rapid.Bool().Draw(t, "all"), Ran: rapid.Bool().Draw(t, "ran"),
	}
}

func drawPenalty(t *rapid.T) Penalty {
	return Penalty{
		Door: genDoor.Draw(t, "door"), Knock: genKnock.Draw(t, "knock"), Source: genSource.Draw(t, "source"),
		Until: genTime.Draw(t, "until"), For: time.Duration(rapid.Int64().Draw(t, "for")), Times: rapid.IntRange(0, 99).Draw(t, "times"),
		Reason: genText.Draw(t, "reason"),
	}
}

func drawGrant(t *rapid.T) Grant {
	return Grant{
		Door: genDoor.Draw(t, "door"), Source: genSource.Draw(t, "source"), By: genBy.Draw(t, "by"),
		Until: genTime.Draw(t, "until"), For: time.Duration(rapid.Int64().Draw(t, "for")),
	}
}

func drawMark(t *rapid.T) Mark {
	m := Mark{Door: rapid.OneOf(genDoor, rapid.Just("")).Draw(t, "door"), Knock: rapid.SampledFrom([]string{"touch", "touch-2"}).Draw(t, "knock"),
		Key: rapid.SampledFrom([]string{"a", "\x00", strings.Repeat("k", 128)}).Draw(t, "key")}
	if rapid.Bool().Draw(t, "kept") {
		m.Value = append([]byte{}, genText.Draw(t, "value")...)
	}
	return m
}

func drawRecord(t *rapid.T) audit.Record {
	r := audit.Record{
		Time: genTime.Draw(t, "time"), Door: genDoor.Draw(t, "door"),
		Event:  rapid.SampledFrom([]string{audit.EventGranted, audit.EventRefused}).Draw(t, "event"),
		Source: genWho.Draw(t, "source"), By: genText.Draw(t, "by"), Reason: genText.Draw(t, "reason"),
	}
	if rapid.IntRange(0, 9).Draw(t, "sum") == 0 {
		r.Count = 17
	}
	switch rapid.IntRange(0, 9).Draw(t, "what else") {
	case 0:
		r.Login = &audit.Login{User: genText.Draw(t, "user"), Port: 7, Grant: &audit.Grant{Source: "any", Since: genTime.Draw(t, "since")}}
	case 1:
		login := rapid.Uint32().Draw(t, "login")
		r.Operator = &audit.Operator{UID: 7, LoginUID: &login, PID: 1, SudoUser: genText.Draw(t, "sudo")}
	case 2:
		r.Config = &audit.Config{After: "x", Changed: []string{genText.Draw(t, "key")}}
	}
	if rapid.Bool().Draw(t, "has until") {
		until := genTime.Draw(t, "until")
		r.Until = &until
	}
	return r
}

func drawApplied(t *rapid.T) Applied {
	drawn := rapid.Custom(func(t *rapid.T) Ended {
		return Ended{ID: rapid.Uint64().Draw(t, "id"), Time: genTime.Draw(t, "time"), How: genText.Draw(t, "how"), By: genText.Draw(t, "by")}
	})
	var ended []Ended // nil if there are none
	for range rapid.IntRange(0, 2).Draw(t, "ended") {
		ended = append(ended, drawn.Draw(t, "end"))
	}
	return Applied{
		ID: rapid.Uint64().Draw(t, "id"), Ended: ended,
		Confirmed: rapid.SliceOf(rapid.Byte()).Draw(t, "confirmed"),
		Pending:   rapid.SliceOf(rapid.Byte()).Draw(t, "pending"),
		Deadline:  genTime.Draw(t, "deadline"), By: genText.Draw(t, "by"),
	}
}

func none(func(Grant) bool) {}
