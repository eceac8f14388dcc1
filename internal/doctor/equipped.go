//go:build linux

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
)

// equipped reads the files that the door's knocks go by, as the daemon does, and says what
// is wrong with each of their lines.
func (h *Host) equipped(d *config.Door, reader *reader) (all []Finding) {
	for _, k := range d.Knocks {
		r, ok := k.Rule.(knock.Equipped)
		if !ok {
			continue
		}
		for _, f := range r.Uses() {
			all = append(all, h.inspect(r, f, reader)...)
		}
	}
	return all
}

func (h *Host) inspect(r knock.Equipped, f knock.File, reader *reader) (all []Finding) {
	path := h.path(f.Path)
	read := files.Read
	if f.Secret {
		read = files.ReadSecret
	}
	text, err := read(path, knock.MaxFile)
	do := ""
	if untrusted, ok := errors.AsType[*files.Error](err); ok {
		what := untrusted.Problem
		if untrusted.Path != path {
			what = untrusted.Path + " " + what
		}
		err, do = errors.New(what+": it is not used"), untrusted.Fix
	}
	switch why := reader.kept(path); {
	case errors.Is(err, fs.ErrPermission):
		return []Finding{{Note, f.Path, "cannot be read by you, and was not looked at", "sudo doorward doctor"}}
	case err == nil && why != "":
		return []Finding{{Problem, f.Path, why + ", and knocks go by it", fmt.Sprintf("chgrp doorward %s && chmod g+r %[1]s", files.Quoted(path))}}
	case errors.Is(err, fs.ErrNotExist):
		do = strings.Join(r.Maker(), " ")
	}
	has, wrong := r.Inspect(f, text, err)
	for _, w := range wrong {
		all = append(all, Finding{Problem, f.Path, w, do})
	}
	if has != "" {
		all = append(all, Finding{OK, f.Path, has, ""})
	}
	return all
}

// timed says what depends on the clock besides logins: of a synchronised one nothing is
// said.
func timed(c *config.Config, s clockState) []Finding {
	if s.err != nil || s.synced {
		return nil
	}
	for i := range c.Doors {
		for _, k := range c.Doors[i].Knocks {
			if r, ok := k.Rule.(knock.Timed); ok && r.Fresh() > 0 {
				return []Finding{{Warning, "clock", fmt.Sprintf("is not synchronised: single packets at door %s count only within %s of it",
					c.Doors[i].Name, tables.Short(r.Fresh())), "timedatectl set-ntp true, or install chrony"}}
			}
		}
	}
	return nil
}
