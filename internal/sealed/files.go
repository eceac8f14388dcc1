package sealed

import (
	"fmt"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/knock"
)

// What a file is to the kind.
const (
	asIdentity = "identity"
	asKeys     = "keys"
	asSecrets  = "secrets"
	asRevoked  = "revoked"
)

// held is a file as it was fed last and could be used.
type held struct {
	digest
	as   string
	fed  bool // it has been fed, be it with an error
	good bool // the digest is of the file
}

// digest is what a file has. Which of the fields are set depends on what the file is.
type digest struct {
	identity *identity
	keys     *credential.Keys
	secrets  []credential.Secret
	revoked  *credential.Revocations
	problems []credential.Problem // lines that do not count
	doors    []string             // that options name
	roster   roster               // of keys or secrets
}

// Uses are the files, of which the identity and the machines' secrets are secret. That
// there are no keys and no secrets is nothing special: a door may have invited visitors
// alone.
func (r Rule) Uses() []knock.File {
	all := []knock.File{{Path: r.Identity, As: asIdentity, Secret: true}, {Path: r.Keys, As: asKeys, Absent: true}}
	if r.Secrets != "" {
		all = append(all, knock.File{Path: r.Secrets, As: asSecrets, Secret: true, Absent: true})
	}
	if r.Revoked != "" {
		all = append(all, knock.File{Path: r.Revoked, As: asRevoked})
	}
	return all
}

// Digest reads the text of a file.
func (Kind) Digest(f knock.File, text []byte) (any, error) {
	var d digest
	var err error
	var options []*credential.Options
	switch f.As {
	case asIdentity:
		d.identity, err = parseIdentity(text)
	case asKeys:
		var list []credential.Key
		list, d.problems = credential.Parse(text, f.Path)
		d.keys = credential.NewKeys(list)
		for _, k := range list {
			options = append(options, k.Options)
		}
	case asSecrets:
		d.secrets, d.problems = credential.ParseSecrets(text, f.Path)
		for _, s := range d.secrets {
			options = append(options, s.Options)
		}
	case asRevoked:
		d.revoked, err = credential.ParseRevocations(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Path, err)
	}
	for _, o := range options {
		if o != nil {
			d.doors = append(d.doors, o.Doors...)
		}
	}
	d.enlist()
	slices.Sort(d.doors)
	d.doors = slices.Compact(d.doors)
	return d, nil
}

// Feed takes in what a file has.
func (k *kept) Feed(now time.Time, path string, what any, err error) (c knock.Change) {
	h := k.files[path]
	if h == nil {
		return c // of a rule that is gone
	}
	first := !h.fed
	h.fed = true
	d, ok := what.(digest)
	if err != nil || !ok {
		k.publish(now) // of what does not depend on it
		if !h.good {
			c.Warnings = []string{path + ": until it can be used, the knocks that go by it open nothing"}
		}
		return c
	}
	h.digest, h.good = d, true
	k.publish(now)
	for _, p := range d.problems {
		c.Warnings = append(c.Warnings, p.String())
	}
	known := k.doors()
	for _, door := range d.doors {
		if !known[door] {
			c.Warnings = append(c.Warnings, fmt.Sprintf("%s: options name the door %q, and no door of that name has a sealed knock", path, door))
		}
	}
	if c.Recheck = !first; c.Recheck {
		c.Notes = []knock.Note{{Event: knock.NoteKeys, Detail: path + " has changed"}}
	}
	return c
}
