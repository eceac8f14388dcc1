package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/share"
	"github.com/doorward/doorward/internal/tables"
)

const shareHelp = `Give the knock of a door to its users: for each of them a small text, encrypted with
age to their SSH or age keys, ready to be mailed. The knock is never written to disk
in clear here.

--to takes a public key (ssh-ed25519 or ssh-rsa, as in a .pub file, or age1...),
or a file of them, such as somebody's authorized_keys; it may be given several
times. Keys with the same comment are one user's, who gets one text that any of
them decrypts. Keys that can only sign (ecdsa, and sk- keys of tokens) are
refused: ask for an ssh-ed25519 or age key.

The text is data: doorward knock --from reads it, encrypted or not, and checks its
form. For users without doorward it says in words which ports to touch and in which
order, with a line for each system to type. With --script there are a script for sh
and one for PowerShell beside it, which use doorward, nc, bash or telnet. Whoever
knows a user's public key can encrypt a program to it as well; so a script is
decrypted to a file, read, and only then run, and never fed to a shell unseen.

The text says where to knock: --host, or the host that was given for this door
before, or host in [gateway] of the configuration, which doorward init asks for. It is
never taken from a file that --to or --recipients-file names: whoever gets a knock does
not decide where it is sent.

Who has the knock is remembered beside the configuration, in DOOR.recipients, with a
--host that was given. Without --to, all of them get it again. To take the knock away
from somebody, take their lines out of that file, and then doorward rotate.

DIR must belong to root or to you, and so must every directory above it; nobody else
may write to it. With sudo it may also be a directory of yours, and then the texts
belong to you. They have the knock of the configuration file, whether or not the daemon
uses it yet.

Exit status: 0 when every user's text is written; 1 when not; 2 when the command
line is wrong.`

const shareExamples = `  sudo doorward share --to alice.pub
  sudo doorward share --host gate.example.org --to alice.pub --to age1... --output /root/knocks
  sudo doorward share --to ~alice/.ssh/authorized_keys
  sudo doorward share                # again, to everybody who has it already

What the user types with doorward, on any system:

  doorward knock --from knock-ssh-alice.age

and without, to read what to do:

  age -d -i ~/.ssh/id_ed25519 knock-ssh-alice.age`

// shareOptions are the flags that share and rotate have in common.
type shareOptions struct {
	config string
	door   string
	knock  int // counted from 1, 0 when it is not said
	host   string
	to     []string
	file   string
	output string
	script bool
	json   bool
}

func (o *shareOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&o.config, "config", "c", config.DefaultPath, "configuration `FILE`")
	f.StringVar(&o.door, "door", "", "whose knock, if FILE has several doors")
	f.IntVar(&o.knock, "knock", 0, "which of the door's knocks that can be shared, from 1, if it has several")
	f.StringVar(&o.host, "host", "", "name or address by which users reach this gateway (default: the one before, or the configuration's)")
	f.StringArrayVar(&o.to, "to", nil, "public `KEY`, or file of keys, of somebody who gets it")
	f.StringVar(&o.file, "recipients-file", "", "the same, from a file, or - for standard input")
	f.StringVar(&o.output, "output", ".", "existing `DIR`ectory of your own for the encrypted texts")
	f.BoolVar(&o.script, "script", false, "write scripts for sh and PowerShell as well")
	f.BoolVar(&o.json, "json", false, "print JSON")
	_ = c.MarkFlagDirname("output")
}

func newShare(e *env) *cobra.Command {
	var o shareOptions
	c := &cobra.Command{
		Use:               "share [--host HOST] [--to KEY]... [--output DIR]",
		Short:             "give the knock to its users, encrypted to their SSH or age keys",
		Long:              shareHelp,
		Example:           shareExamples,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(*cobra.Command, []string) error { return o.share(e) },
	}
	o.addFlags(c)
	return c
}

// share encrypts to those given, or to all remembered, and writes.
func (o *shareOptions) share(e *env) error {
	t, err := o.target(e)
	if err != nil {
		return err
	}
	p, err := o.people(e, t)
	if err != nil {
		return err
	}
	to := p.all
	if len(p.given) > 0 {
		to = &share.Recipients{Keys: p.given}
	}
	if len(to.Keys) == 0 {
		return &usageError{withHint(errors.New("--to is missing: nobody has this knock yet"),
			"sudo doorward share --to alice.pub")}
	}
	sealed, files, err := o.seal(e, t, p.all.Host, to.Users())
	if err != nil {
		return err
	}
	change, err := share.Stage(append(files, p.remember...))
	if err != nil {
		return err
	}
	defer change.Close()
	if err := change.Commit(); err != nil {
		return err
	}
	if o.json {
		return printJSON(e.stdout, o.made(t, p, sealed))
	}
	var b bytes.Buffer
	o.tell(&b, t, p, sealed)
	_, err = e.stdout.Write(b.Bytes())
	return err
}

// target is the knock that a command is about.
type target struct {
	path   string // of the configuration file
	text   []byte
	config *config.Config
	door   *config.Door
	index  int // of the knock in the door, from 0
	knock  knock.Touched
}

// target finds the door and the knock that the command line means.
func (o *shareOptions) target(e *env) (*target, error) {
	c, text, err := config.Load(o.config)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, withHint(err, "%s", e.sudo())
	case err != nil:
		return nil, withHint(err, "doorward check %s", files.Quoted(o.config))
	}
	t := &target{path: o.config, text: text, config: c}
	var names []string
	for i := range c.Doors {
		d := &c.Doors[i]
		names = append(names, d.Name)
		if d.Name == o.door || o.door == "" && len(c.Doors) == 1 {
			t.door = d
		}
	}
	switch {
	case t.door == nil && o.door != "":
		return nil, fmt.Errorf("%s has no door %q: it has %s", o.config, o.door, strings.Join(names, ", "))
	case t.door == nil:
		return nil, &usageError{fmt.Errorf("--door is missing: %s has the doors %s", o.config, strings.Join(names, ", "))}
	}
	return t, t.choose(o.knock)
}

// choose finds number n of the door's knocks that can be shared, the only one for 0.
func (t *target) choose(n int) error {
	var can []int
	var names, kinds []string
	for i, k := range t.door.Knocks {
		names = append(names, strconv.Quote(k.Name))
		if _, ok := k.Rule.(knock.Touched); ok {
			can, kinds = append(can, i), append(kinds, k.Kind)
		}
	}
	switch {
	case len(can) == 0 && invited(t.door) != "":
		return withHint(fmt.Errorf("door %q: knock %q is not shared: its visitors are invited, and each has a key of their own",
			t.door.Name, invited(t.door)), "doorward invite --door %s --for NAME lets one in; doorward keys revoke NAME keeps one out", t.door.Name)
	case len(can) == 0:
		what := "knock"
		if len(names) > 1 {
			what = "knocks"
		}
		return withHint(fmt.Errorf("door %q: %s %s cannot be written down for users: only touches of ports can",
			t.door.Name, what, tables.Listed(names)), "doorward check %s says what a visitor does", t.path)
	case n == 0 && len(can) > 1:
		return &usageError{fmt.Errorf("--knock is missing: door %q has %d %s knocks; allowed are 1 to %[2]d",
			t.door.Name, len(can), strings.Join(slices.Compact(kinds), "/"))}
	case n < 0 || n > len(can):
		return &usageError{fmt.Errorf("--knock %d: door %q has %d; allowed are 1 to %[3]d", n, t.door.Name, len(can))}
	}
	t.index = can[max(n, 1)-1]
	t.knock = t.door.Knocks[t.index].Rule.(knock.Touched)
	return nil
}

// people are those who get a knock.
type people struct {
	all      *share.Recipients // remembered and given, with the host that is known
	given    []share.Key       // on this command line
	path     string            // of the file that remembers them
	remember []share.File      // what is to be written into it, if anything
}

// people reads who is remembered, and who is named on the command line.
func (o *shareOptions) people(e *env, t *target) (*people, error) {
	p := &people{path: filepath.Join(filepath.Dir(t.path), t.door.Name+".recipients")}
	text, err := files.Read(p.path, maxKeys)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, withHint(fmt.Errorf("read who has the knock: %w", err), "%s", e.sudo())
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read who has the knock: %w", err)
	}
	exists := err == nil
	if p.all, err = share.ParseRecipients(p.path, text); err != nil {
		return nil, err
	}
	was := p.all.Host
	remembered := cmp.Or(o.host, was) // the configuration's need not be, which may change
	p.all.Host = cmp.Or(remembered, t.config.Gateway.Host)
	if p.given, err = o.given(e, p.all.Host); err != nil {
		return nil, err
	}
	var added []share.Key
	for _, k := range p.given {
		if p.all.Add(k) {
			added = append(added, k)
		}
	}
	switch {
	case len(p.all.Keys) == 0:
		return p, nil
	case p.all.Host == "":
		return nil, &usageError{withHint(errors.New("--host is missing: the name or address by which users reach this gateway"),
			"%s --host gate.example.org; or, once for all, in %s: [gateway] host = \"gate.example.org\"", e.again(), t.path)}
	}
	if err := config.CheckHost(p.all.Host); err != nil {
		return nil, &usageError{err}
	}
	if len(added) > 0 || remembered != was {
		f := share.File{Path: p.path, Text: share.Remember(text, t.door.Name, remembered, added), Mode: 0o600}
		if exists {
			f.Keep, f.Was = true, text
		}
		p.remember = []share.File{f}
	}
	return p, nil
}

// given reads --to and --recipients-file. A file of them must not say where
// knocks are sent: one recipient's would say it for all. That of another door has
// a host too, which may stand there if it is the known one.
func (o *shareOptions) given(e *env, host string) ([]share.Key, error) {
	var r share.Recipients
	add := func(name string, text []byte) error {
		more, err := share.ParseRecipients(name, text)
		if err != nil {
			return err
		}
		if more.Host != "" && more.Host != host {
			return &usageError{withHint(fmt.Errorf("%s has a line \"host %s\": those who get a knock do not decide where it is sent",
				name, more.Host), "take the line out, or say --host %s if that is this gateway", more.Host)}
		}
		if len(more.Keys) == 0 {
			return fmt.Errorf("%s has no key", name)
		}
		for _, k := range more.Keys {
			r.Add(k)
		}
		return nil
	}
	for _, to := range o.to {
		text := []byte(to)
		name := "--to"
		if !looksLikeKey(to) {
			var err error
			if text, err = files.Given(to, maxKeys); err != nil {
				return nil, fmt.Errorf("--to: neither a public key nor a file of them: %w", err)
			}
			name = to
		}
		if err := add(name, text); err != nil {
			return nil, err
		}
	}
	if o.file == "" {
		return r.Keys, nil
	}
	read := func() ([]byte, error) { return files.Given(o.file, maxKeys) }
	if o.file == "-" {
		read = func() ([]byte, error) { return readAll(e.stdin, maxKeys) }
	}
	text, err := read()
	if err != nil {
		return nil, fmt.Errorf("--recipients-file: %w", err)
	}
	if err := add(o.file, text); err != nil {
		return nil, err
	}
	return r.Keys, nil
}

// maxKeys is the longest that a file of keys may be, in bytes.
const maxKeys = 4 << 20

// readAll reads standard input up to a limit.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("standard input is longer than %d bytes", limit)
	}
	return text, err
}

// looksLikeKey tells a key from a file's name.
func looksLikeKey(s string) bool {
	return strings.HasPrefix(s, "age1") || strings.Contains(s, " ") ||
		strings.HasPrefix(s, "AGE-SECRET-KEY-") || strings.HasPrefix(s, "-----BEGIN")
}

// seal makes the encrypted texts of the target's knock, in the output
// directory.
func (o *shareOptions) seal(e *env, t *target, host string, users []share.User) ([]share.Letter, []share.File, error) {
	s := &share.Knock{Door: t.door.Name, Host: host, Touch: t.knock.Touches(), Made: e.clock(), Each: 3 * time.Second,
		Then: fmt.Sprintf("Connect within %v.", t.door.OpenFor)}
	// The probe would spend a single-use grant, and it would give up before a
	// gateway has looked that looks once in a while.
	if p := t.door.Ports[0]; p.Proto == port.TCP && p.First == p.Last && !t.door.SingleUse && t.knock.Every() == 0 {
		s.Wait = p.First
	}
	if every := t.knock.Every(); every > 0 {
		s.Then = fmt.Sprintf("The gateway looks every %v: connect after that, within %v.", every, t.door.OpenFor)
	}
	caller := share.SudoCaller(e.getenv)
	if err := share.Directory(o.output, caller); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, withHint(fmt.Errorf("--output %q: there is no such directory", o.output), "mkdir -m 700 %s", files.Quoted(o.output))
	} else if e, ok := errors.AsType[*files.Error](err); ok && strings.HasPrefix(e.Fix, "chown ") { // which is not meant here
		return nil, nil, withHint(fmt.Errorf("--output: %q %s", e.Path, e.Problem), "--output DIR, such as one made by: mkdir -m 700 /root/knocks")
	} else if err != nil {
		return nil, nil, fmt.Errorf("--output: %w", err)
	}
	sealed, err := share.Letters(s, users, o.script)
	if err != nil {
		return nil, nil, err
	}
	var all []share.File
	for _, u := range sealed {
		for _, f := range u.Files {
			f.Path, f.Caller = filepath.Join(o.output, f.Path), caller
			all = append(all, f)
		}
	}
	return sealed, all, nil
}

// tell says who got what, and how they use it.
func (o *shareOptions) tell(w io.Writer, t *target, p *people, sealed []share.Letter) {
	fmt.Fprintf(w, "The knock of door %s at %s, encrypted for %s, in %s:\n\n",
		t.door.Name, p.all.Host, output.Counted(len(sealed), "user"), o.output)
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range sealed {
		fmt.Fprintf(columns, "  %s", s.User.Name)
		for _, f := range s.Files {
			fmt.Fprintf(columns, "\t%s", f.Path)
		}
		fmt.Fprintln(columns)
	}
	columns.Flush()
	first := sealed[0]
	identity := map[string]string{"ssh-ed25519": ".ssh/id_ed25519", "ssh-rsa": ".ssh/id_rsa"}[first.User.Keys[0].Kind]
	if identity == "" {
		identity = "age-key.txt"
	}
	fmt.Fprintf(w, `
Send each of them theirs. With doorward, they type

  doorward knock --from %s

and without it, they read what to do, with age (https://age-encryption.org):

  age -d -i ~/%s %[1]s

`, first.Files[0].Path, identity)
	if o.script {
		fmt.Fprintf(w, `The scripts are programs: decrypt one to a file, read it, and only then run it:

  age -d -i ~/%s -o knock.sh %s
  age -d -i $HOME\%s -o knock.ps1 %s

`, identity, first.Files[1].Path, strings.ReplaceAll(identity, "/", `\`), first.Files[2].Path)
	}
	fmt.Fprintf(w, "They are remembered in %s, which doorward rotate reads.\n", p.path)
}

// shareJSON is what share and rotate print with --json.
type shareJSON struct {
	Door       string         `json:"door"`
	Host       string         `json:"host"`
	Users      []userJSON     `json:"users"`            // who was given the knock, never null
	Remembered string         `json:"remembered"`       // the file that says who has it
	File       string         `json:"file,omitempty"`   // of rotate: the configuration
	Before     string         `json:"before,omitempty"` // of rotate: where it is kept as it was
	Apply      *control.Reply `json:"apply,omitempty"`  // of rotate: what the daemon said, with --apply
}

// userJSON is one user's texts.
type userJSON struct {
	User  string   `json:"user"`
	Files []string `json:"files"` // never null
}

// made is what share has made.
func (o *shareOptions) made(t *target, p *people, sealed []share.Letter) shareJSON {
	j := shareJSON{Door: t.door.Name, Host: p.all.Host, Users: []userJSON{}, Remembered: p.path}
	for _, s := range sealed {
		u := userJSON{User: s.User.Name, Files: []string{}}
		for _, f := range s.Files {
			u.Files = append(u.Files, filepath.Join(o.output, f.Path))
		}
		j.Users = append(j.Users, u)
	}
	return j
}
