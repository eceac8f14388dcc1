package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/setup"
)

const initHelp = `Write a first configuration: one door with one knock.

On a terminal, init asks questions, and Enter accepts what it proposes. It asks none
when there is a flag about the door, or standard input is not a terminal: then flags
and proposals decide. --ask asks in any case.

What it proposes: a door "ssh" for this machine's SSH server, with its unit and the
ports it listens on, and a knock of the first of the following kinds. --knock says
another, and so does a flag about it.

%s
--host, or the answer to its question, is remembered in the file: doorward invite and
doorward share write it down for visitors.

--like-the-article writes the configuration of "Port Knocking Simplified" (2005)
instead, number by number: 59000 and 59002 touched, 59001 left alone, within a
minute, looked at every minute, five minutes' penalty, an hour's idleness,
everybody together. Only what this machine names differently (the unit, the log) is
adapted, and the file says so. Everybody knows that knock: it is for trying out.

The file is readable by root and the group doorward only. It is checked as doorward
check does before it is written, and it is written as a whole or not at all. For
` + config.DefaultPath + `, what its knock goes by is made, too, where it is not
there yet: the gateway's key, and a list of visitors' keys with nobody on it. Nothing
is started or changed besides: init ends with all that is left to do, in order,
including the ports to open in this machine's firewall and in the provider's.

A file that has nothing but comments, as packages install it, is overwritten. Any
other file stays: edit it to change what it says. With --force it is kept beside the
new one, as FILE.~1~, FILE.~2~ and so on, and init keeps its host, and its knocks
for the door unless there is a flag about the knock. Everything else is as the flags
and the proposals say, and init says what became of the former doors and knocks.

Exit status: 0 when the file is written; 1 when not; 2 when the command line is
wrong.`

const initExamples = `  sudo doorward init
  sudo doorward init --host gate.example.org
  doorward init --output -           # prints it, and needs no root
  sudo doorward init --knock touch   # ports to connect to: visitors need no client
  sudo doorward init --like-the-article
  doorward init --output - --door ssh --listen 24117,25633,28904 --touch 28904,24117
  doorward init --output panel.toml --door panel --ports 8443/tcp --unit panel.service
  doorward init --reference | less`

// initOptions are the flags of init.
type initOptions struct {
	setup.Plan
	knock     string // the kind's name, "" for the one that is proposed
	article   bool
	reference bool
	ask       bool
	made      []string // files, besides the configuration
	output    string
	force     bool
	json      bool
}

func newInit(e *env) *cobra.Command { return newInitWith(e, setup.This()) }

func newInitWith(e *env, m setup.Machine) *cobra.Command {
	o := initOptions{Plan: setup.New()}
	c := &cobra.Command{
		Use:               "init [--host HOST] [--door NAME] [--ports PORTS] [--unit UNIT] [--output FILE]",
		Short:             "write a first configuration",
		Long:              fmt.Sprintf(initHelp, proposals()),
		Example:           initExamples,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.run(e, m, c)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&o.Host, "host", "", "name or address by which visitors reach this machine")
	f.StringVar(&o.Door, "door", "ssh", "the door's `NAME`")
	f.StringSliceVar(&o.Ports, "ports", nil, "what it guards, such as 22/tcp,60000-61000/udp "+
		"(default: the SSH server's, for a door named ssh)")
	f.StringVar(&o.Unit, "unit", "", "systemd `UNIT` behind it, or none for a service that always runs "+
		"(default: the SSH server's, if that is behind the door)")
	f.StringVar(&o.knock, "knock", "", "`KIND` of the knock: "+kindsInWords())
	o.addChoices(f)
	f.BoolVar(&o.article, "like-the-article", false, "the article's configuration, number by number")
	f.BoolVar(&o.ask, "ask", false, "ask, even if standard input is not a terminal")
	f.StringVarP(&o.output, "output", "o", config.DefaultPath, "`FILE` to write, or - for standard output")
	f.BoolVar(&o.force, "force", false, "replace an existing file, and keep it as FILE.~1~")
	f.BoolVar(&o.json, "json", false, "ask nothing, and print JSON")
	f.BoolVar(&o.reference, "reference", false, "print every key with its meaning and default, and write nothing")
	return c
}

// proposals describes what is drafted of each kind.
func proposals() string {
	var b strings.Builder
	for _, k := range setup.Kinds() {
		fmt.Fprintf(&b, "%s: %s.\n%s\n\n", k.Name(), k.Brief(), k.Proposal())
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// kindsInWords lists the kinds for the flag.
func kindsInWords() string {
	var all []string
	for _, k := range setup.Kinds() {
		all = append(all, k.Name()+" ("+k.Brief()+")")
	}
	return strings.Join(all, " or ")
}

// addChoices adds the flags about the knock.
func (o *initOptions) addChoices(f *pflag.FlagSet) {
	for _, kind := range setup.Kinds() {
		for _, k := range kind.Choices() {
			if k.List {
				f.StringSlice(k.Name, nil, k.Usage)
			} else {
				f.String(k.Name, k.Default, k.Usage)
			}
		}
	}
}

// kind finds the kind of the knock: the one that is named, the one that flags are about,
// or the one that is proposed.
func (o *initOptions) kind(f *pflag.FlagSet) (err error) {
	if o.knock != "" {
		if o.Kind, err = setup.Named(o.knock); err != nil {
			return fmt.Errorf("--knock: %w", err)
		}
	}
	for _, kind := range setup.Kinds() {
		for _, c := range kind.Choices() {
			switch {
			case !f.Changed(c.Name):
			case o.knock == "":
				o.Kind, o.knock = kind, kind.Name()
			case kind.Name() != o.Kind.Name():
				return fmt.Errorf("--%s is about a knock of kind %s, and this one is of kind %s", c.Name, kind.Name(), o.Kind.Name())
			}
		}
	}
	return nil
}

// choose reads what the flags say about the knock, and returns which flags about the
// door were given: any of them means that init asks no questions, and any about the
// knock that the former knock is not kept.
func (o *initOptions) choose(f *pflag.FlagSet) (given []string) {
	about := []string{"door", "ports", "unit", "knock"}
	o.Keep = !f.Changed("knock")
	for _, k := range o.Kind.Choices() {
		about = append(about, k.Name)
		o.Keep = o.Keep && !f.Changed(k.Name)
		if list, err := f.GetStringSlice(k.Name); err == nil {
			o.Chosen[k.Name] = list
		} else if s, err := f.GetString(k.Name); err == nil {
			o.Chosen[k.Name] = []string{s}
		}
	}
	return slices.DeleteFunc(about, func(name string) bool { return !f.Changed(name) })
}

// run carries out the command line.
func (o *initOptions) run(e *env, m setup.Machine, c *cobra.Command) error {
	if o.reference {
		_, err := fmt.Fprint(e.stdout, config.Reference())
		return err
	}
	if err := o.kind(c.Flags()); err != nil {
		return &usageError{withHint(err, "doorward init --help")}
	}
	given := o.choose(c.Flags())
	if err := o.parse(given); err != nil {
		return &usageError{withHint(err, "doorward init --help")}
	}
	asks := o.ask || len(given) == 0 && !o.article && !o.json && output.IsTerminal(e.stdin)
	if err := o.writable(e); err != nil {
		return err // before anything is asked
	}
	o.readFormer()
	if asks {
		// Standard output may be the file.
		if err := o.Interview(m, e.stdin, e.stderr); err != nil {
			return err
		}
	}
	if o.Host == "" {
		o.Host = o.Former.Host()
	}
	if o.article {
		return o.write(e, m, setup.Article(m, o.Unit, o.Host))
	}
	if err := o.Propose(m); err != nil {
		return o.noPorts(err)
	}
	return o.write(e, m, o.Text())
}

// noPorts is the error of a plan, for the command line.
func (o *initOptions) noPorts(err error) error {
	if !errors.Is(err, setup.ErrNoPorts) {
		return err
	}
	return &usageError{withHint(fmt.Errorf("--ports is missing: what door %q guards, such as 8443/tcp", o.Door), "doorward init --help")}
}

// parse checks which flags go together; what they say is checked with the file.
func (o *initOptions) parse(given []string) error {
	if o.json && (o.ask || o.output == "-") {
		return errors.New("--json goes with neither --ask nor --output -: standard output is theirs")
	}
	if o.Host != "" {
		if err := config.CheckHost(o.Host); err != nil {
			return fmt.Errorf("--host: %w", err)
		}
	}
	if o.article {
		for _, name := range given {
			if name != "unit" {
				return fmt.Errorf("--like-the-article and --%s exclude one another: its numbers are the article's", name)
			}
		}
		switch {
		case o.ask:
			return errors.New("--like-the-article has nothing to --ask")
		case o.Unit == "none":
			return errors.New("--like-the-article starts and stops a unit: --unit none is not like it")
		}
	}
	for _, c := range o.Kind.Choices() {
		if c.With != "" && (len(o.Chosen[c.Name]) == 0) != (len(o.Chosen[c.With]) == 0) {
			return fmt.Errorf("--%s and --%s go together", c.With, c.Name)
		}
	}
	return nil
}

// writable says why the file cannot be written, with what to type instead.
func (o *initOptions) writable(e *env) error {
	if o.output == "-" {
		return nil
	}
	err := setup.Writable(o.output, o.force)
	switch {
	case errors.Is(err, setup.ErrExists):
		return withHint(err, "to change what it says, edit it, and then: doorward check %s; --force writes another, and keeps this one beside it",
			files.Quoted(o.output))
	case errors.Is(err, fs.ErrPermission):
		return withHint(err, "%s; or, to see what it would say: doorward init --output -", e.sudo())
	}
	return err
}

// readFormer reads the file that is to be overwritten.
func (o *initOptions) readFormer() {
	if o.Former = (setup.Former{}); o.force && o.output != "-" {
		o.Former.Read(o.output)
	}
}

// write checks the text, writes it, and says what is left to do.
func (o *initOptions) write(e *env, m setup.Machine, text string) error {
	c, err := config.Parse(o.output, []byte(text))
	if err != nil {
		return notWritten(err)
	}
	if o.output == "-" {
		if _, err := fmt.Fprint(e.stdout, text); err != nil {
			return err
		}
		return o.next(e, e.stderr, m, c)
	}
	if err := o.writable(e); err != nil {
		return err
	}
	if err := o.equip(c); err != nil {
		return err
	}
	if o.Former.Kept, err = setup.Place(o.output, text, o.force); err != nil {
		return err
	}
	if o.json {
		return printJSON(e.stdout, initJSON{File: o.output, Door: c.Doors[0].Name, Warnings: append([]string{}, c.Warnings()...),
			Made: append([]string{}, o.made...)})
	}
	return o.next(e, e.stdout, m, c)
}

// equip makes what the knocks go by where it is missing. Only the daemon's own file means
// this machine: another may be for anywhere.
func (o *initOptions) equip(c *config.Config) error {
	if o.output != config.DefaultPath {
		return nil
	}
	for i := range c.Doors {
		for _, k := range c.Doors[i].Knocks {
			r, ok := k.Rule.(knock.Equipped)
			if !ok {
				continue
			}
			all, err := r.Equipment(rand.Reader)
			if err != nil {
				return err
			}
			made, err := setup.Equip(all)
			if err != nil {
				return err
			}
			o.made = append(o.made, made...)
		}
	}
	return nil
}

// initJSON is what init prints with --json.
type initJSON struct {
	File     string   `json:"file"`
	Door     string   `json:"door"`
	Warnings []string `json:"warnings"` // never null
	Made     []string `json:"made"`     // files that the knock goes by and that were not there; never null
}

// notWritten is the error of a text with mistakes, for the command line.
func notWritten(err error) error {
	hint, err := setup.Mistaken(err)
	if hint == "" {
		hint = "doorward init --help"
	}
	return &usageError{withHint(err, "%s", hint)}
}

// next says what was written and what is left to do.
func (o *initOptions) next(e *env, w io.Writer, m setup.Machine, c *config.Config) error {
	d := e.styles(w)
	var b strings.Builder
	if o.output != "-" {
		fmt.Fprintf(&b, "Written: %s\n", o.output)
	}
	for _, path := range o.made {
		fmt.Fprintf(&b, "Written: %s\n", path)
	}
	if o.Former.Kept != "" {
		fmt.Fprintf(&b, "The previous file is kept: %s\n", o.Former.Kept)
	}
	lost, kept := o.Former.Changed(c)
	for _, name := range kept {
		fmt.Fprintf(&b, "Door %s has the knock that it had.\n", name)
	}
	if b.Len() > 0 {
		b.WriteString("\n")
	}
	const words = len("  strangers  ") // where they begin in a line of doorWords
	for i, line := range doorWords(d, &c.Doors[0]) {
		if i > 0 && len(line) > words {
			line = strings.Join(output.Hang(line[:words], line[words:], output.Width(w)), "\n")
		}
		b.WriteString(line + "\n")
	}
	_, notAsked := m.Blind(c, "", nil) // there are no mistakes: see Propose
	for _, text := range slices.Concat(lost, c.Warnings(), notAsked) {
		fmt.Fprintf(&b, "\n%s: %s\n", d.Warn.Render("warning"), output.Text(text))
	}
	local, _ := m.Local()
	if what, do := c.Clashes(local, true); what != "" {
		fmt.Fprintf(&b, "\n%s: %s; to keep them free:\n    %s\n", d.Warn.Render("warning"), output.Text(what), output.Text(do))
	}
	left := setup.Written{Config: c, File: o.output, Rewritten: o.Former.Kept != "", Equipped: o.output == config.DefaultPath,
		Sudo: usesSudo(e)}
	if m.Firewalls != nil {
		left.Firewalls = m.Firewalls(c)
	}
	fmt.Fprintf(&b, "\n%s\n", d.Title.Render("What is left to do, in this order"))
	for i, s := range left.Left() {
		b.WriteString("\n" + strings.Join(output.Hang(fmt.Sprintf("%2d. ", i+1), output.Text(s.Words), output.PlainWidth), "\n") + "\n")
		for _, line := range s.Lines {
			fmt.Fprintf(&b, "      %s\n", output.Text(line))
		}
	}
	sudo := ""
	if usesSudo(e) {
		sudo = "sudo "
	}
	fmt.Fprintf(&b, "\nAfter a change of the file: %sdoorward apply --confirm 60s\n", sudo)
	_, err := io.WriteString(w, b.String())
	return err
}

// sudo is the command line as it was given, run as root.
func (e *env) sudo() string { return "sudo " + e.again() }

// again is the command line as it was given.
func (e *env) again() string {
	again := "doorward " + strings.Join(quotedAll(e.args), " ")
	if os.Geteuid() == 0 && e.getenv("SUDO_UID") != "" {
		return "sudo " + again
	}
	return again
}

// quotedAll are words as a shell takes them.
func quotedAll(words []string) (all []string) {
	for _, w := range words {
		name := strings.TrimLeft(w, "-") // which files.Quoted quotes, since a path could be taken for a flag
		if dashes := w[:len(w)-len(name)]; name != "" {
			w = dashes + files.Quoted(name)
		}
		all = append(all, w)
	}
	return all
}
