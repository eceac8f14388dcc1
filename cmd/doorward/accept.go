package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/share"
	"github.com/doorward/doorward/internal/signer"
)

const acceptHelp = `Accept an invite to a gateway: enrol your SSH key there by a first knock, and write a
profile, with which doorward knock knocks from then on.

The invite is one line, which the gateway's operator makes with doorward invite. It may
stand on the command line, where the history of a shell keeps it, and other users of
this machine see it meanwhile: it is short-lived, and counts once. Else it is read from
a FILE, from standard input for "-", or, without an argument on a terminal, it is asked
for. One that is encrypted to ~/.ssh/id_ed25519 or id_rsa is decrypted with that. Where
the key has a passphrase age does it: age -d -i KEY FILE | doorward accept -.

The key is one that ssh-agent has, or of ~/.ssh/id_*.pub. If there are several, accept
asks which; --key names one by its fingerprint, as ssh-add -l lists it, or by the file
of the private key. A file that ends in -cert.pub is a certificate for the key beside
it. The key stays where it is: the gateway gets the public key and a signature.

At the end accept shows the lines by which ssh knocks itself. On a terminal it asks
whether they are to go into ~/.ssh/config; --install puts them there (see doorward
ssh-config).

If the answer is lost, accept the same invite again: the key is enrolled then, and
nothing is lost. An invite that comes after the gateway's secrets have changed replaces
the profile of this gateway.

With the invite at the end of a sheet of rescue codes, --rescue asks for a code, opens
the door with it, and writes a profile without a key.

Exit status: 0 when the gateway has accepted and the profile is written; 1 when
something failed here; 2 when the command line is wrong; 5 when there is no such door;
6 when the gateway refuses; 7 when it does not answer.`

const acceptExamples = `  doorward accept
  doorward accept doorward-invite:AWkoF...
  doorward accept --key ~/.ssh/id_ed25519 --name gate invite.txt`

// acceptOptions are the flags and arguments of accept.
type acceptOptions struct {
	key  string
	name string
	yes  bool
	json bool

	install bool
	rescue  bool
}

// acceptJSON is what accept --json prints.
type acceptJSON struct {
	Profile string      `json:"profile"`
	Path    string      `json:"path"` // of the profile's file
	Key     string      `json:"key"`  // fingerprint
	Public  string      `json:"public_key"`
	Gateway string      `json:"gateway"`    // fingerprint
	SSH     string      `json:"ssh_config"` // lines for ~/.ssh/config
	Knock   passageJSON `json:"knock"`
}

func newAccept(e *env) *cobra.Command {
	var o acceptOptions
	c := &cobra.Command{
		Use:     "accept [LINE | FILE | -] [--key FILE|FINGERPRINT] [--name PROFILE]",
		Short:   "accept an invite to a gateway",
		Long:    acceptHelp,
		Example: acceptExamples,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return &usageError{withHint(fmt.Errorf("%q: one invite only, in quotes if it has blanks", args[1]), "%s --help", c.CommandPath())}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return o.run(c.Context(), e, firstOf(args)) },
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&o.key, "key", "", "enrol this key: the `FILE` of a private key or certificate, or a fingerprint of ssh-agent's")
	f.StringVar(&o.name, "name", "", "call the `PROFILE` so (default: as the invite says)")
	f.BoolVar(&o.install, "install", false, "put the lines for ssh into ~/.ssh/config, as doorward ssh-config does")
	f.BoolVar(&o.rescue, "rescue", false, "with the invite of a sheet of rescue codes: ask for a code, and knock with that instead of a key")
	f.BoolVarP(&o.yes, "yes", "y", false, "ask nothing: take the first key")
	f.BoolVar(&o.json, "json", false, "ask nothing, and print JSON")
	return c
}

// run carries out the command line.
func (o *acceptOptions) run(ctx context.Context, e *env, arg string) error {
	invite, err := readInvite(ctx, e, arg)
	if err != nil {
		return err
	}
	if o.name, err = nameFor(invite, o.name); err != nil {
		return err
	}
	in, err := e.directory()
	if err != nil {
		return err
	}
	if err := mayReplace(e, in, o.name, invite); err != nil {
		return err
	}
	if invite.Expires.Before(e.clock()) {
		fmt.Fprintf(e.stderr, "doorward: note: by this machine's clock the invite has expired on %s\n", output.Clock(invite.Expires, e.clock()))
	}
	p := &passage{e: e, in: in, profile: profileOf(invite, o.name), request: seal.Request{Action: seal.Open, Door: invite.Door}}
	err = o.identify(ctx, p, invite)
	if err != nil && ctx.Err() != nil {
		return interrupted(ctx, "before the key was enrolled")
	}
	if err != nil {
		return err
	}
	r, err := p.enrol(ctx, invite)
	if err != nil {
		return failed(ctx, err)
	}
	if err := in.Save(p.profile, true); err != nil {
		return withHint(fmt.Errorf("the key is enrolled, and the profile is not written: %w", err), "mend that, and accept the same invite again")
	}
	p.notEverywhere(r)
	if err := o.report(p, r); err != nil {
		return err
	}
	return o.offer(ctx, p)
}

// offer puts the lines for ssh into ~/.ssh/config, if that is wanted.
func (o *acceptOptions) offer(ctx context.Context, p *passage) error {
	if sshConfig(p) == "" || o.rescue {
		return nil
	}
	if !o.install && !o.yes && !o.json && output.IsTerminal(p.e.stdin) {
		answer, err := p.e.machine().Ask(ctx, "Put these lines into ~/.ssh/config [y/N]: ", true)
		if err != nil {
			return nil // the profile is written, and nothing else was asked for
		}
		o.install = strings.HasPrefix(strings.ToLower(strings.TrimSpace(string(answer))), "y")
	}
	if !o.install {
		return nil
	}
	return (&sshConfigOptions{install: true, quiet: o.json}).run(p)
}

// identify finds the key to knock with, or asks for a rescue code.
func (o *acceptOptions) identify(ctx context.Context, p *passage, invite profile.Invite) (err error) {
	if o.rescue {
		if !invite.Bound {
			return &usageError{errors.New("--rescue goes with the invite of a sheet of rescue codes: this one enrols a key")}
		}
		if _, err := p.in.Load(p.profile.Name); err == nil { // which has a key
			return &usageError{withHint(fmt.Errorf("profile %s is there already", p.profile.Name), "doorward knock %s --rescue", p.profile.Name)}
		}
		return p.rescue(ctx)
	}
	if p.profile.Key, err = o.choose(ctx, p.e, invite); err != nil {
		return err
	}
	if err = p.unlock(ctx); errors.Is(err, signer.ErrNotSingle) {
		return withHint(errors.Unwrap(err), notSingleHint)
	}
	return err
}

// notSingleHint is what to do where a key cannot sign single packets.
const notSingleHint = "the invite is not used up: ssh-keygen -t ed25519, and accept it again; or --key FILE names another key; or ask for an invite without --one-way"

// readInvite reads the invite from wherever the argument says.
func readInvite(ctx context.Context, e *env, arg string) (v profile.Invite, err error) {
	const most = 16 << 10
	text := []byte(arg)
	switch {
	case arg == "" && output.IsTerminal(e.stdin):
		text, err = e.machine().Ask(ctx, "Invite: ", true)
	case arg == "":
		return v, &usageError{withHint(errors.New(`the invite is missing: LINE, a FILE that has it, or "-" for standard input`), "doorward accept --help")}
	case arg == "-":
		text, err = io.ReadAll(io.LimitReader(e.stdin, most))
	case !profile.IsInvite(arg):
		text, err = files.Given(arg, most)
	}
	if err != nil {
		return v, fmt.Errorf("read the invite: %w", err)
	}
	if share.Encrypted(text) && bytes.Count(text, []byte("\n")) == 0 {
		return v, withHint(errors.New("the invite is encrypted, and has more than this line"), "save it in a FILE: doorward accept FILE")
	}
	text, err = decrypt(e, "the invite", text, nil)
	if closed, ok := errors.AsType[*closedError](err); ok {
		return v, withHint(err, "age -d -i %s FILE | doorward accept -", cmp.Or(closed.locked, "KEY"))
	}
	if err != nil {
		return v, err
	}
	return profile.ParseInvite(string(text))
}

// nameFor is what the profile is to be called: as --name says, or else as the invite does,
// whose author may not choose that ssh goes to the gateway where another host is meant.
func nameFor(v profile.Invite, name string) (string, error) {
	if name != "" {
		if err := profile.CheckName(name); err != nil {
			return "", &usageError{fmt.Errorf("--name: %w", err)}
		}
		return name, nil
	}
	if strings.Contains(v.Name, ".") && !slices.Contains(v.Hosts, v.Name) {
		return "", withHint(fmt.Errorf("the invite calls the gateway %s, as a host that it is not: it is at %s", v.Name, strings.Join(v.Hosts, ", ")),
			"--name %s, or another name without dots", profile.NameFor(v.Hosts))
	}
	return v.Name, nil
}

// mayReplace refuses a name that another gateway's profile has, and says so when a gateway
// has another key than before.
func mayReplace(e *env, in profile.Directory, name string, v profile.Invite) error {
	old, err := in.Load(name)
	switch {
	case errors.Is(err, profile.ErrNone):
		return nil
	case err != nil:
		return withHint(err, "mend that; or doorward profiles remove %s, and accept the invite then; or --name OTHER", name)
	case old.Gateway.Fingerprint == v.Fingerprint:
		return nil
	case old.Port == v.Port && slices.Equal(old.Hosts, v.Hosts):
		fmt.Fprintf(e.stderr, "doorward: note: the gateway of profile %s has another key by this invite, %s, than before, %s\n", name, v.Fingerprint, old.Gateway.Fingerprint)
		return nil
	}
	return withHint(fmt.Errorf("%w, of another gateway: %s", profile.ErrExists, in.Path(name)),
		"doorward accept --name OTHER, or doorward profiles remove %s", name)
}

// profileOf is the profile of an invite, without a key.
func profileOf(v profile.Invite, name string) profile.Profile {
	p := profile.Profile{Name: name, Hosts: v.Hosts, Port: v.Port, Carriers: []string{"udp"}, Suite: seal.Hybrid,
		Gateway: seal.Peer{Profile: v.Secret, Fingerprint: v.Fingerprint}}
	p.OneWay, p.AnySource = v.OneWay, v.AnySource
	if v.TCP {
		p.Carriers = append(p.Carriers, "tcp")
	}
	if v.Door != "" {
		p.Doors = []string{v.Door}
	}
	return p
}

// enrol knocks with the invite and the key, or with the key alone if the gateway knows it.
func (p *passage) enrol(ctx context.Context, v profile.Invite) (client.Result, error) {
	own := p.signer
	if !v.Bound {
		var err error
		if p.signer, err = own.Enrolling(v.Code); err != nil {
			return client.Result{}, err
		}
	}
	r, err := p.visitNew(ctx)
	p.signer = own
	if refused, ok := errors.AsType[*client.RefusedError](err); ok && !v.Bound && (refused.Reason == seal.Spent || refused.Reason == seal.NotAccepted) {
		// Perhaps it was this key that has used it, and the answer was lost.
		if again, err := p.visitNew(ctx); err == nil {
			return again, nil
		}
	}
	return r, err
}

// visitNew knocks before there is a profile, and keeps what it has learnt for it.
func (p *passage) visitNew(ctx context.Context) (client.Result, error) {
	r, err := p.e.knocker().Knock(ctx, p.knock())
	if r.Bundle != nil {
		p.profile.Gateway.Bundle = r.Bundle
	}
	if r.Next != nil {
		p.profile.Gateway = *r.Next
	}
	p.learnPorts(r)
	return r, p.shown(err)
}

// choose finds the key to enrol.
func (o *acceptOptions) choose(ctx context.Context, e *env, v profile.Invite) (profile.Key, error) {
	all := e.machine().Candidates(ctx, sshDirectory(e))
	if o.key != "" {
		for _, c := range all {
			if c.Fingerprint.String() == o.key {
				return c.Key, nil
			}
		}
		return keyNamed(o.key)
	}
	ask := !o.yes && !o.json && output.IsTerminal(e.stdin)
	if v.OneWay {
		fit := slices.DeleteFunc(slices.Clone(all), func(c signer.Candidate) bool { return !c.Single })
		if len(fit) == 0 && len(all) > 0 {
			return profile.Key{}, withHint(fmt.Errorf("the invite is for single packets, and of your keys none can sign those: "+
				"%w:\n%s", signer.ErrNotSingle, candidateList(all)), notSingleHint)
		}
		all = fit
	}
	switch {
	case len(all) == 0:
		return profile.Key{}, withHint(errors.New("there is no SSH key: none in ssh-agent, and no ~/.ssh/id_*.pub"), "ssh-keygen -t ed25519; or --key FILE names one")
	case len(all) == 1 && !ask, o.yes:
		return all[0].Key, nil
	case !ask:
		return profile.Key{}, &usageError{withHint(fmt.Errorf("there are several keys, and --key is missing:\n%s", candidateList(all)), "--key %s, or --yes for the first", all[0].Fingerprint)}
	}
	return askKey(ctx, e, v, all)
}

// askKey asks which of the keys is to be enrolled.
func askKey(ctx context.Context, e *env, v profile.Invite, all []signer.Candidate) (profile.Key, error) {
	fmt.Fprintf(e.stderr, "%s at %s invites you, and will know you by a key:\n", v.Name, strings.Join(v.Hosts, ", "))
	for i, c := range all {
		fmt.Fprintf(e.stderr, "  %d  %s\n", i+1, candidateText(c))
	}
	for {
		answer, err := e.machine().Ask(ctx, "Which one [1]: ", true)
		if err != nil {
			return profile.Key{}, withHint(err, "--key FILE or FINGERPRINT names one")
		}
		text := strings.TrimSpace(string(answer))
		if text == "" {
			return all[0].Key, nil
		}
		if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= len(all) {
			return all[n-1].Key, nil
		}
		fmt.Fprintf(e.stderr, "%q: allowed are 1 to %d\n", text, len(all))
	}
}

// candidateList has a line for each key.
func candidateList(all []signer.Candidate) string {
	var lines []string
	for _, c := range all {
		lines = append(lines, "  "+candidateText(c))
	}
	return strings.Join(lines, "\n")
}

func candidateText(c signer.Candidate) string {
	text := fmt.Sprintf("%s %s", c.Fingerprint, c.Type)
	if c.Comment != "" {
		text += " " + c.Comment
	}
	return text + " (" + c.Where() + ")"
}

// keyNamed is the key that --key names.
func keyNamed(name string) (profile.Key, error) {
	if f, err := credential.ParseFingerprint(name); err == nil {
		return profile.Key{Agent: f.String()}, nil
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return profile.Key{}, fmt.Errorf("--key: %w", err)
	}
	if _, err := os.Stat(path); err != nil {
		return profile.Key{}, withHint(fmt.Errorf("--key %q: no such file, and no fingerprint, which is %q and 43 characters", name, "SHA256:"), "ssh-add -l lists the keys of ssh-agent")
	}
	if private, ok := strings.CutSuffix(path, "-cert.pub"); ok {
		return profile.Key{File: private, Certificate: path}, nil
	}
	return profile.Key{File: strings.TrimSuffix(path, ".pub")}, nil
}

// sshDirectory is where ssh has the user's keys.
func sshDirectory(e *env) string {
	home := e.getenv("HOME")
	if home == "" {
		home, _ = os.UserHomeDir() // Windows has it elsewhere
	}
	return filepath.Join(home, ".ssh")
}

// report says what was done, and what is to be done next.
func (o *acceptOptions) report(p *passage, r client.Result) error {
	e, path := p.e, p.in.Path(p.profile.Name)
	f, _ := p.signer.Fingerprint()
	ssh := sshConfig(p)
	if o.json {
		return printJSON(e.stdout, acceptJSON{Profile: p.profile.Name, Path: path, Key: f.String(), Public: p.signer.Public(),
			Gateway: p.profile.Gateway.Fingerprint.String(), SSH: ssh, Knock: p.object(r)})
	}
	text := []string{fmt.Sprintf("%s knows your key: %s", strings.Join(p.profile.Hosts, ", "), p.signer)}
	if o.rescue {
		text[0] = strings.Join(p.profile.Hosts, ", ") + " has accepted the code, which is used up"
	}
	text = append(text, lines(r, e.clock())...)
	text = append(text, "profile "+p.profile.Name+" is written: "+path, "", "From now on: doorward knock "+p.profile.Name)
	if o.rescue {
		text[len(text)-1] += " --rescue"
	} else if ssh != "" {
		text = append(text, "or, with these lines in ~/.ssh/config: ssh "+p.profile.Name, "", strings.TrimSuffix(ssh, "\n"), "")
		if !o.install {
			text = append(text, "doorward ssh-config "+p.profile.Name+" --install puts them there.")
		}
	}
	for _, line := range text {
		if _, err := fmt.Fprintln(e.stdout, line); err != nil {
			return err
		}
	}
	return nil
}

// sshConfig is the block of ~/.ssh/config by which ssh knocks, "" where the door has no
// TCP port.
func sshConfig(p *passage) string {
	if firstTCP(p.profile.Ports[p.request.Door]) == 0 {
		return ""
	}
	return new(sshConfigOptions).hostOf(p).Text()
}
