package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/output"
	"github.com/doorward/doorward/internal/sealed"
	"github.com/doorward/doorward/internal/setup"
	"github.com/doorward/doorward/internal/share"
	"github.com/doorward/doorward/internal/tables"
)

const identityHelp = `Show the gateway's key by its fingerprint, or make one where there is none, as doorward init
does. FILE is the configuration's identity file. It is readable by root and the group doorward
only: whoever has it can pass for the gateway.

A file that is there is never changed: doorward keys renew adds a key to it.`

const renewHelp = `Give the gateway a new key, in FILE, the configuration's identity file. The one before counts,
too, until it is ended by --end. Visitors notice nothing: with its next knock each doorward
learns of the new key, which the old one vouches for. Whoever has not knocked until the old key
is ended needs a new invite, and so do invites that were not used yet.

With --profile-secret it is the profile secret that is new, which every visitor of the gateway
has: it only tells a knock from noise, and opens nothing. A visitor gets the new one with a new
invite alone. To a key that is known already that is one with --bind, which enrols nothing. When
the old one is ended, whoever still has it gets no answer at all.

The daemon sees by itself that the file has changed, within ten seconds.`

// identityOptions are the flags of the commands about the gateway's key.
type identityOptions struct {
	config  string
	profile bool
	end     bool
	json    bool
}

// identityJSON is what keys identity and keys renew print with --json.
type identityJSON struct {
	File     string   `json:"file"`
	Keys     []string `json:"keys"`     // fingerprints of the gateway's keys, the newest first; never null
	Profiles int      `json:"profiles"` // how many profile secrets count
	Changed  bool     `json:"changed"`  // the file was made or changed
}

func (o *identityOptions) addFlags(c *cobra.Command) {
	c.Flags().SortFlags = false
	c.Flags().StringVarP(&o.config, "config", "c", config.DefaultPath, "configuration `FILE` that names the identity file")
	c.Flags().BoolVar(&o.json, "json", false, "print JSON")
}

func newIdentity(e *env) *cobra.Command {
	var o identityOptions
	c := &cobra.Command{
		Use: "identity [FILE]", Short: "show the gateway's key, or make it",
		Long: identityHelp, Args: fileArg,
		RunE: func(_ *cobra.Command, args []string) error {
			path, text, err := o.read(e, firstOf(args))
			made := errors.Is(err, fs.ErrNotExist)
			if made {
				text, err = sealed.NewIdentity(rand.Reader)
			}
			if err != nil {
				return err
			}
			if made {
				_, err := setup.Equip([]knock.Equipment{{Path: path, Text: text}})
				if err != nil {
					return o.denied(e, err)
				}
			}
			return o.tell(e, path, text, made)
		},
	}
	o.addFlags(c)
	return c
}

func newRotateIdentity(e *env) *cobra.Command {
	var o identityOptions
	c := &cobra.Command{
		Use: "renew [FILE] [--profile-secret] [--end]", Short: "give the gateway a new key, or end the one before",
		Long: renewHelp, Args: fileArg,
		RunE: func(_ *cobra.Command, args []string) error { return o.renew(e, firstOf(args)) },
	}
	o.addFlags(c)
	c.Flags().BoolVar(&o.profile, "profile-secret", false, "the profile secret, instead of the gateway's key")
	c.Flags().BoolVar(&o.end, "end", false, "let only the newest count from now on")
	return c
}

// read reads the identity file, which is the configuration's if no path is given.
func (o *identityOptions) read(e *env, path string) (string, []byte, error) {
	if path == "" {
		var err error
		if path, err = o.path(); err != nil {
			return "", nil, o.denied(e, err)
		}
	}
	text, err := files.ReadSecret(path, knock.MaxFile)
	return path, text, o.denied(e, err)
}

// denied says how to go on where something may not be read or written.
func (o *identityOptions) denied(e *env, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return withHint(err, "%s", e.sudo())
	}
	return err
}

// path is that of the identity file of the configuration, the default one if there is no
// configuration or it has no sealed knock.
func (o *identityOptions) path() (string, error) {
	c, _, err := config.Load(o.config)
	if errors.Is(err, fs.ErrNotExist) && o.config == config.DefaultPath {
		return sealed.DefaultIdentity, nil
	}
	if err != nil {
		return "", withHint(err, "doorward check %s", files.Quoted(o.config))
	}
	var all []string
	for _, d := range c.Doors {
		for _, k := range d.Knocks {
			if r, ok := k.Rule.(sealed.Rule); ok && !slices.Contains(all, r.Identity) {
				all = append(all, r.Identity)
			}
		}
	}
	switch len(all) {
	case 0:
		return sealed.DefaultIdentity, nil
	case 1:
		return all[0], nil
	}
	return "", &usageError{fmt.Errorf("FILE is missing: %s has the identity files %s", o.config, tables.Listed(all))}
}

// renew adds a new secret, or ends all but the newest.
func (o *identityOptions) renew(e *env, path string) error {
	path, text, err := o.read(e, path)
	if errors.Is(err, fs.ErrNotExist) {
		return withHint(err, "sudo doorward keys identity makes one")
	}
	if err != nil {
		return err
	}
	what, ended := sealed.GatewayKey, 0
	if o.profile {
		what = sealed.ProfileSecret
	}
	next := text
	if o.end {
		next, ended, err = sealed.Retire(text, what)
	} else {
		next, err = sealed.Renew(text, what, rand.Reader)
	}
	if err != nil {
		return o.unusable(e, path, text, err)
	}
	if !o.end || ended > 0 {
		change, err := share.Stage([]share.File{{Path: path, Text: next, Keep: true, Was: text}})
		if err != nil {
			return o.denied(e, err)
		}
		defer change.Close()
		if err := change.Commit(); err != nil {
			return err
		}
	}
	return o.tell(e, path, next, !o.end || ended > 0)
}

// unusable is why a file cannot be changed: it has too much, or is no identity file.
func (o *identityOptions) unusable(e *env, path string, text []byte, err error) error {
	err = fmt.Errorf("%s: %w", path, err)
	if _, bad := sealed.ReadIdentity(text); bad == nil {
		return withHint(err, "%s --end", e.again())
	}
	return withHint(err, "doorward doctor; the file must be one that doorward keys identity has made")
}

// tell says what the file has, and what follows.
func (o *identityOptions) tell(e *env, path string, text []byte, changed bool) error {
	has, err := sealed.ReadIdentity(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	j := identityJSON{File: path, Keys: []string{}, Profiles: has.Profiles, Changed: changed}
	for _, f := range has.Keys {
		j.Keys = append(j.Keys, f.String())
	}
	if o.json {
		return printJSON(e.stdout, j)
	}
	var b strings.Builder
	if changed {
		fmt.Fprintf(&b, "Written: %s\n", path)
	} else {
		fmt.Fprintf(&b, "Not changed: %s\n", path)
	}
	for i, f := range j.Keys {
		kind := "the gateway's key"
		if i > 0 {
			kind = "the one before, which counts, too"
		}
		fmt.Fprintf(&b, "  %s  %s\n", f, kind)
	}
	if n := has.Profiles; n > 1 {
		fmt.Fprintf(&b, "  %s, of which new invites have the first\n", output.Counted(n, "profile secret"))
	}
	if len(has.Keys) > 1 {
		b.WriteString("\nWhen every visitor has knocked once more: " + asRoot("doorward keys renew --end", usesSudo(e)) + "\n")
	}
	if has.Profiles > 1 {
		b.WriteString("\nWhen every visitor has accepted a new invite: doorward keys renew --profile-secret --end\n")
	}
	_, err = e.stdout.Write([]byte(b.String()))
	return err
}
