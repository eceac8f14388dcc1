package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/doorward/doorward/internal/control"
)

// live shows the snapshots on the alternate screen until the user quits. When
// the daemon goes, the view says so and waits for its return.
func (o *statusOptions) live(ctx context.Context, e *env, daemon *control.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := tea.NewProgram(liveView{door: o.door, dress: e.dressFor(e.stdout), clock: e.clock},
		tea.WithContext(ctx), tea.WithInput(e.stdin), tea.WithOutput(e.stdout))
	var feed sync.WaitGroup
	feed.Go(func() {
		for ctx.Err() == nil {
			p.Send(goneMsg{o.follow(ctx, daemon, func(s control.Status) error {
				p.Send(snapshotMsg(s))
				return nil
			})})
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
	})
	_, err := p.Run()
	cancel()
	feed.Wait()
	if errors.Is(err, tea.ErrProgramKilled) { // the context ended: the user is done
		return nil
	}
	return err
}

// The messages of the live view.
type (
	snapshotMsg control.Status
	goneMsg     struct{ err error } // the daemon went
	tickMsg     struct{}            // a second has passed
)

// liveView is the model of status --watch.
type liveView struct {
	door          string
	dress         dress
	clock         func() time.Time
	status        *control.Status // nil before the first
	gone          error
	width, height int // of the terminal, 0 before it is known
	top           int // the first line shown
}

// Init starts the clock.
func (m liveView) Init() tea.Cmd { return tick() }

// tick brings a tickMsg at the turn of the second.
func tick() tea.Cmd {
	return tea.Every(time.Second, func(time.Time) tea.Msg { return tickMsg{} })
}

// Update takes in what happened.
func (m liveView) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case snapshotMsg:
		s := control.Status(msg)
		m.status, m.gone = &s, nil
	case goneMsg:
		m.gone = msg.err
	case tickMsg:
		return m, tick()
	case tea.KeyPressMsg:
		return m.key(msg.String())
	}
	return m, nil
}

// key quits or scrolls.
func (m liveView) key(key string) (tea.Model, tea.Cmd) {
	head, body := m.sheets()
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

// room is how many lines there are for what scrolls below the head.
func (m liveView) room(head []string) int { return max(1, m.height-len(head)-1) }

// View draws a title line, what is always seen, and as much of the rest as fits.
func (m liveView) View() tea.View {
	now := m.clock()
	head, lines := m.sheets()
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
	lines = slices.Concat([]string{m.dress.title.Render(title)}, head, lines)
	v := tea.NewView(strings.Join(lines, "\n"))
	v.AltScreen = true
	v.WindowTitle = "doorward status"
	return v
}

// sheets is the status as lines no wider than the screen: those that are always seen,
// that the daemon has gone and whether the doors are guarded, and those that scroll.
func (m liveView) sheets() (head, body []string) {
	v := view{dress: m.dress, now: m.clock(), width: m.width, detail: m.door != ""}
	if m.gone != nil {
		head = v.styled(m.dress.bad.Render, wrap(printable(m.gone.Error())+": trying again", m.width))
	}
	switch s := m.status; {
	case s == nil:
		body = []string{"waiting for the daemon"}
	case m.gone != nil: // whether the doors are guarded now is not known
		head = append(head, v.styled(m.dress.bad.Render, wrap("this is how things stood at "+
			s.Time.In(v.now.Location()).Format("2006-01-02 15:04:05 MST"), m.width))...)
		body = append(v.guarded(*s), v.body(*s)...)
	default:
		head, body = v.guarded(*s), v.body(*s)
	}
	head, body = m.broken(append(head, "")), m.broken(body)
	if m.height > 0 && len(head) > m.height/2 { // on a very small screen all scrolls
		return nil, append(head, body...)
	}
	return head, body
}

// broken breaks the lines that a word makes wider than the screen.
func (m liveView) broken(lines []string) []string {
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
