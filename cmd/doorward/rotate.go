package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/setup"
	"github.com/doorward/doorward/internal/share"
)

const rotateHelp = `Draw a new knock for a door and share it with everybody who has the old one.

The new knock has as many listeners and touches as the old one, drawn at random
from the ports 20000 to 32767 and 61000 to 65535; none of them is used by any door
or by another program. In the configuration file those numbers change and nothing
else does: comments, order and layout stay. The previous file is kept beside it, as
FILE.~1~, FILE.~2~ and so on. The texts for the users are those of doorward share, which
remembers them; --to adds somebody. If anything fails, nothing is changed.

The daemon goes on with the old knock until you apply the new one, so there is
time to send the texts out first:

  1. doorward rotate --output /root/knocks
  2. send each user theirs, and let the new ports through in other firewalls, as
     rotate says
  3. doorward apply --confirm 60s, at the time that you told them

With --apply, rotate does the third step at once, in case the old knock has got into
the wrong hands. Unless you then keep it, with doorward apply --keep, the daemon goes
back to the old knock after the time of --confirm, so that you cannot lock yourself
out; sessions that are open live on in any case. The file stays as it is then, with
the new knock: move the previous file over it if you give up on it.

Exit status: 0 when the file has the new knock and every user's text is
written, and with --apply the daemon has it in use; 1 when not; 2 when the command
line is wrong.`

const rotateExamples = `  doorward rotate --output /root/knocks
  doorward rotate --door ssh --to carol.pub
  doorward rotate --apply --confirm 2m`

// rotateOptions are the flags of rotate.
type rotateOptions struct {
	shareOptions
	apply   bool
	confirm time.Duration
	machine setup.Machine
}

func newRotate(e *env) *cobra.Command { return newRotateWith(e, setup.This()) }

// newRotateWith is rotate for a machine.
func newRotateWith(e *env, m setup.Machine) *cobra.Command {
	o := rotateOptions{machine: m}
	c := &cobra.Command{
		Use:               "rotate [--door DOOR] [--output DIR] [--apply]",
		Short:             "draw a new knock and share it with everybody who has the old one",
		Long:              rotateHelp,
		Example:           rotateExamples,
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: asking(func(c *cobra.Command, _ []string) error {
			if o.apply && o.confirm < time.Second {
				return &usageError{fmt.Errorf("--confirm %v: allowed is 1s and more", o.confirm)}
			}
			if c.Flags().Changed("confirm") && !o.apply {
				return &usageError{errors.New("--confirm goes with --apply")}
			}
			return o.rotate(c.Context(), e, e.client(c))
		}),
	}
	o.addFlags(c)
	c.Flags().BoolVar(&o.apply, "apply", false, "have the daemon take the new knock into use at once")
	c.Flags().DurationVar(&o.confirm, "confirm", time.Minute,
		"with --apply, `TIME` after which the daemon goes back unless it is kept")
	return c
}

// rotate prepares everything, then puts it in place, then has it applied.
func (o *rotateOptions) rotate(ctx context.Context, e *env, daemon *control.Client) error {
	t, err := o.target(e)
	if err != nil {
		return err
	}
	p, err := o.people(e, t)
	if err != nil {
		return err
	}
	if o.apply {
		if err := sameFile(ctx, daemon, t.path); err != nil {
			return err
		}
	}
	edited, err := t.redraw()
	if err != nil {
		return err
	}
	var sealed []share.Letter
	var files []share.File
	if len(p.all.Keys) > 0 {
		if sealed, files, err = o.seal(e, t, p.all.Host, p.all.Users()); err != nil {
			return err
		}
	}
	files = append(files, p.remember...)
	files = append(files,
		share.File{Path: t.path, Text: edited, Keep: true, Was: t.text, Backup: true})
	change, err := share.Stage(files)
	if err != nil {
		return err
	}
	defer change.Close()
	if err := change.Commit(); err != nil {
		return err
	}
	var reply control.Reply
	if o.apply {
		reply, err = daemon.Apply(ctx, control.ApplyRequest{Action: "apply", Confirm: o.confirm.String()})
		if err != nil {
			return errors.Join(o.notApplied(err), change.Undo())
		}
	}
	return o.tellRotated(e, t, p, sealed, reply, change.Backup(t.path))
}

// notApplied is the error for a new knock that is not known to be in use, so that the
// file gets the old one back.
func (o *rotateOptions) notApplied(err error) error {
	if told, ok := errors.AsType[*control.Error](err); ok && (told.Code == control.CodeRefused || told.Code == control.CodeFailed) {
		return fmt.Errorf("the knock stays the old one: %w", err)
	}
	return fmt.Errorf("the file has the old knock again; if the daemon has the new one all the same, it goes back within %v: %w", o.confirm, err)
}

// redraw draws a new knock into the target and returns the edited text.
func (t *target) redraw() ([]byte, error) {
	k := t.door.Knocks[t.index]
	rule, ok := k.Rule.(knock.Redrawn)
	if !ok {
		return nil, withHint(fmt.Errorf("door %q: knock %q cannot be redrawn", t.door.Name, k.Name),
			"change it in %s by hand; then doorward apply --confirm 60s, and doorward share", t.path)
	}
	fresh, edits, err := rule.Redraw(share.Lots(t.config, setup.Taken, rand.Reader))
	if err != nil {
		return nil, err
	}
	t.knock = fresh
	return share.Edit(t.path, t.text, t.door.Name, t.index, fresh, edits)
}

// invited is the name of a door's knock to which visitors are invited, "" for none.
func invited(d *config.Door) string {
	for _, k := range d.Knocks {
		if _, ok := k.Rule.(knock.Invited); ok {
			return k.Name
		}
	}
	return ""
}

// sameFile makes sure that the daemon reads the file that is about to change.
func sameFile(ctx context.Context, daemon *control.Client, path string) error {
	s, err := daemon.Status(ctx)
	if err != nil {
		return err
	}
	real := func(p string) string {
		if r, err := filepath.EvalSymlinks(p); err == nil {
			p = r
		}
		a, _ := filepath.Abs(p)
		return a
	}
	if real(s.Config) != real(path) {
		return fmt.Errorf("--apply: the daemon's configuration is %q, not %q", s.Config, path)
	}
	return nil
}

// tellWaysIn says what other firewalls have to let through for the new knock.
func (o *rotateOptions) tellWaysIn(w io.Writer, e *env, path string) error {
	c, _, err := config.Load(path)
	if err != nil {
		return err
	}
	ways := setup.Written{Config: c, Sudo: usesSudo(e)}
	if o.machine.Firewalls != nil {
		ways.Firewalls = o.machine.Firewalls(c)
	}
	fmt.Fprint(w, "\nThe new knock has other ports. Before it is used:\n")
	for _, s := range ways.WaysIn() {
		fmt.Fprintf(w, "\n%s\n", strings.Join(output.Wrap(output.Text(s.Words), output.PlainWidth), "\n"))
		for _, line := range s.Lines {
			fmt.Fprintf(w, "  %s\n", output.Text(line))
		}
	}
	return nil
}

func (o *rotateOptions) tellRotated(
	e *env, t *target, p *people, sealed []share.Letter, r control.Reply, before string,
) error {
	if o.json {
		j := o.made(t, p, sealed)
		if j.File, j.Before = t.path, before; o.apply {
			j.Apply = &r
		}
		return printJSON(e.stdout, j)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "Door %s has a new knock in %s; the previous file is %s.\n\n", t.door.Name, t.path, before)
	if len(sealed) > 0 {
		o.tell(&b, t, p, sealed)
	} else {
		fmt.Fprintln(&b, "Nobody is remembered as having the old one; to give the new one to somebody: doorward share")
	}
	if err := o.tellWaysIn(&b, e, t.path); err != nil {
		return err
	}
	if !o.apply {
		fmt.Fprint(&b, "\nThe daemon goes on with the old knock until: doorward apply --confirm 60s\n")
	}
	if _, err := e.stdout.Write(b.Bytes()); err != nil || !o.apply {
		return err
	}
	_, err := fmt.Fprintf(e.stdout, "\n%s\n", output.Text(r.Message)) // which says until when
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, "Knock with the new ports and log in, in a new session; then keep it: doorward apply --keep")
	return err
}
