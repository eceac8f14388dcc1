package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/doorward/doorward/internal/view"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
)

var applyHelp = `Have the daemon read its configuration file again and use it. The file is checked as
a whole first: if there is a mistake in it nothing changes, and every mistake is
named. Grants, penalties and sessions are kept as long as their door is.

With --confirm TIME the daemon goes back to the previous configuration by itself
unless the new one is confirmed within that time: this is insurance against locking
yourself out. On a terminal a countdown is shown: Enter keeps the new configuration,
Ctrl-C goes back at once. Before you press Enter, check with a NEW ssh session that
you can still get in: the one you are using survives whatever the new configuration
says. From there, doorward apply --keep confirms it, too. If your connection breaks,
just wait.

Without a terminal, or with --json, apply --confirm does not wait. It says until when
the configuration must be confirmed, which doorward apply --keep does later.

While a configuration waits to be confirmed, no other one is used, neither by apply
nor by SIGHUP; and a file that was rolled back is used only with --confirm until it
changes. --force does both, and gives up the one that waits. Each configuration that
waits has an id, which --json shows; --keep and --undo with --id apply to that one
only.

If the file is in use already, apply says so and changes nothing. doorward diff shows
what apply would change.

` + exitStatus("0 when the configuration is in use (with --confirm on a terminal: and confirmed), or when --keep or --undo is done")

const applyExamples = `  doorward apply --confirm 60s
  doorward apply --keep
  doorward apply --undo
  doorward check && doorward diff
  doorward apply --confirm 60s --force`

func newApply(e *env) *cobra.Command {
	var o applyOptions
	c := &cobra.Command{
		Use:     "apply [--confirm TIME] [--force] | --keep [--id ID] | --undo [--id ID]",
		Short:   "use the configuration file, with a way back",
		Long:    applyHelp,
		Example: applyExamples,
		Args:    noArgs,
		RunE: asking(func(c *cobra.Command, _ []string) error {
			order, err := o.order(c.Flags().Changed("confirm"))
			if err == nil && o.id == 0 && c.Flags().Changed("id") {
				err = errors.New("--id 0: allowed is the id of a configuration that waits, as doorward status shows it; without --id it is whichever waits")
			}
			if err != nil {
				return &usageError{withHint(err, "doorward apply --help")}
			}
			return o.run(c.Context(), e, e.client(c), order)
		}),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := c.Flags()
	f.SortFlags = false
	f.DurationVar(&o.confirm, "confirm", 0, "go back automatically unless confirmed within this `TIME`, such as 60s")
	f.BoolVar(&o.keep, "keep", false, "keep what was applied with --confirm")
	f.BoolVar(&o.undo, "undo", false, "go back from what was applied with --confirm")
	f.Uint64Var(&o.id, "id", 0, "with --keep and --undo, the `ID` of the configuration (default whichever waits)")
	f.BoolVar(&o.force, "force", false, "even if another one waits to be confirmed, or the file was rolled back")
	f.BoolVar(&o.json, "json", false, "print JSON, and do not wait")
	operatorFlags(e, c)
	_ = c.RegisterFlagCompletionFunc("id", completePending(e)) // there is such a flag
	return c
}

// completePending proposes the configuration that waits.
func completePending(e *env) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(c.Context(), time.Second)
		defer cancel()
		s, err := e.client(c).Status(ctx)
		if err != nil || s.Pending == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		waits := cobra.CompletionWithDesc(strconv.FormatUint(s.Pending.ID, 10), "by "+output.Text(s.Pending.By))
		return []cobra.Completion{waits}, cobra.ShellCompDirectiveNoFileComp
	}
}

// noArgs refuses arguments as a command line that cannot be understood.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &usageError{withHint(fmt.Errorf("%q: no argument is expected", args[0]), "%s --help", c.CommandPath())}
}

// applyOptions are the flags of apply.
type applyOptions struct {
	confirm                 time.Duration
	id                      uint64
	keep, undo, force, json bool
}

// order is the order that the flags spell. A --confirm of nothing would keep a
// configuration that was meant to be insured, so it is refused.
func (o *applyOptions) order(confirm bool) (control.ApplyRequest, error) {
	switch {
	case o.keep && o.undo, (o.keep || o.undo) && confirm:
		return control.ApplyRequest{}, errors.New("--confirm, --keep and --undo exclude one another")
	case (o.keep || o.undo) && o.force:
		return control.ApplyRequest{}, errors.New("--force does not go with --keep and --undo")
	case o.keep:
		return control.ApplyRequest{Action: "keep", ID: o.id}, nil
	case o.undo:
		return control.ApplyRequest{Action: "undo", ID: o.id}, nil
	case o.id != 0:
		return control.ApplyRequest{}, errors.New("--id goes with --keep and --undo")
	case !confirm:
		return control.ApplyRequest{Action: "apply", Force: o.force}, nil
	case o.confirm < time.Second:
		return control.ApplyRequest{}, fmt.Errorf("--confirm %v: allowed is 1s and more", o.confirm)
	}
	return control.ApplyRequest{Action: "apply", Confirm: o.confirm.String(), Force: o.force}, nil
}

func (o *applyOptions) run(ctx context.Context, e *env, daemon *control.Client, order control.ApplyRequest) error {
	r, err := daemon.Apply(ctx, order)
	if err != nil && ctx.Err() != nil {
		return withHint(interrupted(ctx, "before the daemon answered; it may still carry out the order"), "doorward status")
	}
	if err != nil {
		return err
	}
	if order.Confirm == "" || r.Until == nil || o.json {
		return printReply(e, o.json, r)
	}
	fmt.Fprintln(e.stdout, output.Text(r.Message))
	if output.IsTerminal(e.stdin) && output.IsTerminal(e.stdout) {
		return settle(ctx, e, daemon, r.Pending, *r.Until)
	}
	now := e.clock()
	_, err = fmt.Fprintf(e.stdout, "It goes back by itself at %s, in %s, unless kept: doorward apply --keep\n",
		output.Clock(*r.Until, now), output.Spell(r.Until.Sub(now)))
	return err
}

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
		return fmt.Errorf("not kept: %s", output.Text(r.Message))
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
		return withHint(fmt.Errorf("not kept yet: it goes back at %s", output.Clock(s.Pending.Until, e.clock())),
			"doorward apply --keep --id %d, or doorward apply --undo --id %[1]d", id)
	}
	i := slices.IndexFunc(s.Ended, func(end control.Settled) bool { return end.ID == id })
	switch {
	case i < 0:
		return withHint(errors.New("not known whether it is kept: the daemon does not remember it"), "doorward log, and doorward diff")
	case s.Ended[i].Kept:
		_, err := fmt.Fprintln(e.stdout, output.Text(s.Ended[i].Words()))
		return err
	}
	return fmt.Errorf("not kept: %s", output.Text(s.Ended[i].Words()))
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
	p := tea.NewProgram(question{styles: e.styles(e.stdout), clock: e.clock, id: id, until: until},
		tea.WithContext(ctx), tea.WithInput(e.stdin), tea.WithOutput(e.stdout))
	var feed sync.WaitGroup
	feed.Go(func() {
		// An error is no answer: the countdown goes on, and so does that of the daemon,
		// which may be another one by then.
		for again := time.NewTicker(time.Second); ctx.Err() == nil; {
			daemon.Watch(ctx, func(s control.Status) error {
				p.Send(view.Snapshot(s))
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
	styles output.Styles
	clock  func() time.Time
	id     uint64
	until  time.Time
	answer answer
	over   bool
}

// Init starts the clock.
func (q question) Init() tea.Cmd { return view.NextTick() }

// Update handles a key, a tick of the clock, or the daemon's state.
func (q question) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.KeyPressMsg:
		switch msg.String() {
		case "enter":
			q.answer, q.over = answerKeep, true
		case "ctrl+c":
			q.answer, q.over = answerUndo, true
		}
	case view.Snapshot:
		q.over = q.over || msg.Pending == nil || msg.Pending.ID != q.id
	case view.Tick:
		q.over = q.over || !q.clock().Before(q.until)
	}
	switch {
	case q.over:
		return q, tea.Quit
	case msg == view.Tick{}:
		return q, view.NextTick()
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
		"  " + q.styles.Title.Render("Enter") + "   keeps the new configuration",
		"  " + q.styles.Title.Render("Ctrl-C") + "  goes back at once",
		"  or from a NEW ssh session: doorward apply --keep",
		q.styles.Warn.Render("Without an answer it goes back in " + output.Spell(q.until.Sub(q.clock())) + "."),
		"",
	}, "\n"))
}
