package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/sealed"
	"github.com/doorward/doorward/internal/share"
	"github.com/doorward/doorward/internal/signer"
)

// kindSealed is the kind of knock that these commands give orders to.
var kindSealed = sealed.Kind{}.Name()

var inviteHelp = `Invite somebody: print one line, with which doorward accept on their machine enrols an
SSH key of theirs and makes a profile of this gateway. From then on that key opens the
door. The line alone is printed on standard output, and what else there is to say on
standard error.

The line is a secret until it is used, which it can be once, and for a week at most
unless --expires says otherwise. Send it by a way that only its reader sees, or have it
encrypted to SSH or age keys with --to, as doorward share does. doorward keys lists
the invites that were not used yet; doorward keys withdraw takes one back.

--for is whom it is for: status and the audit trail call the key so. --door is the one
door that the key opens, and all doors with a sealed knock if it is not given. With
--options the key has options as in authorized_keys: from="192.0.2.0/24",
expiry-time="20270101", schedule="Mon-Fri 08:00-18:00", one-address, max-open-for="1h".
With --bind nobody but the owner of that key can use the invite. If the gateway knows
the key already, the line has nothing to enrol with, and only tells where and how to
knock.

With --one-way the visitor's profile has one_way: from then on it knocks with single
packets, which nobody answers, for networks that pass no answers. The door must have
one_way, too, and the key be of Ed25519, or of ECDSA with P-256: security keys and RSA
keys cannot sign single packets. doorward accept itself needs answers: have the line
accepted at home.

The line says where the gateway is: --host, or host in [gateway] of the daemon's
configuration. With several, such as a name and the addresses that it should have, a
visitor's doorward tries all of them.

--rescue prints a sheet of codes instead, for the day when no key is at hand. Each
opens once, from any machine with doorward, where doorward knock --rescue asks for it.
Print the sheet, and keep it as you keep spare keys of your house; the gateway has no
copy. doorward keys withdraw --rescues ends all of them.

` + exitStatus("0 when the invite is made and printed")

const inviteExamples = `  sudo doorward invite --for alice --door ssh
  sudo doorward invite --for alice --expires 1d --to alice.pub >invite.age
  sudo doorward invite --for ci --bind ci.pub --options 'from="192.0.2.0/24"'
  sudo doorward invite --for phone --qr
  sudo doorward invite --rescue 10 --door ssh | lpr

What alice types, on any system:

  doorward accept doorward-invite:...

and, if it is encrypted, with the file, or with age where the key has a passphrase:

  doorward accept invite.age
  age -d -i ~/.ssh/id_ed25519 invite.age | doorward accept -`

// inviteOptions are the flags of invite.
type inviteOptions struct {
	sealed.InviteArgs
	bind    string
	expires string
	hosts   []string
	to      []string
	rescue  int
	qr      bool
	json    bool
}

func newInvite(e *env) *cobra.Command {
	var o inviteOptions
	c := &cobra.Command{
		Use:               "invite --for NAME [--door DOOR] [--expires TIME] [--to KEY]... | --rescue NUMBER",
		Short:             "make an invite, with which somebody enrols their SSH key",
		Long:              inviteHelp,
		Example:           inviteExamples,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&o.For, "for", "", "whom it is for: the `NAME` of the key that it enrols")
	f.StringVar(&o.Door, "door", "", "the one `DOOR` that it is for (default: all with a sealed knock)")
	f.StringVar(&o.expires, "expires", "7d", "the `TIME` for which it can be used, such as 12h or 7d")
	f.StringVar(&o.Options, "options", "", "`OPTIONS` of the key, as in authorized_keys")
	f.StringVar(&o.bind, "bind", "", "the one `KEY` that it is for: a fingerprint, or a public key or its file")
	f.BoolVar(&o.OneWay, "one-way", false, "have it knock with single packets, where networks pass no answers")
	f.StringArrayVar(&o.hosts, "host", nil, "name or address of this gateway for visitors (default: the configuration's)")
	f.IntVar(&o.rescue, "rescue", 0, "print a sheet with this `NUMBER` of rescue codes instead, 1 to 100")
	f.StringArrayVar(&o.to, "to", nil, "encrypt it to this public `KEY`, or to those of a file")
	f.BoolVar(&o.qr, "qr", false, "draw it as a QR code, too")
	f.BoolVar(&o.json, "json", false, "print JSON")
	operatorFlags(e, c)
	daemons := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if err := o.check(f.Changed); err != nil {
			return &usageError{withHint(err, "%s --help", c.CommandPath())}
		}
		return daemons(c, args)
	}
	c.RunE = asking(func(c *cobra.Command, _ []string) error {
		if o.rescue > 0 {
			return o.sheet(c.Context(), e, e.client(c))
		}
		return o.invite(c.Context(), e, e.client(c))
	})
	c.RegisterFlagCompletionFunc("door", completeDoors(e))
	return c
}

// check checks which flags go together, and reads what is not handed on as it is.
func (o *inviteOptions) check(given func(string) bool) (err error) {
	if given("quiet") {
		return errors.New("--quiet would make secrets that nobody sees: 2>/dev/null leaves them alone on standard output")
	}
	if given("rescue") {
		for _, name := range []string{"for", "expires", "options", "bind", "one-way", "to", "qr"} {
			if given(name) {
				return fmt.Errorf("--rescue and --%s exclude one another", name)
			}
		}
		if o.rescue < 1 || o.rescue > 100 {
			return fmt.Errorf("--rescue %d: allowed are 1 to 100 codes", o.rescue)
		}
		return o.checkHosts()
	}
	switch {
	case o.For == "":
		return errors.New("--for is missing: whom the invite is for, such as --for alice")
	case o.qr && (o.json || len(o.to) > 0):
		return errors.New("--qr goes with neither --json nor --to")
	}
	if given("expires") {
		lasts, err := timeSpan(o.expires)
		if err != nil {
			return fmt.Errorf("--expires %q: allowed is a time such as 12h, 7d or 4w", o.expires)
		}
		o.Seconds = int64(lasts / time.Second)
	}
	if o.bind != "" {
		if o.Key, err = boundTo(o.bind, o.OneWay); err != nil {
			return fmt.Errorf("--bind: %w", err)
		}
	}
	return o.checkHosts()
}

func (o *inviteOptions) checkHosts() error {
	for _, h := range o.hosts {
		if err := config.CheckHost(h); err != nil {
			return fmt.Errorf("--host: %w", err)
		}
	}
	return nil
}

// timeSpan reads a duration that may have days and weeks.
func timeSpan(text string) (time.Duration, error) {
	for unit, days := range map[string]int{"d": 1, "w": 7} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.ParseUint(number, 10, 10) // of ten bits: no product overflows
			return time.Duration(n) * time.Duration(days) * 24 * time.Hour, err
		}
	}
	lasts, err := time.ParseDuration(text)
	if err == nil && lasts < time.Second {
		err = fmt.Errorf("%q is less than a second", text)
	}
	return lasts, err
}

// boundTo returns the fingerprint of a key that is given by it, as a line, or in a file.
func boundTo(key string, oneWay bool) (string, error) {
	if f, err := credential.ParseFingerprint(key); err == nil {
		return f.String(), nil
	}
	text := []byte(key)
	if !strings.Contains(key, " ") {
		var err error
		if text, err = files.Given(key, maxKeys); err != nil {
			return "", fmt.Errorf("neither a fingerprint (SHA256:...) nor a public key nor a file of one: %w", err)
		}
	}
	list, problems := credential.Parse(text, key)
	switch {
	case len(problems) > 0:
		return "", errors.New(problems[0].String())
	case len(list) != 1:
		return "", fmt.Errorf("%d keys: needed is one", len(list))
	}
	if kind := list[0].Type(); oneWay && !signer.FitsSingle(kind) {
		return "", fmt.Errorf("the key %s is of type %s, and with --one-way %w: ask for another key", list[0].Fingerprint, kind, signer.ErrNotSingle)
	}
	return list[0].Fingerprint.String(), nil
}

// invite makes one and prints it.
func (o *inviteOptions) invite(ctx context.Context, e *env, daemon *control.Client) error {
	// All that can fail is asked before there is an invite.
	hosts, err := o.gateway(ctx, e, daemon)
	if err != nil {
		return err
	}
	to, err := (&shareOptions{to: o.to}).given(e, "")
	if err != nil {
		return err
	}
	made, err := orderSealed[sealed.Invite](ctx, daemon, sealed.OrderInvite, o.InviteArgs)
	if err != nil {
		return err
	}
	line, err := lineOf(made, hosts)
	if err != nil {
		return err
	}
	text := line + "\n"
	if len(to) > 0 {
		cipher, err := share.Encrypt(text, to)
		if err != nil {
			return fmt.Errorf("encrypt the invite: %w", err)
		}
		text = string(cipher)
	}
	if o.json {
		return printJSON(e.stdout, inviteJSON{Invite: text, For: credential.Name(o.For), Door: o.Door, Encrypted: len(to) > 0,
			Bound: made.Bound, OneWay: made.OneWay, Expires: made.Expires, Hosts: hosts, Port: made.Port, Fingerprint: made.Fingerprint})
	}
	before, after := o.words(e, made, to)
	fmt.Fprint(e.stderr, before)
	if _, err := io.WriteString(e.stdout, text); err != nil {
		return err
	}
	if o.qr {
		drawn, err := drawQR(line, output.IsTerminal(e.stdout))
		if err != nil {
			return err
		}
		if _, err := io.WriteString(e.stdout, "\n"+drawn); err != nil {
			return err
		}
	}
	_, err = io.WriteString(e.stderr, after)
	return err
}

// inviteJSON is what invite prints with --json.
type inviteJSON struct {
	Invite      string    `json:"invite"`    // the line, which is a secret, or what is encrypted
	Encrypted   bool      `json:"encrypted"` // invite is a text of age's
	For         string    `json:"for"`       // whom it is for
	Door        string    `json:"door"`      // the one door that it is for, "" for all
	Bound       bool      `json:"bound"`     // the key is known already, and the invite enrols none
	OneWay      bool      `json:"one_way"`   // the key knocks with single packets once it is enrolled
	Expires     time.Time `json:"expires"`
	Hosts       []string  `json:"hosts"` // where visitors find the gateway; never null
	Port        uint16    `json:"port"`
	Fingerprint string    `json:"fingerprint"` // of the gateway's key
}

// words are what is said around the line.
func (o *inviteOptions) words(e *env, made sealed.Invite, to []share.Key) (before, after string) {
	who := output.Text(credential.Name(o.For))
	until := output.Clock(made.Expires, e.clock())
	door := "every door with a sealed knock"
	if o.Door != "" {
		door = "door " + o.Door
	}
	say := func(format string, args ...any) string {
		return strings.Join(output.Wrap(fmt.Sprintf(format, args...), output.PlainWidth), "\n") + "\n"
	}
	if made.Bound {
		before = say("The key of %s is known already. This line tells how to knock at %s, until %s, and enrols nobody. It is a secret all "+
			"the same: it has what tells a knock from noise.", who, door, until)
	} else {
		before = say("An invite for %s to %s. It enrols one key, once, until %s. Until then it is a secret: whoever reads it first can use it.",
			who, door, until)
	}
	how := "doorward accept LINE"
	if len(to) > 0 {
		how = "doorward accept FILE\nor, with a key that has a passphrase:\n  age -d -i ~/.ssh/id_ed25519 FILE | doorward accept -"
	} else {
		before += say("Send it by a way that only %s reads, or encrypt it: --to KEY.pub", who)
	}
	if made.OneWay {
		before += say("Once it is accepted, which needs a network that passes answers, %s knocks with single packets.", who)
	}
	after = "\n" + say("What %s types, on any system with doorward:", who) + "\n  " + how + "\n"
	if !made.Bound {
		after += "\n" + say("To take it back before that: doorward keys withdraw %s", files.Quoted(credential.Name(o.For)))
	}
	return before + "\n", after
}

// gateway returns where visitors find the gateway.
func (o *inviteOptions) gateway(ctx context.Context, e *env, daemon *control.Client) ([]string, error) {
	if len(o.hosts) > 0 {
		return o.hosts, nil
	}
	missing := errors.New("--host is missing: the name or address by which visitors reach this gateway")
	s, err := daemon.Status(ctx)
	if err != nil {
		return nil, err
	}
	const once = "or, once for all, in %s: [gateway] host = \"gate.example.org\""
	c, _, err := config.Load(s.Config)
	switch {
	case err != nil:
		return nil, &usageError{withHint(fmt.Errorf("%w; it could not be read from the configuration: %w", missing, err), "%s --host gate.example.org", e.again())}
	case c.Gateway.Host == "":
		return nil, &usageError{withHint(missing, "%s --host gate.example.org; "+once, e.again(), s.Config)}
	}
	return []string{c.Gateway.Host}, nil
}

// lineOf writes an invite as one line.
func lineOf(made sealed.Invite, hosts []string) (string, error) {
	f, err := seal.ParseFingerprint(made.Fingerprint)
	if err != nil || len(made.Code) != 16 || len(made.Profile) != 16 {
		return "", errors.New("the daemon's answer has no invite in it: doorward and doorwardd are not of the same version")
	}
	v := profile.Invite{Expires: made.Expires, Secret: seal.Profile(made.Profile), Code: [16]byte(made.Code), Fingerprint: f,
		Port: made.Port, TCP: made.TCP, Bound: made.Bound, OneWay: made.OneWay, AnySource: made.AnySource,
		Door: made.Door, Name: profile.NameFor(hosts), Hosts: hosts}
	if err := v.Check(); err != nil {
		return "", fmt.Errorf("the invite cannot be written as a line: %w", err)
	}
	return v.String(), nil
}

// orderSealed gives an order to the sealed knock, and reads its answer.
func orderSealed[R any](ctx context.Context, daemon *control.Client, order string, args any) (reply R, err error) {
	_, err = orderTo(ctx, daemon, order, args, &reply)
	return reply, err
}

// orderTo is orderSealed, and returns how many grants the order has ended.
func orderTo(ctx context.Context, daemon *control.Client, order string, args, reply any) (ended int, err error) {
	answer, err := daemon.Kind(ctx, kindSealed, order, args)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(answer.Result, reply); err != nil {
		return 0, &control.Error{Code: control.CodeInternal, Cause: err,
			Message: "the daemon's answer cannot be read: doorward and doorwardd are not of the same version", Hint: "doorward version"}
	}
	return answer.Ended, nil
}
