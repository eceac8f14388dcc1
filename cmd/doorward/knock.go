package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/relay"
	"github.com/doorward/doorward/internal/turns"
	"github.com/doorward/doorward/internal/visit"
)

const knockHelp = `Knock at a gateway.

With a PROFILE, which doorward accept has made of an invite, your SSH key opens the
door: an encrypted handshake over UDP, or TCP where the profile has it and UDP does not
get through. IPv4 and IPv6 are both opened. DOOR is one of the gateway's, and the
profile's first otherwise. The gateway says until when the door is open and to which
address, or why not. While its service is being started, doorward waits for up to a
minute.

--open-for asks for a time, --extend for more of it where the door is open already, and
--close gives it back; --address opens to another address than the own, where the key
may do that. --rescue asks on the terminal for a rescue code of the gateway's, instead
of using a key: it is typed on no command line. A key that is encrypted asks for its
passphrase on the terminal, or by SSH_ASKPASS as ssh does, unless ssh-agent has it. A
security key is to be touched, once for IPv4 and IPv6.

With --touch or --from, the knock is one of touches: complete a TCP connection to each
port of --touch, in the order given, and close it at once. No other port is contacted.
Several --touch are one list: --touch 59000,59002 and --touch 59000 --touch 59002 are
the same. The next port is touched when the handshake with the one before is complete,
and --delay after it, so that the gateway sees them in their order. Where the network
loses or delays packets, and knocks come to nothing, a longer --delay helps: a packet
that is lost is sent again after a fifth of a second or later.

HOST is a name or an address. It may also be written as for ssh: a user, as in
you@host, is ignored, and a port, as in host:22, is the one to wait for. ssh://host
means host:22.

--from reads HOST, the ports and the port to wait for from a file that doorward share
wrote, encrypted or not. The file is data and can contain nothing else; --wait
overrides the port in it. If your key has a passphrase, use age to decrypt the file:
age -d FILE | doorward knock --from -

With --wait PORT, doorward then tries that port, the door's own, until it accepts a
connection. With touches that is the proof that the knock was right: a gateway responds
to a wrong one exactly as to a right one, and without --wait, success means that every
port was touched.

A gateway lets in the source that knocked, and the IPv4 and IPv6 addresses of one
machine are two sources. If HOST has addresses of both families, doorward knocks over
both, in the resolver's order, so that whatever follows gets in over either. One of them
is enough: an address that cannot be reached is skipped. -4 and -6 choose one.

Concurrent calls with touches, by ansible, git or an editor, share one knock: one of
them knocks at a time, and with --wait the others find that the door is open. They
coordinate through files of the user's own, below XDG_RUNTIME_DIR or the user's cache,
which do not contain the knock.

A gateway lets nobody in who knocks from the gateway itself: use doorward open there.

A command after "--" is run once the knock is done and, with --wait, the port is open.
It is run without a shell, and replaces doorward: terminal, signals and exit status
are its own. With --stdio, the connection that --wait made is connected to standard
input and output, as ssh's ProxyCommand expects; this is the only way to wait at a
door with single_use = true, where the first connection uses up the grant. Each
direction ends by itself: when the gateway has sent everything, standard output is
closed, while standard input is still forwarded to its end. In both cases doorward's
own messages go to standard error.

Exit status: 0 when at least one knock is complete and, with --wait, the port opened
within --timeout, and with --stdio, everything that was sent was delivered; 1 when
not; 2 when the command line is wrong; 7 when the port did not open in time. With a
PROFILE also 5 when the gateway has no such door, 6 when it refuses, and 7 when nothing
answers. With a command: the command's own; 125 when something fails before it, 126 when
it cannot be run, and 127 when it is not found. If doorward is ended by a signal, so is
its status.`

const knockExamples = `  doorward knock gate
  doorward knock gate ssh --open-for 2h -- ssh alice@gate.example.org
  doorward knock gate --close
  doorward knock gate.example.org --touch 59000,59002 --wait 22
  doorward knock gate.example.org --touch 59000,59002 --wait 22 -- ssh alice@gate.example.org
  doorward knock --from knock-ssh-alice.age -- ssh alice@gate.example.org

In ~/.ssh/config, so that ssh, scp and git knock first:

  Match host gate.example.org exec "doorward knock %h --touch 59000,59002 --wait %p"

or, which also works with single_use and on Windows:

  Host gate.example.org
      ProxyCommand doorward knock %h --touch 59000,59002 --wait %p --stdio`

func newKnock(e *env) *cobra.Command { return newKnockWith(e, &visit.Visitor{}) }

func newKnockWith(e *env, v *visit.Visitor) *cobra.Command {
	var o knockOptions
	c := &cobra.Command{
		Use:               "knock PROFILE [DOOR] | HOST --touch PORT[,PORT...] | --from FILE [--wait PORT] [-- COMMAND ARG...]",
		Short:             "knock at a gateway, and wait until the door is open",
		Long:              knockHelp,
		Example:           knockExamples,
		ValidArgsFunction: completeProfiles(e),
		RunE: func(c *cobra.Command, args []string) error {
			dash := c.ArgsLenAtDash()
			err := o.read(e, c.Flags(), args, dash)
			if err == nil {
				err = o.run(c.Context(), e, v)
			}
			return own(err, dash >= 0)
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return own(&usageError{withHint(err, "doorward knock --help")}, slices.Contains(e.args, "--"))
	})
	f := c.Flags()
	f.SortFlags = false
	f.StringArrayVar(&o.touch, "touch", nil, "TCP `PORTS` to touch, in this order, such as 59000,59002; several are one list")
	f.Var(&once{to: &o.from}, "from", "read host and ports from a `FILE` of doorward share, or - for standard input")
	f.StringArrayVarP(&o.identities, "identity", "i", nil, "private key `FILE` of ssh or age that decrypts it "+
		"(default ~/.ssh/id_ed25519 and ~/.ssh/id_rsa)")
	f.Var(&once{to: &o.wait}, "wait", "then wait until this TCP `PORT` accepts, such as 22")
	f.BoolVarP(&o.v4, "ipv4", "4", false, "over IPv4 only")
	f.BoolVarP(&o.v6, "ipv6", "6", false, "over IPv6 only")
	f.BoolVar(&o.both, "both", false, "over both where HOST has both (the default)")
	f.DurationVar(&o.delay, "delay", touchDelay, "pause between one touch and the next")
	f.DurationVar(&o.each, "touch-timeout", 3*time.Second, "the longest that one touch may take")
	f.DurationVar(&o.timeout, "timeout", 10*time.Second, "the longest that --wait waits")
	f.BoolVar(&o.stdio, "stdio", false, "connect standard input and output to the connection that --wait made")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "also say why other calls may knock at the same time")
	f.BoolVar(&o.json, "json", false, "print what happened as JSON")
	o.at.flags(f)
	return c
}

// touchDelay is the default of --delay: longer than the error of the age by which the
// kernel tells a daemon that has just been restarted which of two connections was first
// (20 ms, internal/listen).
const touchDelay = 25 * time.Millisecond

// ofProfile are the flags that go with a PROFILE alone, and ofTouches with touches alone.
var (
	ofProfile = []string{"open-for", "address", "close", "extend", "rescue"}
	ofTouches = []string{"touch", "from", "identity", "delay", "touch-timeout"}
)

func (o *knockOptions) family() visit.Family {
	switch {
	case o.v4:
		return visit.IPv4
	case o.v6:
		return visit.IPv6
	}
	return visit.Both
}

// knocked is what came of an invocation.
type knocked struct {
	attempts []visit.Attempt // all of them, none when another call's knock did
	complete []visit.Attempt
	opened   []visit.Opened // with --wait
}

// open says whether the port of --wait has opened anywhere.
func (k *knocked) open() bool {
	return slices.ContainsFunc(k.opened, func(o visit.Opened) bool { return o.Err == nil })
}

// run carries out the whole of one invocation.
func (o *knockOptions) run(ctx context.Context, e *env, v *visit.Visitor) error {
	if o.json {
		return o.attempt(ctx, e, v, func(string, ...any) {})
	}
	to := e.stdout
	if o.stdio || len(o.argv) > 0 {
		to = e.stderr
	}
	var unsaid error
	err := o.attempt(ctx, e, v, func(format string, args ...any) {
		if _, err := fmt.Fprintf(to, format+"\n", args...); unsaid == nil {
			unsaid = err
		}
	})
	if f, ok := errors.AsType[*fs.PathError](unsaid); ok && err == nil && to == e.stdout {
		return notWritable(f)
	}
	return err
}

// notWritable is the error for a standard output that cannot be written to.
func notWritable(err *fs.PathError) error { return fmt.Errorf("write standard output: %w", err.Err) }

// attempt knocks, waits, says what came of it, and lets follow what is to.
func (o *knockOptions) attempt(ctx context.Context, e *env, v *visit.Visitor, say func(string, ...any)) error {
	if o.sealed() {
		return o.attemptSealed(ctx, e, v, say)
	}
	families, err := v.Resolve(ctx, o.host, o.family())
	if err != nil && ctx.Err() != nil {
		return interrupted(ctx, "before the knock was begun")
	}
	if err != nil {
		return err
	}
	if o.itself = v.OnItself(families); o.itself {
		fmt.Fprintf(e.stderr, "doorward: note: %s is this machine itself, and %s\n", o.host, notItself)
	}
	k, err := o.inTurn(ctx, e, v, families, say)
	if err != nil {
		return err
	}
	if o.json {
		if err := printKnock(e.stdout, o, k.attempts, k.opened); err != nil {
			return err
		}
	}
	switch {
	case len(k.complete) == 0:
		return o.noKnock(k.attempts)
	case ctx.Err() != nil:
		return interrupted(ctx, "while waiting")
	}
	return o.finish(ctx, e, k.opened, say)
}

// notItself says why a knock from the gateway itself has no effect, and what has.
const notItself = "a gateway ignores knocks from itself; there, use: doorward open DOOR --source ADDRESS"

// askFor bounds the attempt to find the door still open by another call's knock. It is
// not, where the first connection spends the grant.
const askFor = time.Second

// inTurn knocks when no other call of this user knocks on the gateway, unless
// the door turns out to be open by another one's knock.
func (o *knockOptions) inTurn(
	ctx context.Context, e *env, v *visit.Visitor, families [][]netip.Addr, say func(string, ...any),
) (*knocked, error) {
	t, err := o.takeTurn(ctx, e)
	if err != nil && o.verbose && ctx.Err() == nil {
		fmt.Fprintf(e.stderr, "doorward: note: other calls may knock at the same time: %v\n", err)
	}
	defer t.Release()
	k := &knocked{}
	last := t.Read(e.clock(), o.waitPort, families)
	if k.complete = last.At; len(k.complete) > 0 && !last.Alone {
		if o.await(ctx, v, k, min(askFor, o.timeout)); k.open() {
			say("knocked on %s a moment ago, by another call", o.host)
			return k, nil
		}
		last.Alone = true
	}
	k.attempts, k.complete = o.knockAll(ctx, v, families, say)
	if ctx.Err() != nil {
		err := interrupted(ctx, "before the knock was complete")
		if begun(k.attempts) {
			err = withHint(err, "%s", unfinished)
		}
		return nil, err
	}
	if o.waitPort != 0 && len(k.complete) > 0 {
		if o.await(ctx, v, k, o.timeout); k.open() {
			t.Write(e.clock(), o.waitPort, last.Alone, k.complete)
		}
	}
	return k, nil
}

// await waits for the door for some time.
func (o *knockOptions) await(ctx context.Context, v *visit.Visitor, k *knocked, long time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	k.opened = v.Wait(ctx, k.complete, o.waitPort, o.stdio)
}

// takeTurn waits until no other call knocks on the gateway, for as long as one may
// take.
func (o *knockOptions) takeTurn(ctx context.Context, e *env) (*turns.Turn, error) {
	dir, err := meetingPlace(e)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.longest())
	defer cancel()
	return turns.Take(ctx, dir, o.host)
}

// meetingPlace is the directory where calls of the user meet: a cron job, which has no
// XDG_RUNTIME_DIR, and those of a session, too.
func meetingPlace(e *env) (dir string, err error) {
	base := e.getenv("XDG_RUNTIME_DIR")
	if info, none := os.Stat(e.session); !filepath.IsAbs(base) && none == nil && info.IsDir() {
		base = e.session
	}
	if !filepath.IsAbs(base) {
		if e.cache == nil {
			return "", errors.New("there is no directory for it")
		}
		if base, err = e.cache(); err != nil {
			return "", err
		}
	}
	return turns.Directory(base)
}

// longest is how long one call may take for its knock and its waiting.
func (o *knockOptions) longest() time.Duration {
	const families = 2
	return families*time.Duration(len(o.touchPorts))*(o.each+o.delay) + o.timeout
}

// knockAll knocks over each family in turn and returns all attempts, and those
// that are complete.
func (o *knockOptions) knockAll(
	ctx context.Context, v *visit.Visitor, families [][]netip.Addr, say func(string, ...any),
) (attempts, complete []visit.Attempt) {
	for _, addrs := range families {
		at := v.Knock(ctx, addrs, visit.Knock{Touch: o.touchPorts, Delay: o.delay, Each: o.each})
		attempts = append(attempts, at)
		switch {
		case ctx.Err() != nil:
			return attempts, complete
		case at.Err == nil:
			say("knocked on %s: %s", at.Address, visit.Ports(o.touchPorts))
			complete = append(complete, at)
		case len(families) > 1:
			say("no knock over %s: %v", familyOf(at), at.Err)
		}
	}
	return attempts, complete
}

// finish says what opened, and runs what was to follow.
func (o *knockOptions) finish(
	ctx context.Context, e *env, opened []visit.Opened, say func(string, ...any),
) error {
	var conn net.Conn
	anyOpen := false
	for _, a := range opened {
		switch {
		case a.Err == nil && o.stdio && a.Conn == nil:
			// It opened too, a moment after the one that is used.
		case a.Err == nil:
			say("open: %d/tcp on %s after %v", o.waitPort, a.Address, brief(a.After))
			anyOpen = true
		case len(opened) > 1 && !o.stdio:
			say("not open: %d/tcp on %s: %s", o.waitPort, a.Address, a.WhyShut())
		}
		if a.Conn != nil {
			conn = a.Conn
		}
	}
	switch {
	case o.waitPort != 0 && !anyOpen:
		return o.notOpen(opened)
	case conn != nil:
		return o.join(ctx, e, conn)
	case len(o.argv) > 0:
		return runCommand(e, o.argv)
	case o.waitPort == 0 && o.then != "":
		say("%s", o.then)
	}
	return nil
}

// join joins the connection to the standard streams.
func (o *knockOptions) join(ctx context.Context, e *env, conn net.Conn) error {
	err := relay.Join(ctx, e.stdin, e.stdout, conn)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return interrupted(ctx, "while the connection stood")
	}
	return err
}

// unfinished is what comes of a knock that was begun and not completed.
const unfinished = "a knock left unfinished counts as a wrong one, so wait until the penalty is over (5m by default) before the next"

// begun says whether one of the attempts has been left unfinished.
func begun(attempts []visit.Attempt) bool {
	return slices.ContainsFunc(attempts, func(at visit.Attempt) bool {
		return at.Err != nil && len(at.Touches) > 0 && at.Touches[0].Err == nil
	})
}

// noKnock is the error for a knock that is complete nowhere.
func (o *knockOptions) noKnock(attempts []visit.Attempt) error {
	err := fmt.Errorf("no knock on %s is complete", o.host)
	if len(attempts) == 1 {
		err = attempts[0].Err
	}
	refused := false
	for _, at := range attempts {
		if t, ok := errors.AsType[*visit.TouchError](at.Err); ok {
			refused = refused || t.Refused()
		}
	}
	why := "a wrong host or port, or a firewall in between; the ports of a knock are never guarded, so they should answer at once"
	if refused {
		why = "a wrong host or port, a gateway that is not running, or one that ignores you for a while after a wrong knock"
	}
	if begun(attempts) {
		why += "; " + unfinished
	}
	if o.itself {
		why = notItself
	}
	return withHint(err, "%s", why)
}

// notOpen is the error for a complete knock after which the port stayed shut.
func (o *knockOptions) notOpen(opened []visit.Opened) error {
	err := &control.Error{Code: control.CodeTimeout, Message: fmt.Sprintf("%d/tcp on %s did not open within %v: it %s",
		o.waitPort, opened[0].Address, o.timeout, opened[0].WhyShut())}
	if len(opened) > 1 {
		err.Message = fmt.Sprintf("%d/tcp on %s did not open within %v", o.waitPort, o.host, o.timeout)
	}
	if o.sealed() {
		return o.notOpenSealed(err)
	}
	if o.itself {
		return withHint(err, "%s", notItself)
	}
	return withHint(err, "every port was touched, but these may not be the door's, or you are still penalised for a wrong"+
		" knock (5m by default: wait, because every further knock is ignored), or the service behind the door"+
		" did not start (its operator can see why: doorward log), or the gateway judges knocks at intervals (then try --timeout 90s)")
}

// brief rounds d to what a person reads.
func brief(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

func familyOf(at visit.Attempt) visit.Family {
	if at.Address.Is4() {
		return visit.IPv4
	}
	return visit.IPv6
}
