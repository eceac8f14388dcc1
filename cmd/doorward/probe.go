package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/visit"
)

const probeHelp = `See from here whether a door does what it is for, in five steps: its port is dark
(dark_before), the gateway opens the door to a knock (knock), the port accepts (open),
the gateway closes the door (close), and the port is dark again (dark_after). Dark means
that nothing answers for --quiet-for: a refusal is an answer, too. The first step that
fails ends it, and is named. Whatever a knock may have opened the probe closes first,
also when the answer was lost, or the probe is interrupted; where it cannot, it says
that the door may still be open.

If the port accepts before the knock, probe stops there and touches nothing: perhaps
somebody at this address has opened the door, and their grant is not to be disturbed.
Run it from an address of its own, with a key of its own that does not ask for a touch.
Other doorward programs of the same user wait until the probe is over.

--port is the port that is looked at, or else the door's first of TCP, once a knock has
told which that is. --metrics prints text for Prometheus, whether the probe succeeds or
not; doorward_probe_timestamp_seconds tells when it was.

Exit status: 0 when all steps have succeeded; 1 when the port was not dark, or something
failed here; 2 when the command line is wrong; 5 when there is no such door; 6 when the
gateway refuses; 7 when it does not answer, or the port does not open.`

const probeExamples = `  doorward probe gate
  doorward probe gate web --port 443 --json
  doorward probe gate --metrics >/var/lib/node_exporter/gate.prom.new`

// The steps of a probe.
const (
	stepDarkBefore = "dark_before"
	stepKnock      = "knock"
	stepOpen       = "open"
	stepClose      = "close"
	stepDarkAfter  = "dark_after"
)

var probeSteps = []string{stepDarkBefore, stepKnock, stepOpen, stepClose, stepDarkAfter}

// probeJSON is what probe --json prints.
type probeJSON struct {
	Profile string `json:"profile"`
	Door    string `json:"door"`   // "" for the gateway's first
	Port    string `json:"port"`   // that was looked at, such as 22/tcp
	OK      bool   `json:"ok"`     // what exit status 0 says
	Failed  string `json:"failed"` // the step that has failed, or ""
	// MayBeOpen says that the door may be open to this address now that the probe has
	// ended: its port answers, or nobody has confirmed that it is closed.
	MayBeOpen bool            `json:"may_be_open"`
	Time      time.Time       `json:"time"`  // of the end
	Steps     []probeStepJSON `json:"steps"` // dark_before, knock, open, close, dark_after
}

// probeStepJSON is one step.
type probeStepJSON struct {
	Step    string  `json:"step"`
	State   string  `json:"state"` // ok, failed, or skipped
	TookMS  float64 `json:"took_ms"`
	Message string  `json:"message"` // what was seen, for people
}

// probeOptions are the flags of probe.
type probeOptions struct {
	port     string
	quietFor time.Duration
	timeout  time.Duration
	json     bool
	metrics  bool
}

func newProbe(e *env) *cobra.Command {
	var o probeOptions
	c := &cobra.Command{
		Use:               "probe PROFILE [DOOR] [--port PORT] [--json | --metrics]",
		Short:             "see whether a door is dark, opens to a knock, and is dark again",
		Long:              probeHelp,
		Example:           probeExamples,
		ValidArgsFunction: completeProfiles(e),
		Args: func(c *cobra.Command, args []string) (err error) {
			switch err = profileAndDoor(args); {
			case err != nil:
			case o.json && o.metrics:
				err = errors.New("--json and --metrics exclude one another")
			case o.quietFor <= 0 || o.timeout <= 0:
				err = errors.New("--quiet-for and --timeout must be more than 0")
			case o.port != "":
				if _, err = parseTCPPort(o.port); err != nil {
					err = fmt.Errorf("--port: %w", err)
				}
			}
			if err != nil {
				return &usageError{withHint(err, "%s --help", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), e, args[0], firstOf(args[1:])) },
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&o.port, "port", "", "look at this TCP `PORT` (default: the door's first)")
	f.DurationVar(&o.quietFor, "quiet-for", time.Second, "how long nothing must answer for the port to be dark")
	f.DurationVar(&o.timeout, "timeout", waitPatience, "the longest that is waited for the port to open")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.BoolVar(&o.metrics, "metrics", false, "print text for Prometheus")
	return c
}

// run carries out the command.
func (o *probeOptions) run(ctx context.Context, e *env, name, door string) error {
	p, err := loadPassage(e, name, door)
	if err != nil {
		return err
	}
	if p.profile.OneWay {
		return withHint(fmt.Errorf("profile %q has one_way: single packets are not answered, and close nothing", name), "doorward knock %s --wait PORT", name)
	}
	b := &probe{entrance: newEntrance(e, p), o: o}
	if b.port, _ = parseTCPPort(o.port); o.port == "" {
		b.port = firstTCP(p.profile.Ports[p.request.Door])
	}
	if b.port == 0 {
		return &usageError{withHint(errors.New("--port is missing: which port the door has, is not known before its first knock"), "doorward probe %s --port 22", name)}
	}
	if err = b.unlock(ctx); err == nil {
		err = b.steps(ctx)
	}
	if ctx.Err() != nil && err != nil {
		err = interrupted(ctx, "while probing")
	}
	if b.unclosed {
		fmt.Fprintf(e.stderr, "doorward: note: the door may still be open to this machine, until its grant ends: %s\n", b.closing())
	}
	if ctx.Err() != nil && o.metrics {
		return err // which says nothing of the door
	}
	if said := b.print(err); said != nil {
		return said
	}
	return err
}

// probe is one run.
type probe struct {
	*entrance
	o         *probeOptions
	port      uint16
	addrs     []netip.Addr
	done      []probeStepJSON
	opened    client.Result
	mayBeOpen bool
	unclosed  bool // the probe has, perhaps, opened the door, and could not close it
}

// steps takes the steps, the other calls of this user being kept out meanwhile.
func (b *probe) steps(ctx context.Context) (err error) {
	turn, err := b.turn(ctx)
	if err != nil {
		return err
	}
	defer turn.Release()
	stay := b.stay(ctx)
	defer stay.End()
	if err := b.step(stepDarkBefore, func() (string, error) { return b.darkBefore(ctx) }); err != nil {
		return err
	}
	opens := b.step(stepKnock, func() (string, error) { return b.knockAt(ctx) })
	if opens != nil && !b.opened.Done() && !b.opened.Unanswered {
		return opens // and so nothing was opened
	}
	if opens == nil {
		opens = b.step(stepOpen, func() (string, error) { return b.opens(ctx) })
	}
	b.mayBeOpen = true
	if b.leave(stay) {
		return cmp.Or(opens, error(&control.Error{Code: control.CodeFailed, Message: "the probe did not come to its end: the door is left open, since " + b.needed}))
	}
	// What the probe has opened it closes, whether it can be used or not.
	shut := b.step(stepClose, func() (string, error) { return b.shutAgain(context.WithoutCancel(ctx)) })
	b.mayBeOpen, b.unclosed = shut != nil, shut != nil
	if opens != nil || shut != nil {
		return cmp.Or(opens, shut)
	}
	return b.step(stepDarkAfter, func() (string, error) { return b.dark(ctx) })
}

// step takes one step, and writes down what came of it.
func (b *probe) step(name string, take func() (string, error)) error {
	began := time.Now()
	said, err := take()
	s := probeStepJSON{Step: name, State: "ok", TookMS: ms(time.Since(began)), Message: said}
	if err != nil {
		s.State, s.Message = "failed", err.Error()
		if hint := hintOf(err); hint != "" {
			s.Message += "; " + hint
		}
	}
	b.done = append(b.done, s)
	return err
}

// darkBefore looks whether the port is dark before there is a knock.
func (b *probe) darkBefore(ctx context.Context) (string, error) {
	var unknown error
	for _, h := range b.profile.Hosts {
		families, err := b.visitor.Resolve(ctx, h, visit.Both)
		unknown = errors.Join(unknown, err)
		for _, a := range slices.Concat(families...) {
			if !slices.Contains(b.addrs, a) {
				b.addrs = append(b.addrs, a)
			}
		}
	}
	if len(b.addrs) == 0 {
		return "", unknown
	}
	said, err := b.dark(ctx)
	if err == nil {
		return said, nil
	}
	hint := "if nobody at this address has opened the door, it is not guarded: doorward status and doctor on the gateway"
	if k := b.door.Known(); len(b.standing(k)) > 0 {
		hint = "this user has opened the door from here; the grant ends at " + k.Until.In(b.e.clock().Location()).Format(time.TimeOnly)
	}
	return "", withHint(err, "%s", hint)
}

// dark looks at the port at each of the gateway's addresses: nothing must answer. An address
// to which there is no way from here says nothing, but one must.
func (b *probe) dark(ctx context.Context) (string, error) {
	opened := make([]visit.Opened, len(b.addrs))
	var all sync.WaitGroup
	for i, a := range b.addrs {
		all.Go(func() { opened[i] = b.look(ctx, a) })
	}
	all.Wait()
	if ctx.Err() != nil {
		return "", interrupted(ctx, "while it looked")
	}
	b.mayBeOpen = slices.ContainsFunc(opened, func(o visit.Opened) bool { return o.Err == nil || o.Refuses() })
	var silent []string
	var why []error
	for _, o := range opened {
		switch {
		case o.Err == nil:
			return "", fmt.Errorf("%d/tcp accepts connections at %s", b.port, o.Address)
		case o.Refuses():
			return "", fmt.Errorf("%d/tcp refuses connections at %s, and is not silent: something answers for it", b.port, o.Address)
		case o.Silent():
			silent = append(silent, o.Address.String())
		default:
			why = append(why, fmt.Errorf("%s %s", o.Address, o.WhyShut()))
		}
	}
	if len(silent) == 0 {
		return "", errors.Join(why...)
	}
	return fmt.Sprintf("%d/tcp is silent at %s", b.port, strings.Join(silent, ", ")), nil
}

// look tries the port at one address.
func (b *probe) look(ctx context.Context, a netip.Addr) visit.Opened {
	within, cancel := context.WithTimeout(ctx, b.o.quietFor)
	defer cancel()
	o := b.visitor.Try(within, a, b.port)
	if o.Conn != nil {
		o.Conn.Close()
	}
	return o
}

// knockAt knocks.
func (b *probe) knockAt(ctx context.Context) (said string, err error) {
	if b.opened, err = b.visit(ctx); err != nil {
		return "", failed(ctx, err)
	}
	return strings.Join(lines(b.opened, b.e.clock()), ", "), nil
}

// opens looks whether the port accepts where the gateway has opened it, over each family.
func (b *probe) opens(ctx context.Context) (string, error) {
	within, cancel := context.WithTimeout(ctx, b.o.timeout)
	defer cancel()
	opened := b.visitor.Wait(within, attempts(b.opened), b.port, false)
	if ctx.Err() != nil {
		return "", interrupted(ctx, "while waiting")
	}
	var where []string
	for _, o := range opened {
		if o.Err != nil {
			return "", b.shut([]visit.Opened{o}, b.port, b.o.timeout)
		}
		where = append(where, o.Address.String())
	}
	return fmt.Sprintf("%d/tcp accepts connections at %s", b.port, strings.Join(where, ", ")), nil
}

// shutAgain has the gateway close the door.
func (b *probe) shutAgain(ctx context.Context) (string, error) {
	p := *b.passage
	p.request.Action = seal.Close
	r, err := p.visit(ctx)
	if err != nil {
		return "", failed(ctx, err)
	}
	b.door.Forget()
	return strings.Join(lines(r, b.e.clock()), ", "), nil
}

// print prints what was seen.
func (b *probe) print(err error) error {
	j := probeJSON{Profile: b.profile.Name, Door: b.request.Door, Port: fmt.Sprintf("%d/tcp", b.port), OK: err == nil, MayBeOpen: b.mayBeOpen, Time: b.e.clock()}
	for _, name := range probeSteps {
		s := probeStepJSON{Step: name, State: "skipped"}
		if i := slices.IndexFunc(b.done, func(d probeStepJSON) bool { return d.Step == name }); i >= 0 {
			s = b.done[i]
		} else if name == stepClose {
			s.Message = b.needed
		}
		if j.Steps = append(j.Steps, s); s.State == "failed" && j.Failed == "" {
			j.Failed = s.Step
		}
	}
	switch {
	case b.o.json:
		return printJSON(b.e.stdout, j)
	case b.o.metrics:
		return j.metrics(b.e.stdout)
	}
	for _, s := range j.Steps {
		if _, err := fmt.Fprintln(b.e.stdout, strings.TrimSpace(fmt.Sprintf("%-11s  %-7s  %s", s.Step, s.State, s.Message))); err != nil {
			return err
		}
	}
	return nil
}

// metrics prints text for Prometheus (its exposition formats).
func (j probeJSON) metrics(w io.Writer) error {
	var b strings.Builder
	label := fmt.Sprintf("profile=%q,door=%q", j.Profile, j.Door)
	number := map[bool]int{true: 1}
	family := func(name, help string) {
		fmt.Fprintf(&b, "# HELP doorward_probe_%s %s\n# TYPE doorward_probe_%s gauge\n", name, help, name)
	}
	family("success", "Whether all steps of the last probe have succeeded.")
	fmt.Fprintf(&b, "doorward_probe_success{%s} %d\n", label, number[j.OK])
	family("timestamp_seconds", "When the last probe has ended.")
	fmt.Fprintf(&b, "doorward_probe_timestamp_seconds{%s} %d\n", label, j.Time.Unix())
	family("may_be_open", "Whether the door may be open, to this address, after the last probe.")
	fmt.Fprintf(&b, "doorward_probe_may_be_open{%s} %d\n", label, number[j.MayBeOpen])
	family("step_success", "Whether a step has succeeded. Those that were skipped are missing.")
	for _, s := range j.Steps {
		if s.State != "skipped" {
			fmt.Fprintf(&b, "doorward_probe_step_success{%s,step=%q} %d\n", label, s.Step, number[s.State == "ok"])
		}
	}
	family("step_duration_seconds", "How long a step has taken.")
	for _, s := range j.Steps {
		if s.State != "skipped" {
			fmt.Fprintf(&b, "doorward_probe_step_duration_seconds{%s,step=%q} %g\n", label, s.Step, s.TookMS/1000)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
