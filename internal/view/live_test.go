package view

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"charm.land/lipgloss/v2"

	"github.com/doorward/doorward/internal/output"
)

// TestLiveView checks how the view reacts to time, size and keys, without a
// terminal.
func TestLiveView(t *testing.T) {
	now := noon
	var m tea.Model = NewLive(output.Styles{}, func() time.Time { return now }, false)
	show := func(msgs ...tea.Msg) []string {
		for _, msg := range msgs {
			m, _ = m.Update(msg)
		}
		return strings.Split(m.View().Content, "\n")
	}
	wantLine := func(lines []string, want string) {
		t.Helper()
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, want) }) {
			t.Errorf("no line begins with %q in\n%s", want, strings.Join(lines, "\n"))
		}
	}
	wantLine(show(tea.WindowSizeMsg{Width: 80, Height: 40}), "waiting for the daemon")
	wantLine(show(Snapshot(guarded())), "ssh     192.0.2.7        28s     -      touch")
	now = now.Add(5 * time.Second)
	wantLine(show(Tick{}), "ssh     192.0.2.7        23s     -      touch")
	lines := show(Gone{errors.New("the daemon is gone")})
	wantLine(lines, "the daemon is gone: trying again")
	wantLine(lines, "this is how things stood at 2026-11-24 11:59:00 UTC") // not whether the doors are guarded, which is not known
	wantLine(show(Snapshot(guarded())), "doorward status  12:00:05 UTC  q quits")

	lines = show(tea.WindowSizeMsg{Width: 40, Height: 10})
	for _, l := range lines {
		if lipgloss.Width(l) > 40 || len(lines) > 10 {
			t.Errorf("%d lines, among them %q: want 10 of 40", len(lines), l)
		}
	}
	wantLine(lines, "guarded: yes")
	wantLine(lines, "warning: door admin")
	down := tea.KeyPressMsg{Code: tea.KeyDown}
	lines = show(tea.WindowSizeMsg{Width: 80, Height: 10}, down, down)
	wantLine(lines, "doorward status  12:00:05 UTC  3 to 8 of 22  q quits, arrows scroll")
	wantLine(lines, "guarded: yes") // wherever one has scrolled to
	lines = show(tea.KeyPressMsg{Code: tea.KeyPgDown}, tea.KeyPressMsg{Code: tea.KeyPgDown}, tea.KeyPressMsg{Code: tea.KeyPgDown}, down)
	wantLine(lines, "doorwardd 0.1.0 up")
	wantLine(lines, "guarded: yes")
	wantLine(show(tea.KeyPressMsg{Code: tea.KeyHome}), "warning: door admin")
	wantLine(show(tea.KeyPressMsg{Code: tea.KeyEnd}), "doorwardd 0.1.0 up")
	wantLine(show(tea.KeyPressMsg{Code: 'g', Text: "g"}), "warning: door admin")

	for _, key := range []tea.KeyPressMsg{{Code: 'q', Text: "q"}, {Code: tea.KeyEscape}, {Code: 'c', Mod: tea.ModCtrl}} {
		if _, cmd := m.Update(key); cmd == nil || cmd() != tea.Quit() {
			t.Errorf("%s does not quit", key)
		}
	}
}
