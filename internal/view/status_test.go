package view

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
	"github.com/doorward/doorward/internal/output"
)

// noon is the fixed time of these tests.
var noon = controltest.Noon

func after(d time.Duration) *time.Time { return new(noon.Add(d)) }

// guarded returns a snapshot with a value in nearly every field.
func guarded() control.Status { return controltest.Guarded() }

// golden compares got with a file of testdata/golden; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", "golden", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got; UPDATE_GOLDEN=1 writes it):\n%s", name, d)
	}
}

// busy returns a snapshot of a bad night: with everything that a view can show, and
// words of every length.
func busy() control.Status {
	s := guarded()
	s.Problems = []control.Problem{{Code: control.ProblemFailsafe, Door: "admin",
		Message: "door admin is in failsafe and ignores knocks: no log data was found in the journal, /var/log/auth.log or /var/log/secure"}}
	s.Warnings = []string{"the previous configuration is in use: /etc/doorward/doorward.toml cannot be used: it has 2 mistakes"}
	s.Pending = &control.Pending{ID: 7, Until: noon.Add(41 * time.Second), By: "operator alice (uid 1000)"}
	s.Settled = &control.Settled{ID: 6, Time: noon.Add(-time.Hour), End: control.EndExpired}
	s.ConfigHash, s.ConfigDiffers = "1f3a9c0d1b2e77aa1f3a9c0d1b2e77aa", true
	d := &s.Doors[1]
	d.Always = []string{"10.0.0.0/8", "2001:db8:ffff::/48"}
	d.Reason = "the right knock of 192.0.2.7 came while the door was closing, after nobody had been in for an hour"
	d.Grants[0].Given = after(-2 * time.Second)
	d.Penalties[0].Reason = "touched a port that must be left alone; penalised 3 times in a row"
	d.Guesses = control.Guesses{
		Hour: control.GuessesOf{Since: noon.Add(-62 * time.Minute), Refused: 214, Top: []control.GuessesFrom{
			{Prefix: "203.0.113.0/24", Refused: 180}, {Prefix: "2001:db8:7::/48", Refused: 20, Error: 3},
			{Prefix: "198.51.100.0/24", Refused: 9}, {Prefix: "192.0.2.0/24", Refused: 5}}},
		Day: control.GuessesOf{Since: noon.Add(-20 * time.Hour), Refused: 1530, Top: []control.GuessesFrom{{Prefix: "203.0.113.0/24", Refused: 1200}}},
	}
	d.Refusals = append(d.Refusals, audit.Record{Time: noon.Add(-time.Minute), Door: "ssh", Source: "2001:db8:1234:5678:9abc:def0:1234:5678",
		Reason: "touched a port that must be left alone; its /64 is penalised; penalised 4 times in a row"})
	return s
}

// TestStatusOnATerminal compares what a terminal shows with golden files.
func TestStatusOnATerminal(t *testing.T) {
	for _, width := range []int{40, 80, 120} {
		v := View{Now: noon, Width: width}
		golden(t, fmt.Sprintf("status_%d.txt", width), strings.Join(v.Status(busy()), "\n")+"\n")
	}
	one := busy()
	one.Doors = one.Doors[1:2]
	golden(t, "status_80_door.txt", strings.Join(View{Now: noon, Width: 80, Detail: true}.Status(one), "\n")+"\n")
}

// However narrow a terminal is, no line is wider if it could be broken at a word, and no
// word is lost but those of titles.
func TestStatusFitsAndSaysAll(t *testing.T) {
	s := busy()
	for range 30 {
		d := s.Doors[1]
		d.Name = fmt.Sprintf("door-%d", len(s.Doors))
		s.Doors = append(s.Doors, d)
	}
	words := func(lines []string) map[string]bool {
		all := map[string]bool{}
		for _, l := range lines {
			for w := range strings.FieldsSeq(strings.ReplaceAll(l, ".service", "")) {
				all[strings.ToLower(w)] = true
			}
		}
		return all
	}
	all := words(View{Now: noon}.Status(s))
	for width := 20; width < 160; width += 3 {
		lines := View{Now: noon, Width: width}.Status(s)
		for _, l := range lines {
			text := strings.TrimLeft(l, " ")
			if lipgloss.Width(l) <= width || strings.Contains(text, "> ") {
				continue // a command is on a line of its own, however long
			}
			// What comes before the last word has room in the line.
			if before, last, ok := strings.Cut(l, text[strings.LastIndex(text, " ")+1:]); ok && len(before)+len(last) > width {
				t.Errorf("%d columns: %q could be broken", width, l)
			}
		}
		told := words(lines)
		for w := range all {
			if !told[w] && !slices.Contains([]string{"why", "sessions", "by", "given", "refused", "knocks", "-"}, w) {
				t.Errorf("%d columns: %q is not shown", width, w)
			}
		}
	}
}

// The first line says whether the doors are guarded, however the snapshot says that they
// are not.
func TestGuardedComesFirst(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*control.Status)
		want   string
	}{
		{"owned", func(s *control.Status) { s.Fence.Repairs = 0 }, "guarded: yes, the fence holds 3 doors, and the kernel lets nobody else change it"},
		{"put right", func(*control.Status) {}, "guarded: yes, the fence holds 3 doors, and the kernel lets nobody else change it (put right 1 time since the start)"},
		{"not owned", func(s *control.Status) { s.Fence = control.Fence{Up: true} },
			"guarded: yes, the fence holds 3 doors; others could change it, and it would be put right at once"},
		{"down", func(s *control.Status) { s.Fence.Up = false }, "NOT GUARDED: the fence is down"},
		{"down, with why", func(s *control.Status) { s.Fence.Up, s.Fence.Mismatch = false, "no such \x1btable" },
			"NOT GUARDED: the fence is down: no such \ufffdtable"},
		{"differs", func(s *control.Status) { s.Fence.Mismatch = "chain input is gone" },
			"NOT GUARDED: the fence differs from what it should be: chain input is gone"},
		{"a problem", func(s *control.Status) {
			s.Problems = []control.Problem{{Code: control.ProblemService, Message: "x"}, {Code: control.ProblemFence, Message: "the table is gone"}}
		}, "NOT GUARDED: the table is gone"},
	} {
		s := guarded()
		tt.change(&s)
		if got := (View{Now: noon}).Status(s)[0]; got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// What is said already is not said again.
func TestAlarmsSayThingsOnce(t *testing.T) {
	s := control.Status{Fence: control.Fence{Mismatch: "no such table"},
		Problems: []control.Problem{{Code: control.ProblemFence, Message: "the fence is down: no such table"}, {Code: control.ProblemListeners, Message: "door ssh: x"}},
		Warnings: []string{"the fence is down: no such table", "door ssh: x", "y"}}
	v := View{Now: noon}
	want := []string{"NOT GUARDED: the fence is down: no such table", "problem: door ssh: x", "warning: y"}
	if d := cmp.Diff(want, append(v.guarded(s), v.alarms(s)...)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// If the daemon has counted for less than a span, it says since when, and only once.
func TestGuesses(t *testing.T) {
	of := func(since time.Duration, n uint64) control.GuessesOf {
		g := control.GuessesOf{Since: noon.Add(-since), Refused: n}
		for i := range min(n, 4) {
			g.Top = append(g.Top, control.GuessesFrom{Prefix: fmt.Sprintf("198.51.%d.0/24", 100+i), Refused: n, Error: i})
		}
		return g
	}
	for _, tt := range []struct {
		name string
		of   control.Guesses
		want []string
	}{
		{"none", control.Guesses{Hour: of(time.Hour, 0), Day: of(24*time.Hour, 0)}, nil},
		{"long ago", control.Guesses{Hour: of(time.Hour, 0), Day: of(25*time.Hour, 1234567)}, []string{"0 in the last hour; 1,234,567 in the last day " +
			"(198.51.100.0/24 1,234,567, 198.51.101.0/24 1,234,566 to 1,234,567, 198.51.102.0/24 1,234,565 to 1,234,567, ...)"}},
		{"since the start", control.Guesses{Hour: of(time.Minute, 1), Day: of(time.Minute, 1)}, []string{"1 since 11:59:00 (198.51.100.0/24 1)"}},
		{"since yesterday", control.Guesses{Hour: of(time.Hour, 1), Day: of(13*time.Hour, 2)}, []string{"1 in the last hour (198.51.100.0/24 1); " +
			"2 since 2026-11-23 23:00 UTC (198.51.100.0/24 2, 198.51.101.0/24 1 to 2)"}},
	} {
		got := View{Now: noon}.guesses([]control.Door{{Name: "ssh", Guesses: tt.of}})
		var want []string
		for _, text := range tt.want {
			want = []string{"GUESSES  REFUSED KNOCKS", "ssh      " + text}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

// In a small terminal one can scroll through all that does not fit.
func TestLiveViewShowsAll(t *testing.T) {
	s := busy()
	s.Doors[1].Reason = strings.Repeat("word ", 40) + strings.Repeat("long", 30)
	for _, size := range []tea.WindowSizeMsg{{Width: 80, Height: 24}, {Width: 40, Height: 12}, {Width: 24, Height: 8}} {
		var m tea.Model = NewLive(output.Styles{}, func() time.Time { return noon }, false)
		var seen strings.Builder
		for _, msg := range []tea.Msg{size, Snapshot(s)} {
			m, _ = m.Update(msg)
		}
		for range 40 {
			lines := strings.Split(m.View().Content, "\n")
			for _, l := range lines {
				if len(lines) > size.Height || lipgloss.Width(l) > size.Width {
					t.Fatalf("%v: %d lines, among them %q", size, len(lines), l)
				}
			}
			if size.Height > 10 && !strings.HasPrefix(lines[1], "guarded: yes") {
				t.Fatalf("%v: the second line is %q, want whether the doors are guarded", size, lines[1])
			}
			seen.WriteString(strings.Join(lines, ""))
			m, _ = m.Update(tea.KeyPressMsg{Code: tea.KeyPgDown})
		}
		all := strings.ReplaceAll(seen.String(), " ", "")
		for _, want := range []string{"longlong", "unfinished", "guarded:yes", "doorwardd0.1.0up", "penalised4"} {
			if !strings.Contains(all, want) {
				t.Errorf("%v: %q was never on the screen", size, want)
			}
		}
	}
}

// A door that never goes dark by itself says so while it is open.
func TestStatusOfADoorThatNeverGoesDark(t *testing.T) {
	for state, want := range map[string]string{"open": "never", "dark": "-"} {
		lines := View{Now: noon}.doors([]control.Door{{Name: "vpn", State: state, Reason: "right"}})
		if f := strings.Fields(lines[len(lines)-1]); f[len(f)-2] != want {
			t.Errorf("%s: %q, want dark in %s", state, lines[len(lines)-1], want)
		}
	}
}
