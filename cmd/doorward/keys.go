package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/sealed"
)

var keysHelp = `Show who may knock with the sealed knock, and change it. Nothing here needs a restart:
what is changed counts from the next knock on.

Keys come from the configuration's file of keys, from that of machines' secrets, and
from invites and doorward keys add, which are enrolled: those the daemon keeps itself.
A lock is for as long as it takes to find out: the key opens nothing, what it had
opened is closed, and a right knock with it is an alarm in the audit trail and the
metrics. Revoked is for good. Both count whatever the files say, and end the grants of
that key alone: whoever else came from the same address stays in. --now ends the live
connections, too, which only that key let in. What has let in a connection that is
older than the daemon is not known: ss -K (ss(8)) ends those.

A KEY is a fingerprint (SHA256:...), the ID of a machine's secret (secret:...), or a
name that only one has; write a name with blanks in quotes. Who knocks with a
certificate is not in the list: name them by the whole fingerprint of their key, which
doorward status --json has at the end of what it calls them, or end all certificates
of an authority by naming that. To end a single one, revoke its serial number in the
list of revoked keys (ssh-keygen -k), which ends what it opened, too.

When the disk is full, a lock or a revocation is in force all the same, and is saved
later; what would give somebody a right is undone. The error says which.

Without a command, doorward keys is doorward keys list.

` + exitStatus("0 when the daemon has answered and done what was asked for")

const keysExamples = `  doorward keys
  sudo doorward keys add alice.pub --for alice
  curl -fs https://github.com/alice.keys | sudo doorward keys add - --github-format --for alice
  sudo doorward keys lock alice --now
  sudo doorward keys revoke SHA256:... --now
  sudo doorward keys withdraw alice       # the invite that she did not use`

func newKeys(e *env) *cobra.Command {
	c := newKeysList(e)
	c.Use, c.Short, c.Long, c.Example = "keys", "show and change who may knock with the sealed knock", keysHelp, keysExamples
	c.Args, c.SuggestionsMinimumDistance = knownSub, 2 // letters
	order := func(what, order, short, long string) *cobra.Command { return newKeyOrder(e, what, order, short, long) }
	c.AddCommand(
		newKeysList(e),
		newKeysAdd(e),
		order("lock", sealed.OrderLock, "have a key open nothing for now", "Lock a key: it opens nothing until doorward keys unlock, what it has opened is closed, and a\nright knock with it is an alarm."),
		order("unlock", sealed.OrderUnlock, "end a lock", "Unlock a key that was locked: it counts again from its next knock on."),
		order("revoke", sealed.OrderRevoke, "take the right to knock from a key for good", "Revoke a key: it opens nothing any more, even where a file or a certificate says that it may,\nand what it has opened is closed. An enrolled one is forgotten."),
		order("restore", sealed.OrderRestore, "take a revocation back", "Take a revocation back. A key of a file counts again; one that was enrolled has to be enrolled\nagain."),
		newWithdraw(e),
		newIdentity(e),
		newRotateIdentity(e),
	)
	return c
}

// knownSub refuses a word that is not one of a command's commands.
func knownSub(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := fmt.Sprintf("%[1]s --help lists its commands, and %[1]s list %[2]s the keys with that in their names", c.CommandPath(), files.Quoted(args[0]))
	if like := c.SuggestionsFor(args[0]); len(like) > 0 {
		hint = c.CommandPath() + " " + like[0]
	}
	return &usageError{withHint(fmt.Errorf("command %q of %s is not known", args[0], c.Name()), "%s", hint)}
}

func newKeysList(e *env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:               "list [MATCH]",
		Short:             "show who may knock, and which invites were not used yet",
		Long:              "Show who may knock, with a MATCH those with it in their name or fingerprint, and the invites\nand rescue codes that were not used yet. A thousand keys are listed at most.",
		ValidArgsFunction: completeKeys(e),
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return &usageError{withHint(fmt.Errorf("%q: one MATCH only", args[1]), "%s --help", c.CommandPath())}
			}
			return nil
		},
		RunE: asking(func(c *cobra.Command, args []string) error {
			all, err := orderSealed[sealed.Keys](c.Context(), e.client(c), sealed.OrderKeys, sealed.KeysArgs{Match: firstOf(args)})
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(e.stdout, all)
			}
			_, err = fmt.Fprintln(e.stdout, strings.Join(showKeys(e, all, firstOf(args)), "\n"))
			return err
		}),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	operatorFlags(e, c)
	return c
}

// showKeys shows who may knock.
func showKeys(e *env, all sealed.Keys, match string) (lines []string) {
	styles, width := e.styles(e.stdout), output.Width(e.stdout)
	if len(all.Keys) == 0 {
		lines = append(lines, "Nobody may knock yet. To invite somebody: doorward invite --for NAME")
		if match != "" {
			lines[0] = fmt.Sprintf("Nobody who may knock has %q in their name or fingerprint.", output.Text(match))
		}
	} else {
		var rows [][]string
		for _, k := range all.Keys {
			rows = append(rows, []string{output.OrDash(k.Name), output.Party(k.ID, width), keyState(k), strings.Join(k.Doors, ","), output.Text(filepath.Base(k.Origin))})
		}
		lines = output.Table(styles, []string{"NAME", "KEY", "STATE", "DOORS", "FROM"}, rows)
	}
	for _, k := range all.Keys {
		for _, text := range []string{denied("locked", k.Locked), denied("revoked", k.Revoked), denied("options", k.Options)} {
			if text != "" {
				lines = append(lines, output.Hang("  "+output.Party(k.ID, width)+"  ", output.Text(text), width)...)
			}
		}
	}
	if all.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more: doorward keys list MATCH lists those with something in their name", all.More))
	}
	if match != "" {
		return lines
	}
	if len(all.Invites) > 0 {
		var rows [][]string
		for _, i := range all.Invites {
			rows = append(rows, []string{output.OrDash(i.Name), i.ID, until(e, i.Expires), output.OrDash(i.Options)})
		}
		lines = append(lines, "", styles.Title.Render("Invites that were not used yet"))
		lines = append(lines, output.Table(styles, []string{"FOR", "ID", "UNTIL", "OPTIONS"}, rows)...)
	}
	if len(all.Rescues) > 0 {
		lines = append(lines, "", output.Counted(len(all.Rescues), "rescue code")+" not used yet, the latest of "+
			latest(all.Rescues).In(e.clock().Location()).Format(time.DateOnly))
	}
	return lines
}

// denied is a line about something of a key, "" for nothing.
func denied(what, text string) string {
	if text == "" {
		return ""
	}
	return what + " " + text
}

// keyState is a word for whether a key counts.
func keyState(k sealed.KeyEntry) string {
	switch {
	case k.Revoked != "":
		return "revoked"
	case k.Locked != "":
		return "locked"
	}
	return "ok"
}

func until(e *env, t *time.Time) string {
	if t == nil {
		return "-"
	}
	return output.Clock(*t, e.clock())
}

func latest(all []sealed.CodeEntry) (t time.Time) {
	for _, c := range all {
		if c.Made.After(t) {
			t = c.Made
		}
	}
	return t
}

// newKeyOrder is a command that says something about one key.
func newKeyOrder(e *env, name, order, short, long string) *cobra.Command {
	var asJSON bool
	var a sealed.KeyArgs
	c := &cobra.Command{
		Use: name + " KEY", Short: short, Long: long,
		Args:              oneKey,
		ValidArgsFunction: completeKeys(e),
		RunE: asking(func(c *cobra.Command, args []string) error {
			a.Key = args[0]
			return doneBy(c.Context(), e, e.client(c), order, a, asJSON)
		}),
	}
	if order == sealed.OrderLock || order == sealed.OrderRevoke {
		c.Use += " [--now]"
		c.Flags().BoolVar(&a.Now, "now", false, "end the live connections, too, that this key alone let in")
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	operatorFlags(e, c)
	return c
}

// oneKey checks that one argument, a KEY, stands on the command line.
func oneKey(c *cobra.Command, args []string) error {
	var err error
	switch {
	case len(args) == 0:
		err = errors.New("KEY is missing: a fingerprint or a name, as doorward keys lists them")
	case len(args) > 1:
		err = fmt.Errorf("%q: one KEY only; a name with blanks is written in quotes", args[1])
	default:
		return nil
	}
	return &usageError{withHint(err, "%s --help", c.CommandPath())}
}

// doneJSON is what the commands of keys print with --json that change something.
type doneJSON struct {
	Message string `json:"message"` // what was done, for people
	Ended   int    `json:"ended"`   // how many grants that has ended
}

// doneBy gives an order to the sealed knock and says what it did.
func doneBy(ctx context.Context, e *env, daemon *control.Client, order string, args any, asJSON bool) error {
	var done sealed.Done
	ended, err := orderTo(ctx, daemon, order, args, &done)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(e.stdout, doneJSON{Message: done.Message, Ended: ended})
	}
	text := output.Text(done.Message)
	if ended > 0 {
		text += "; ended: " + output.Counted(ended, "grant")
	}
	_, err = fmt.Fprintln(e.stdout, text)
	return err
}

const keysAddHelp = `Enrol the public keys of a FILE, or of standard input for -, a line each as in authorized_keys
and in .pub files. They are the daemon's from then on: the file is not read again, and nothing
is written into the configuration's file of keys.

--for names those that have no comment. With --github-format the lines are as GitHub and
GitLab publish them (https://github.com/NAME.keys): keys alone. Then --for names them all, and
options and comments in the file count for nothing, since whoever runs that site has written it.`

// maxAdded is how many bytes of keys one order has, which the daemon bounds.
const maxAdded = 48 << 10

func newKeysAdd(e *env) *cobra.Command {
	var a sealed.AddArgs
	var github, asJSON bool
	c := &cobra.Command{
		Use:   "add FILE|- [--for NAME] [--options OPTIONS] [--github-format]",
		Short: "enrol public keys",
		Long:  keysAddHelp,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &usageError{withHint(errors.New("needed is one FILE of public keys, or - for standard input"), "%s --help", c.CommandPath())}
			}
			return nil
		},
		RunE: asking(func(c *cobra.Command, args []string) error {
			text, err := addedKeys(e, args[0])
			if err != nil {
				return err
			}
			if a.Lines = string(text); github {
				if a.Name == "" {
					return &usageError{withHint(errors.New("--for is missing: keys as GitHub publishes them have no names"), "%s --for NAME", e.again())}
				}
				if a.Lines, err = bareKeys(text); err != nil {
					return fmt.Errorf("%s: %w", args[0], err)
				}
			}
			return doneBy(c.Context(), e, e.client(c), sealed.OrderAdd, a, asJSON)
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&a.Name, "for", "", "whose keys they are: the `NAME` of those without a comment")
	f.StringVar(&a.Options, "options", "", "`OPTIONS` of all of them, as in authorized_keys")
	f.BoolVar(&github, "github-format", false, "FILE is as GitHub publishes somebody's keys")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	operatorFlags(e, c)
	return c
}

// addedKeys reads what is to be added.
func addedKeys(e *env, path string) (text []byte, err error) {
	if path == "-" {
		text, err = readAll(e.stdin, maxAdded)
	} else {
		text, err = files.Given(path, maxAdded)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	if err != nil {
		return nil, withHint(err, "so many keys are better kept in the configuration's file of keys")
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, withHint(fmt.Errorf("%s has no key", path), "doorward keys add FILE.pub")
	}
	return text, nil
}

// bareKeys returns the keys of lines without anything else.
func bareKeys(text []byte) (string, error) {
	list, problems := credential.Parse(text, "")
	if len(problems) > 0 {
		return "", fmt.Errorf("line %d: %s", problems[0].Line, problems[0].Text)
	}
	none, err := credential.ParseOptions("")
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, k := range list {
		if k.Authority {
			return "", fmt.Errorf("line %d: an authority's key is not somebody's", k.Line)
		}
		k.Name, k.Options = "", none
		b.WriteString(k.String() + "\n")
	}
	return b.String(), nil
}

func newWithdraw(e *env) *cobra.Command {
	var a sealed.WithdrawArgs
	var asJSON bool
	c := &cobra.Command{
		Use:   "withdraw INVITE|--rescues",
		Short: "take back an invite that was not used yet, or all rescue codes",
		Long:  "Take back an invite that was not used yet, by its ID or by the name that it is for, or with\n--rescues all rescue codes. Nobody who used one before is affected.",
		Args: func(c *cobra.Command, args []string) error {
			if a.Rescues == (len(args) == 1) || len(args) > 1 {
				return &usageError{withHint(errors.New("needed is either one INVITE, as doorward keys lists them, or --rescues"), "%s --help", c.CommandPath())}
			}
			return nil
		},
		RunE: asking(func(c *cobra.Command, args []string) error {
			a.Invite = firstOf(args)
			return doneBy(c.Context(), e, e.client(c), sealed.OrderWithdraw, a, asJSON)
		}),
		ValidArgsFunction: completing(e, func(all sealed.Keys) (found []cobra.Completion) {
			for _, i := range all.Invites {
				found = append(found, cobra.CompletionWithDesc(i.ID, "for "+output.Text(i.Name)))
			}
			return found
		}),
	}
	c.Flags().BoolVar(&a.Rescues, "rescues", false, "take back all rescue codes")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	operatorFlags(e, c)
	return c
}

// completeKeys proposes who may knock: by name, and by fingerprint where there is none.
func completeKeys(e *env) cobra.CompletionFunc {
	return completing(e, func(all sealed.Keys) (found []cobra.Completion) {
		for _, k := range all.Keys {
			if name := output.Text(k.Name); name != "" && name == k.Name {
				found = append(found, cobra.CompletionWithDesc(name, output.Party(k.ID, output.PlainWidth)))
			} else {
				found = append(found, k.ID)
			}
		}
		return found
	})
}

// completing proposes what is found among those who may knock. A shell waits for it.
func completing(e *env, find func(sealed.Keys) []cobra.Completion) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(c.Context(), time.Second)
		defer cancel()
		all, err := orderSealed[sealed.Keys](ctx, e.client(c), sealed.OrderKeys, sealed.KeysArgs{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return find(all), cobra.ShellCompDirectiveNoFileComp
	}
}
