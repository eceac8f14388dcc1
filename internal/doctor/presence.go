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

// presence reports how a door knows that somebody is in, and whether it can.
func (h *Host) presence(d *config.Door) []Finding {
	where := "door " + d.Name
	all := []Finding{{OK, where, d.Told(), ""}}
	udp := port.Has(d.Ports, port.UDP)
	if !udp || !d.Presence.Connections || d.Presence.Idle == 0 {
		return all
	}
	switch err := h.Flows(); {
	case err == nil:
	case errors.Is(err, fs.ErrPermission):
		all = append(all, Finding{Warning, where, "did not check whether UDP flows can be seen here", "sudo doorward doctor"})
	case d.ByFlows():
		all = append(all, Finding{Problem, where, fmt.Sprintf("would go dark while somebody is in, since UDP flows cannot"+
			" be seen here: %v", err), `set logins, or write idle = "never"`})
	default:
		all = append(all, Finding{Warning, where, fmt.Sprintf("does not see who is in over UDP alone, since UDP flows cannot be"+
			" seen here: %v", err), `where that matters, write idle = "never"`})
	}
	return all
}

// clashes looks for ports that a connection of this machine may happen to have.
func (h *Host) clashes(c *config.Config) []Finding {
	local, err := port.ReadLocal(os.DirFS(h.path("/")))
	if err != nil {
		return nil
	}
	what, do := c.Clashes(local, true)
	if what == "" {
		return nil
	}
	return []Finding{{Warning, "ports", what, do}}
}
