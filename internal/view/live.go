package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
)

// Snapshot is the message that brings a Live a new status.
type Snapshot control.Status

// Gone is the message that the daemon has gone away, and why.
type Gone struct{ Err error }

// Tick is the message that a second has passed.
type Tick struct{}

// Live is the model of a status that is kept up to date on a terminal. It is sent a
// Snapshot for each change, and Gone when there will be no more until the daemon is
// back, which Live then shows.
type Live struct {
	styles        output.Styles
	clock         func() time.Time
	detail        bool
	status        *control.Status // the latest, nil before the first
	gone          error
	width, height int // of the terminal, 0 before it is known
	top           int // the first line shown
}

// NewLive returns a Live. clock returns the time, in the zone in which times are shown;
// detail is as in View.
func NewLive(styles output.Styles, clock func() time.Time, detail bool) Live {
	return Live{styles: styles, clock: clock, detail: detail}
}

// Init starts the clock.
func (m Live) Init() tea.Cmd { return NextTick() }

// NextTick sends a Tick when the next second begins.
func NextTick() tea.Cmd {
	return tea.Every(time.Second, func(time.Time) tea.Msg { return Tick{} })
}

// Update handles a message.
func (m Live) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case Snapshot:
		s := control.Status(msg)
		m.status, m.gone = &s, nil
	case Gone:
		m.gone = msg.Err
	case Tick:
		return m, NextTick()
	case tea.KeyPressMsg:
		return m.key(msg.String())
	}
	return m, nil
}

// key quits or scrolls.
func (m Live) key(key string) (tea.Model, tea.Cmd) {
	head, body := m.parts()
	page := m.room(head)
	switch key {
	case "q", "esc", "ctrl+c":
		return m, tea.Quit
	case "down", "j":
		m.top++
	case "up", "k":
		m.top--
	case "pgdown", "space":
		m.top += page
	case "pgup":
		m.top -= page
	case "home", "g":
		m.top = 0
	case "end", "G":
		m.top = len(body)
	}
	m.top = max(0, min(m.top, len(body)-page))
	return m, nil
}

// room returns how many lines there are below the head, for what scrolls.
func (m Live) room(head []string) int { return max(1, m.height-len(head)-1) }

// View draws a title line, what always stays on the screen, and as much of the rest as
// fits.
func (m Live) View() tea.View {
	now := m.clock()
	head, lines := m.parts()
	title, keys := "doorward status  "+now.Format("15:04:05 MST"), "  q quits"
	if room := m.room(head); m.height > 0 && len(lines) > room {
		top := max(0, min(m.top, len(lines)-room))
		title, keys = fmt.Sprintf("%s  %d to %d of %d", title, top+1, top+room, len(lines)), keys+", arrows scroll"
		lines = lines[top : top+room]
	}
	title += keys
	if m.width > 0 {
		title = lipgloss.NewStyle().MaxWidth(m.width).Render(title)
	}
	lines = slices.Concat([]string{m.styles.Title.Render(title)}, head, lines)
	v := tea.NewView(strings.Join(lines, "\n"))
	v.AltScreen = true
	v.WindowTitle = "doorward status"
	return v
}

// parts returns the status as lines no wider than the screen: head, which always stays on
// the screen, says whether the doors are guarded or that the daemon has gone; body
// scrolls.
func (m Live) parts() (head, body []string) {
	v := View{Styles: m.styles, Now: m.clock(), Width: m.width, Detail: m.detail}
	if m.gone != nil {
		head = v.styled(m.styles.Bad.Render, output.Wrap(output.Text(m.gone.Error())+": trying again", m.width))
	}
	switch s := m.status; {
	case s == nil:
		body = []string{"waiting for the daemon"}
	case m.gone != nil: // whether the doors are guarded now is not known
		head = append(head, v.styled(m.styles.Bad.Render, output.Wrap("this is how things stood at "+
			s.Time.In(v.Now.Location()).Format("2006-01-02 15:04:05 MST"), m.width))...)
		body = append(v.guarded(*s), v.body(*s)...)
	default:
		head, body = v.guarded(*s), v.body(*s)
	}
	head, body = m.broken(append(head, "")), m.broken(body)
	if m.height > 0 && len(head) > m.height/2 { // on a very small screen everything scrolls
		return nil, append(head, body...)
	}
	return head, body
}

// broken breaks the lines that are wider than the screen because of a long word.
func (m Live) broken(lines []string) []string {
	if m.width <= 0 {
		return lines
	}
	var all []string
	for _, l := range lines {
		if lipgloss.Width(l) > m.width {
			all = append(all, strings.Split(lipgloss.Wrap(l, m.width, ""), "\n")...)
			continue
		}
		all = append(all, l)
	}
	return all
}
