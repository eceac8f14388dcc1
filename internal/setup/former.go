package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/files"
)

// Former is the file that doorward init overwrites.
type Former struct {
	config *config.Config // nil if there is none, or it is not a valid one
	broken bool           // there is a file, and it is not a valid configuration
	Kept   string         // the path under which it is kept, once it is; "" for nowhere
}

// Read reads the file, if there is one.
func (f *Former) Read(path string) {
	c, text, err := config.Load(path)
	*f = Former{config: c, broken: err != nil && !errors.Is(err, fs.ErrNotExist) && !config.Blank(text)}
	if err != nil {
		f.config = nil
	}
}

// Host returns the name or address that the file gives, "" if it gives none.
func (f *Former) Host() string {
	if f.config == nil {
		return ""
	}
	return f.config.Gateway.Host
}

// door returns the former door of this name, nil for none.
func (f *Former) door(name string) *config.Door {
	if f.config == nil {
		return nil
	}
	i := slices.IndexFunc(f.config.Doors, func(d config.Door) bool { return d.Name == name })
	if i < 0 {
		return nil
	}
	return &f.config.Doors[i]
}

// formerKnocks returns the knocks that the door had before, none if one of them is of a
// kind that cannot be written.
func (p *Plan) formerKnocks() (all []draft) {
	d := p.Former.door(p.Door)
	if d == nil {
		return nil
	}
	for _, k := range d.Knocks {
		kind, err := Named(k.Kind)
		if err != nil {
			return nil
		}
		all = append(all, draft{k.Kind, kind.Write(k.Rule)})
	}
	return all
}

// Changed returns warnings about knocks of the former file that are not in the new one,
// with what to do about it, and the names of the doors whose knocks are.
func (f *Former) Changed(c *config.Config) (warnings, kept []string) {
	if f.broken {
		return []string{fmt.Sprintf("the previous file cannot be read as a configuration, so that no knock of it is in this one; "+
			"doorward check %s says why", files.Quoted(f.Kept))}, nil
	}
	if f.config == nil {
		return nil, nil
	}
	for i := range f.config.Doors {
		d := &f.config.Doors[i]
		at := slices.IndexFunc(c.Doors, func(n config.Door) bool { return n.Name == d.Name })
		switch {
		case at < 0:
			warnings = append(warnings, fmt.Sprintf("door %q of the previous file is not in this one, and is no longer guarded "+
				"once this one is in use", d.Name))
		case !slices.Equal(knockWords(d), knockWords(&c.Doors[at])):
			warnings = append(warnings, fmt.Sprintf("door %q has another knock than before, and the former one opens nothing "+
				"once this file is in use; to give the new one to everybody who had it: %s", d.Name, giveBy(&c.Doors[at])))
		default:
			kept = append(kept, d.Name)
		}
	}
	return warnings, kept
}

// giveBy is the command by which visitors get a door's knock.
func giveBy(d *config.Door) string {
	if invited(d) {
		return "doorward invite --door " + d.Name + " --for NAME"
	}
	return "doorward share"
}

// knockWords returns what visitors do for a door, in words.
func knockWords(d *config.Door) (words []string) {
	for i := range d.Knocks {
		words = append(words, d.Knocks[i].Words())
	}
	return words
}
