//go:build linux

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
)

// presence says how a door knows that somebody is in, and whether it can.
func (p *Patient) presence(d *config.Door) []Finding {
	where := "door " + d.Name
	all := []Finding{{OK, where, d.Told(), ""}}
	udp := port.Has(d.Ports, port.UDP)
	if !udp || !d.Presence.Connections || d.Presence.Idle == 0 {
		return all
	}
	switch err := p.Flows(); {
	case err == nil:
	case errors.Is(err, fs.ErrPermission):
		all = append(all, Finding{Warning, where, "whether flows over UDP can be seen here was not asked", "sudo doorward doctor"})
	case d.ByFlows():
		all = append(all, Finding{Problem, where, fmt.Sprintf("would go dark while people are using it, since flows over UDP cannot"+
			" be seen here: %v", err), `name a source of logins, or set idle = "never"`})
	default:
		all = append(all, Finding{Warning, where, fmt.Sprintf("sees nobody who is there over UDP alone, since flows cannot be"+
			" seen here: %v", err), `where that matters, write idle = "never"`})
	}
	return all
}

// clashes looks for ports that a connection of this machine may happen to have.
func (p *Patient) clashes(c *config.Config) []Finding {
	local, err := port.ReadLocal(os.DirFS(p.path("/")))
	if err != nil {
		return nil
	}
	what, do := c.Clashes(local, true)
	if what == "" {
		return nil
	}
	return []Finding{{Warning, "ports", what, do}}
}
