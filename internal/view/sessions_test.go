package view

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

func TestSessionsForPeople(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	v := View{Now: now, Detail: true}
	ago := func(d time.Duration) *time.Time { return new(now.Add(-d)) }
	got := strings.Join(v.sessions([]control.Door{{Name: "ssh", Sessions: 7, Live: []control.Session{
		{Source: "192.0.2.7", Port: 40022, To: "22/tcp", Since: ago(3 * time.Minute), User: "alice",
			Grant: &audit.Grant{Source: "192.0.2.7", By: "touch", Since: now.Add(-4 * time.Minute)}},
		{Source: "2001:db8::7", Port: 1024, To: "22/tcp", Since: ago(25 * time.Hour),
			Grant: &audit.Grant{Source: "any", By: "operator bob (uid 1001)", Since: now.Add(-26 * time.Hour)}},
		{Source: "192.0.2.8", Port: 1, To: "22/tcp", Since: ago(time.Second), User: "ev\x1b[31mil",
			Grant: &audit.Grant{Source: "192.0.2.0/24", By: "always"}},
		{Source: "192.0.2.9", Port: 2, To: "22/tcp"},
	}}, {Name: "web"}}), "\n")
	want := `SESSIONS  SOURCE              SINCE                 USER       LET IN BY
ssh       192.0.2.7:40022     11:57:00              alice      touch at 11:56:00
ssh       [2001:db8::7]:1024  2026-11-23 11:00 UTC  -          operator bob (uid 1001) at 2026-11-23 10:00 UTC, for any
ssh       192.0.2.8:1         11:59:59              ev` + "\uFFFD" + `[31mil  always (192.0.2.0/24)
ssh       192.0.2.9:2         not known             -          not known
and 3 more`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got := v.sessions([]control.Door{{Name: "web"}}); got != nil {
		t.Errorf("without sessions: got %q, want nothing", got)
	}
}
