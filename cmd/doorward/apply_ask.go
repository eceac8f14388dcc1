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

	"github.com/doorward/doorward/internal/control"
)

// settle counts down to until, in which time the user, or another session,
// decides about the configuration id. nil means that it is kept.
func settle(ctx context.Context, e *env, daemon *control.Client, id uint64, until time.Time) error {
	answer, err := ask(ctx, e, daemon, id, until)
	if err != nil {
		return err
	}
	// A decision must get through although the user pressed Ctrl-C.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	switch answer {
	case answerKeep:
		r, err := daemon.Apply(ctx, control.ApplyRequest{Action: "keep", ID: id})
		if err != nil {
			return err
		}
		return printReply(e, false, r)
	case answerUndo:
		r, err := daemon.Apply(ctx, control.ApplyRequest{Action: "undo", ID: id})
		if err != nil {
			return err
		}
		return fmt.Errorf("not kept: %s", printable(r.Message))
	}
	return outcome(ctx, e, daemon, id)
}

// outcome says how the configuration id ended without an answer here.
func outcome(ctx context.Context, e *env, daemon *control.Client, id uint64) error {
	waits := func(s control.Status) bool { return s.Pending != nil && s.Pending.ID == id }
	var s control.Status
	known := errors.New("that is how it is")
	err := daemon.Watch(ctx, func(latest control.Status) error {
		if s = latest; waits(s) && !e.clock().Before(s.Pending.Until) {
			return nil // it is going back, which takes a moment
		}
		return known
	})
	if err != known && s.Time.IsZero() {
		return err
	}
	if waits(s) {
		return withHint(fmt.Errorf("not kept yet: it goes back at %s", clockTime(s.Pending.Until, e.clock())),
			"doorward apply --keep --id %d, or doorward apply --undo --id %[1]d", id)
	}
	i := slices.IndexFunc(s.Ended, func(end control.Settled) bool { return end.ID == id })
	switch {
	case i < 0:
		return withHint(errors.New("not known whether it is kept: the daemon does not remember it"), "doorward log, and doorward diff")
	case s.Ended[i].Kept:
		_, err := fmt.Fprintln(e.stdout, printable(s.Ended[i].Words()))
		return err
	}
	return fmt.Errorf("not kept: %s", printable(s.Ended[i].Words()))
}

// answer is what the user made of the question.
type answer int

const (
	answerNone answer = iota // none: it was settled elsewhere, or the time is up
	answerKeep
	answerUndo
)

// ask shows the question until it is answered, settled elsewhere, or over.
func ask(ctx context.Context, e *env, daemon *control.Client, id uint64, until time.Time) (answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := tea.NewProgram(question{dress: e.dressFor(e.stdout), clock: e.clock, id: id, until: until},
		tea.WithContext(ctx), tea.WithInput(e.stdin), tea.WithOutput(e.stdout))
	var feed sync.WaitGroup
	feed.Go(func() {
		// An error is no answer: the countdown goes on, and so does that of the daemon,
		// which may be another one by then.
		for again := time.NewTicker(time.Second); ctx.Err() == nil; {
			daemon.Watch(ctx, func(s control.Status) error {
				p.Send(snapshotMsg(s))
				return nil
			})
			select {
			case <-ctx.Done():
			case <-again.C:
			}
		}
	})
	m, err := p.Run()
	cancel()
	feed.Wait()
	if err != nil && !errors.Is(err, tea.ErrProgramKilled) && !errors.Is(err, tea.ErrInterrupted) {
		return answerNone, err
	}
	q, ok := m.(question)
	if !ok {
		return answerNone, nil
	}
	return q.answer, nil
}

// question is the model of apply --confirm.
type question struct {
	dress  dress
	clock  func() time.Time
	id     uint64
	until  time.Time
	answer answer
	over   bool
}

// Init starts the clock.
func (q question) Init() tea.Cmd { return tick() }

// Update takes in a key, a second, or the daemon's state.
func (q question) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.KeyPressMsg:
		switch msg.String() {
		case "enter":
			q.answer, q.over = answerKeep, true
		case "ctrl+c":
			q.answer, q.over = answerUndo, true
		}
	case snapshotMsg:
		q.over = q.over || msg.Pending == nil || msg.Pending.ID != q.id
	case tickMsg:
		q.over = q.over || !q.clock().Before(q.until)
	}
	switch {
	case q.over:
		return q, tea.Quit
	case msg == tickMsg{}:
		return q, tick()
	}
	return q, nil
}

// View asks, with what is left of the time.
func (q question) View() tea.View {
	if q.over {
		return tea.NewView("")
	}
	return tea.NewView(strings.Join([]string{
		"",
		"Can you still get in? Try it with a NEW ssh session; this one proves nothing.",
		"  " + q.dress.title.Render("Enter") + "   keeps the new configuration",
		"  " + q.dress.title.Render("Ctrl-C") + "  goes back at once",
		"  or from a NEW ssh session: doorward apply --keep",
		q.dress.warn.Render("Without an answer it goes back in " + spell(q.until.Sub(q.clock())) + "."),
		"",
	}, "\n"))
}
