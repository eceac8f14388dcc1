package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/client"
)

const runHelp = `Knock at a gateway, wait until the door's first TCP port accepts, run COMMAND, and keep
the door open while it runs, as doorward hold does: it may connect as often as it likes,
and the machine may change networks. When the command has ended, run closes the door
behind it, unless another call of yours needs it (see doorward hold).

The command is run without a shell. Signals that run gets are passed to it; what a
terminal's keys send (Ctrl-C) it has from there. What doorward has to say is on standard
error.

The wait is a connection that is closed again. Where the service minds that, and for a
door with single_use = true, there is --no-wait.

Exit status: 0 when the command has ended so; else the command's own, or 128 and the
number of the signal that has ended it; 125 when something fails before it, 126 when it
cannot be run, and 127 when it is not found.`

const runExamples = `  doorward run gate web -- curl https://gate.example.org/
  doorward run gate db -- psql -h gate.example.org
  doorward run gate --open-for 1h -- borg create ssh://gate/srv/backup::today ~`

func newRun(e *env) *cobra.Command {
	var o sealedOptions
	var noWait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:               "run PROFILE [DOOR] [--open-for TIME] -- COMMAND ARG...",
		Short:             "knock, run a command, and keep the door open while it runs",
		Long:              runHelp,
		Example:           runExamples,
		ValidArgsFunction: completeProfiles(e),
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		dash := c.ArgsLenAtDash()
		wrong := errors.New(`the command is missing: it goes after "--"`)
		if dash >= 0 && dash < len(args) {
			wrong = profileAndDoor(args[:dash])
		}
		switch {
		case wrong != nil:
		case o.openFor < 0 || o.openFor%time.Second != 0:
			wrong = fmt.Errorf("--open-for %v: allowed are whole seconds, such as 90s or 2h", o.openFor)
		case timeout <= 0:
			wrong = errors.New("--timeout must be more than 0")
		}
		if wrong != nil {
			return own(&usageError{withHint(wrong, "%s --help", c.CommandPath())}, dash >= 0)
		}
		if o.profile = args[0]; dash > 1 {
			o.door = args[1]
		}
		p, err := o.load(e)
		if err == nil {
			n := newEntrance(e, p)
			n.timeout = timeout
			ctx, stop := untilHangUp(c.Context())
			defer stop()
			err = n.run(ctx, args[dash:], !noWait)
		}
		return own(err, true)
	}
	f := c.Flags()
	f.SortFlags = false
	f.DurationVar(&o.openFor, "open-for", 0, "ask for this `TIME` with each knock, such as 10m, instead of what the door says")
	f.BoolVar(&noWait, "no-wait", false, "do not wait until the door's port accepts")
	f.DurationVar(&timeout, "timeout", waitPatience, "the longest that is waited for the port")
	return c
}

// run holds the door while a command runs.
func (n *entrance) run(ctx context.Context, argv []string, wait bool) error {
	if n.profile.OneWay {
		return withHint(fmt.Errorf("profile %q has one_way: single packets are not answered, so that nobody knows how long the door is open", n.profile.Name),
			"doorward knock %s --wait PORT -- COMMAND", n.profile.Name)
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return notRun(argv[0], path, err)
	}
	if err := n.unlock(ctx); err != nil {
		return err
	}
	h := n.hold(ctx)
	defer h.end()
	select {
	case <-h.opened:
	case <-h.ended:
		return failed(ctx, n.shown(h.err))
	}
	if wait {
		if err := n.accepts(ctx, h.first); err != nil {
			return err
		}
	}
	if !h.detach() { // from here on signals are the command's
		return interrupted(ctx, "before the command was run")
	}
	return n.child(path, argv)
}

// accepts waits until the door's first TCP port accepts, if it has one.
func (n *entrance) accepts(ctx context.Context, r client.Result) error {
	port := firstTCP(n.profile.Ports[n.request.Door])
	if port == 0 {
		return nil
	}
	conn, err := n.wait(ctx, n.knownFrom(r), port, n.timeout)
	if err != nil {
		return err
	}
	return conn.Close()
}

// heldDoor is a door that is held open beside something else.
type heldDoor struct {
	opened chan struct{} // closed with the first knock that has opened
	ended  chan struct{} // closed at the end
	first  client.Result // what has opened; once opened is closed
	err    error         // once ended is closed
	end    func()        // ends it, and waits until the door is closed
	detach func() bool   // from the context that was given
}

// hold holds the door, until its end is called or ctx ends.
func (n *entrance) hold(ctx context.Context) *heldDoor {
	h := &heldDoor{opened: make(chan struct{}), ended: make(chan struct{})}
	within, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h.detach = context.AfterFunc(ctx, cancel)
	h.end = func() { cancel(); <-h.ended }
	k := n.knock()
	stay := n.stay(ctx)
	k.Leave = func() bool { return n.leave(stay) }
	open := false
	tell := func(held client.Held) {
		switch {
		case held.Err == nil && !open:
			open = true
			n.learn(held.Result)
			n.held(held)
			h.first = held.Result
			close(h.opened)
			return
		case held.Err != nil && held.Why == client.HeldReturn:
			fmt.Fprintf(n.e.stderr, "doorward: note: not closed, since %v; the grant ends by itself\n", held.Err)
		case held.Err != nil && open:
			fmt.Fprintf(n.e.stderr, "doorward: note: the door may close: %v\n", held.Err)
		}
		n.held(held)
	}
	go func() { // ends with within, or with an error
		defer close(h.ended)
		defer stay.End()
		h.err = n.e.knocker().Hold(within, k, tell)
	}()
	return h
}

// child runs a command, passes signals to it, and returns its exit status as an error.
func (n *entrance) child(path string, argv []string) error {
	c := exec.Command(path, argv[1:]...)
	c.Args[0] = argv[0]
	c.Stdin, c.Stdout, c.Stderr = n.e.stdin, n.e.stdout, n.e.stderr
	got := make(chan os.Signal, 8)
	for _, s := range passedOn {
		if !signal.Ignored(s) { // as under nohup: it stays ignored
			signal.Notify(got, s)
		}
	}
	defer signal.Stop(got)
	if err := c.Start(); err != nil {
		return notRun(argv[0], path, err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	for {
		select {
		case s := <-got:
			if !fromTerminal(s) {
				_ = c.Process.Signal(s) // it may have ended
			}
		case err := <-done:
			return ended(argv[0], path, err)
		}
	}
}

// ended is the exit status of a command that has ended.
func ended(name, path string, err error) error {
	x, ok := errors.AsType[*exec.ExitError](err)
	if err == nil {
		return nil
	}
	if !ok {
		return notRun(name, path, err)
	}
	if x.Exited() {
		return &statusError{code: x.ExitCode()}
	}
	if s, ok := x.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return &statusError{code: 128 + int(s.Signal())}
	}
	return &statusError{code: statusOwn, err: fmt.Errorf("command %q: %w", name, err)}
}
