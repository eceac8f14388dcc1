package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/sshconfig"
)

const sshConfigHelp = `Print the lines of ~/.ssh/config by which ssh, and whatever runs ssh, knocks at a
gateway by itself. With --install put them there, between two lines of comment; run
again, that changes only what is between them. --remove takes them out, also when the
profile is gone. The file and its directory are made if they are missing, symbolic links
are followed, and nothing else in the file is touched.

ssh takes the first value that it finds for an option, so the lines go to the top of the
file; where they are moved, they stay. They set the gateway's name, its port as the
gateway has told it last, the user if --user names one, and how to knock. All else is as
the rest of the file says, ControlMaster too.

Without --host the lines are for the profile's name and for its hosts, and for a DOOR
that is not the profile's first, for PROFILE-DOOR. The name, and all that --host names,
leads to the profile's first host; ssh takes each other host for itself, with the key
that it has for that.

With --match, ssh knocks by "Match exec" instead of ProxyCommand, and connects itself.
That is for programs that know no ProxyCommand. ssh runs it more often than it connects:
for ssh -G, for ssh -O check, and for sessions over a connection that stands. So it
knocks only if the door is not known to be open, not twice within seconds in vain, and
never with what would ask somebody: a security key, or a key that has a passphrase and
is not in ssh-agent. Doors with single_use = true need the first form.

Exit status: 0 when that is done, or was; 1 when not; 2 when the command line is wrong.`

const sshConfigExamples = `  doorward ssh-config gate
  doorward ssh-config gate --install --user alice
  doorward ssh-config gate web --host gate-web --install
  doorward ssh-config gate --remove`

// sshConfigOptions are the flags and arguments of ssh-config.
type sshConfigOptions struct {
	install bool
	remove  bool
	match   bool
	host    string
	user    string
	file    string
	quiet   bool
	json    bool
}

// sshConfigJSON is what ssh-config prints with --json.
type sshConfigJSON struct {
	Host    string `json:"host"`    // the first name that is typed after ssh
	Text    string `json:"text"`    // the lines
	Path    string `json:"path"`    // of the file, or "" without --install and --remove
	Changed bool   `json:"changed"` // the file
}

func newSSHConfig(e *env) *cobra.Command {
	var o sshConfigOptions
	c := &cobra.Command{
		Use:               "ssh-config PROFILE [DOOR] [--install | --remove] [--host ALIAS] [--user NAME]",
		Short:             "print or install the lines of ~/.ssh/config by which ssh knocks",
		Long:              sshConfigHelp,
		Example:           sshConfigExamples,
		ValidArgsFunction: completeProfiles(e),
		Args: func(c *cobra.Command, args []string) error {
			if err := o.check(args); err != nil {
				return &usageError{withHint(err, "%s --help", c.CommandPath())}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := loadPassage(e, args[0], firstOf(args[1:]))
			if o.remove && errors.Is(err, profile.ErrNone) { // it was removed before its lines
				return o.edit(e, cmp.Or(o.host, strings.Join(args, "-")), "")
			}
			if err != nil {
				return err
			}
			return o.run(p)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.BoolVar(&o.install, "install", false, "put the lines into the file")
	f.BoolVar(&o.remove, "remove", false, "take them out of it")
	f.StringVar(&o.host, "host", "", "what is to be typed after ssh: this `ALIAS` alone")
	f.StringVar(&o.user, "user", "", "log in as this `NAME`")
	f.BoolVar(&o.match, "match", false, `knock by "Match exec", and not by ProxyCommand`)
	f.StringVar(&o.file, "file", "", "the `FILE`, instead of ~/.ssh/config")
	f.BoolVar(&o.json, "json", false, "print JSON")
	_ = c.MarkFlagFilename("file")
	return c
}

// check says what is wrong with the command line.
func (o *sshConfigOptions) check(args []string) error {
	if err := profileAndDoor(args); err != nil {
		return err
	}
	switch {
	case o.install && o.remove:
		return errors.New("--install and --remove exclude one another")
	case o.file != "" && !o.install && !o.remove:
		return errors.New("--file goes with --install or --remove")
	case o.host != "" && profile.CheckHost(o.host) != nil:
		return fmt.Errorf("--host %q: allowed is one name, of letters, digits, dots, dashes and underscores", o.host)
	case strings.ContainsFunc(o.user, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"'#%`, r) }):
		return fmt.Errorf("--user %q: allowed is a login's name, without blanks, quotes, # and %%", o.user)
	}
	return nil
}

// run carries out the command.
func (o *sshConfigOptions) run(p *passage) error {
	host := o.hostOf(p)
	if !o.install && !o.remove {
		if o.json {
			return printJSON(p.e.stdout, sshConfigJSON{Host: host.Names[0], Text: host.Text()})
		}
		_, err := fmt.Fprint(p.e.stdout, host.Text())
		return err
	}
	return o.edit(p.e, host.Names[0], host.Text())
}

// edit puts a section with lines into the file, or takes it out.
func (o *sshConfigOptions) edit(e *env, name, lines string) error {
	path := o.file
	if path == "" {
		path = filepath.Join(sshDirectory(e), "config")
	}
	changed, err := sshconfig.Edit(path, func(text string) (string, error) {
		if o.remove {
			return sshconfig.Remove(text, name)
		}
		return sshconfig.Install(text, name, lines)
	})
	if err != nil || o.quiet {
		return err
	}
	if o.json {
		return printJSON(e.stdout, sshConfigJSON{Host: name, Text: lines, Path: path, Changed: changed})
	}
	_, err = fmt.Fprintln(e.stdout, o.done(path, name, changed))
	return err
}

// done says what was done.
func (o *sshConfigOptions) done(path, name string, changed bool) string {
	switch {
	case o.remove && changed:
		return fmt.Sprintf("%s: the lines for %s are removed", path, name)
	case o.remove:
		return fmt.Sprintf("%s has no lines for %s: nothing is changed", path, name)
	case changed:
		return fmt.Sprintf("%s: the lines for %s are written; from now on: ssh %s", path, name, name)
	}
	return fmt.Sprintf("%s has these lines: nothing is changed", path)
}

// hostOf is what ssh is to know of a passage.
func (o *sshConfigOptions) hostOf(p *passage) sshconfig.Host {
	name, door := p.profile.Name, p.request.Door
	first := len(p.profile.Doors) == 0 || door == p.profile.Doors[0]
	h := sshconfig.Host{Names: []string{o.host}, HostName: p.profile.Hosts[0], Port: firstTCP(p.profile.Ports[door]), User: o.user}
	switch {
	case o.host != "":
	case first:
		h.Names = []string{name}
		for i, host := range p.profile.Hosts {
			switch {
			case strings.EqualFold(host, name):
			case i == 0:
				h.Names = append(h.Names, host)
			default:
				h.Others = append(h.Others, host)
			}
		}
	default:
		h.Names = []string{name + "-" + door}
	}
	if o.match {
		h.Exec = strings.Join(nonEmpty(ownCommand(), "knock", name, door, "--quiet-match"), " ")
		return h
	}
	h.Proxy = ownCommand() + " connect %h %p --profile " + name
	if door != "" {
		h.Proxy += " --door " + door
	}
	return h
}

func nonEmpty(words ...string) (all []string) {
	for _, w := range words {
		if w != "" {
			all = append(all, w)
		}
	}
	return all
}

// ownCommand is how ssh is to call this program: by its name, if that is found, or by its
// path, in which ssh takes % for its own.
func ownCommand() string {
	const name = "doorward"
	own, err := os.Executable()
	if err != nil {
		return name
	}
	if found, err := exec.LookPath(name); err == nil && isSame(found, own) {
		return name
	}
	own = strings.ReplaceAll(own, "%", "%%")
	if runtime.GOOS == "windows" {
		return `"` + own + `"`
	}
	return files.Quoted(own)
}

func isSame(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}
