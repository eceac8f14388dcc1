package main

import (
	"path/filepath"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/share"
)

// What the commands that make files print with --json, beside the failures of all.

// initJSON is what init prints with --json.
type initJSON struct {
	File     string   `json:"file"`
	Door     string   `json:"door"`
	Warnings []string `json:"warnings"` // never null
}

// printMade says what was written.
func (o *initOptions) printMade(e *env, c *config.Config) error {
	return printJSON(e.stdout, initJSON{File: o.output, Door: c.Doors[0].Name,
		Warnings: append([]string{}, c.Warnings()...)})
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

// polkitJSON is what polkit prints with --json.
type polkitJSON struct {
	Rule      string   `json:"rule"`
	Units     []string `json:"units"`     // that it is about
	Installed string   `json:"installed"` // the file it was written to, "" for none
}
