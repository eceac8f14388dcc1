package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/share"
	"github.com/doorward/doorward/internal/tables"
)

const initHelp = `Write a first configuration: one door with one knock.

On a terminal, init asks, and ENTER takes what it proposes. It does not ask when
one of the flags about the door is there, or standard input is no terminal; then
flags and proposals are all there is. --ask asks in any case.

What it proposes: a door "ssh" in front of 22/tcp with the SSH server's unit that
this machine has, and a knock that nobody else has: %s

--like-the-article writes the configuration of "Port Knocking Simplified" (2005)
instead, number by number: 59000 and 59002 touched, 59001 left alone, within a
minute, looked at every minute, five minutes' penalty, an hour's idleness,
everybody together. Only what this machine calls otherwise (the unit, the log) is
adapted, and the file says so. Everybody knows that knock: it is for trying out.

The file is readable by root and the group doorward only. It is checked like
doorward check does before it is written, and it is written as a whole or not at all.
Nothing is started: the last words say what to do next.

A file that has nothing but comments, as packages install it, is written over. Any
other file stays, and to change what it says, edit it. With --force it is kept beside
the new one, as FILE.~1~, FILE.~2~ and so on. The knocks that it has for the
door are taken over, unless one of the flags about the knock is there; everything
else is as the flags and the proposals say. What became of the former doors and
knocks is said.

Exit status: 0 when the file is written; 1 when not; 2 when the command line is
wrong.`

const initExamples = `  sudo doorward init
  sudo doorward init --like-the-article
  doorward init --output - --door ssh --listen 24117,25633,28904 --touch 28904,24117
  doorward init --output panel.toml --door panel --ports 8443/tcp --unit panel.service
  doorward init --reference | less`

// initOptions is what the command line of init says.
type initOptions struct {
	choice
	article   bool
	reference bool
	ask       bool
	output    string
	force     bool
	json      bool
}

func newInit(e *env) *cobra.Command { return newInitWith(e, thisMachine()) }

func newInitWith(e *env, m machine) *cobra.Command {
	o := initOptions{choice: choice{kind: firstDrafted(), chosen: map[string][]string{}}}
	c := &cobra.Command{
		Use:               "init [--door NAME] [--ports PORTS] [--unit UNIT] [--output FILE]",
		Short:             "write a first configuration",
		Long:              fmt.Sprintf(initHelp, o.kind.Proposal()),
		Example:           initExamples,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.run(e, m, c)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&o.door, "door", "ssh", "the door's `NAME`")
	f.StringSliceVar(&o.ports, "ports", nil, "what it guards, such as 22/tcp,60000-61000/udp (default 22/tcp for a door named ssh)")
	f.StringVar(&o.unit, "unit", "", "systemd `UNIT` behind it, or none for a service that always runs "+
		"(default: the SSH server's, if that is behind the door)")
	o.addChoices(f)
	f.BoolVar(&o.article, "like-the-article", false, "the article's configuration, number by number")
	f.BoolVar(&o.ask, "ask", false, "ask, even if standard input is no terminal")
	f.StringVarP(&o.output, "output", "o", config.DefaultPath, "`FILE` to write, or - for standard output")
	f.BoolVar(&o.force, "force", false, "replace an existing file, and keep it as FILE.~1~")
	f.BoolVar(&o.json, "json", false, "ask nothing, and print JSON")
	f.BoolVar(&o.reference, "reference", false, "print every key with its meaning and default, and write nothing")
	return c
}

// run carries out the command line.
func (o *initOptions) run(e *env, m machine, c *cobra.Command) error {
	if o.reference {
		_, err := fmt.Fprint(e.stdout, config.Reference())
		return err
	}
	given := o.choose(c.Flags())
	if err := o.parse(given); err != nil {
		return &usageError{withHint(err, "doorward init --help")}
	}
	o.readFormer()
	if o.article {
		return o.write(e, m, articleText(m, o.unit))
	}
	if o.ask || len(given) == 0 && isTerminal(e.stdin) && !o.json {
		if err := o.interview(e, m, c.Flags().Changed("output")); err != nil {
			return err
		}
	}
	if err := o.propose(m); err != nil {
		return err
	}
	return o.write(e, m, o.text())
}

// parse checks which flags go together; what they say is checked with the file.
func (o *initOptions) parse(given []string) error {
	if o.json && (o.ask || o.output == "-") {
		return errors.New("--json goes with neither --ask nor --output -: standard output is theirs")
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
		case o.unit == "none":
			return errors.New("--like-the-article starts and stops a unit: --unit none is not like it")
		}
	}
	for _, c := range o.kind.Choices() {
		if c.With != "" && (len(o.chosen[c.Name]) == 0) != (len(o.chosen[c.With]) == 0) {
			return fmt.Errorf("--%s and --%s go together", c.With, c.Name)
		}
	}
	return nil
}

// readFormer reads the file that is to be written over.
func (o *initOptions) readFormer() {
	if o.former = (former{}); o.force && o.output != "-" {
		o.former.read(o.output)
	}
}

// propose fills in what was not said, by what this machine has.
func (o *initOptions) propose(m machine) error {
	if len(o.ports) == 0 {
		if o.door != "ssh" {
			return &usageError{withHint(fmt.Errorf("--ports is missing: what door %q guards, such as 8443/tcp", o.door),
				"doorward init --help")}
		}
		o.ports = []string{"22/tcp"}
	}
	door := o.guarded()
	if door.SSH() {
		o.proposeSSH(m)
	} else if err := m.unseen(door); err != nil && !errors.Is(err, fs.ErrPermission) {
		o.unseen = strings.Join(strings.Fields(err.Error()), " ") // of one line
	}
	return o.draft(m, door)
}

// guarded is the door as far as it is known, which may have mistakes in it.
func (o *initOptions) guarded() *config.Door {
	d := &config.Door{Name: o.door}
	for _, p := range o.ports {
		if r, err := port.ParseRange(p); err == nil {
			d.Ports = append(d.Ports, r)
		}
	}
	if o.managed() {
		d.Service = &config.Service{Unit: o.unit}
	}
	return d
}

// proposeSSH says what this machine has of an SSH server.
func (o *initOptions) proposeSSH(m machine) {
	if unit, why, ok := m.sshUnit(); ok && (o.unit == "" || o.unit == unit) {
		o.unit, o.why = unit, strings.ToUpper(why[:1])+why[1:]+"."
	}
	switch log := m.authLog(); {
	case m.hasJournal():
		o.logins = `Where logins are read: "auto" finds systemd's journal here.`
	case log != "":
		o.logins = fmt.Sprintf(`Where logins are read: "auto" finds %s here.`, log)
	default:
		o.logins = "Where logins are read. Neither a journal nor an auth log is here: until there is\n" +
			`# one, the door stays dark and deaf; "off" does without logins.`
	}
}

// write checks the text, writes it, and says what comes next.
func (o *initOptions) write(e *env, m machine, text string) error {
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
	if err := o.place(text); err != nil {
		return err
	}
	if o.json {
		return o.printMade(e, c)
	}
	return o.next(e, e.stdout, m, c)
}

// notWritten turns the mistakes of a text into those of the command line: its
// lines are not the user's.
func notWritten(err error) error {
	var lines []string
	hint := "doorward init --help"
	for _, m := range tables.Mistakes(err) {
		_, words, _ := strings.Cut(m.Error(), fmt.Sprintf(":%d: ", m.Line))
		lines = append(lines, words)
		if m.Hint != "" {
			hint = m.Hint
		}
	}
	return &usageError{withHint(errors.New(strings.Join(lines, "; ")), "%s", hint)}
}

// place puts the file where it belongs.
func (o *initOptions) place(text string) error {
	blank := blankFile(o.output)
	if _, err := os.Lstat(o.output); err == nil && !o.force && blank == nil {
		return withHint(fmt.Errorf("%q exists", o.output),
			"to change what it says, edit it, and then: doorward check %s; --force writes another, and keeps this one beside it",
			files.Quoted(o.output))
	}
	// A link of one's own stays one.
	path := o.output
	if real, err := files.File(path); err == nil {
		path = real
	}
	group := daemonGroupNumber()
	dir := filepath.Dir(path)
	if err := files.MakeDirectory(dir, 0o750, group); err != nil {
		return fmt.Errorf("make directory %q: %w", dir, err)
	}
	change, err := share.Stage([]share.File{{Path: path, Text: []byte(text), Mode: 0o640, Group: group,
		New: !o.force && blank == nil, Was: blank, Backup: o.force && blank == nil}})
	if err != nil {
		return err
	}
	defer change.Close()
	o.former.path = change.Backup(path)
	return change.Commit()
}

// blankFile is the text of a configuration that says nothing, such as packages
// bring; nil if the file says something, cannot be read, or is not there.
func blankFile(path string) []byte {
	text, err := config.Read(path)
	if err != nil || !config.Blank(text) {
		return nil
	}
	return append([]byte{}, text...) // an empty file's is not nil
}
