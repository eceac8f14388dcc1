package setup

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/doctor"
	"github.com/doorward/doorward/internal/presence"
	"github.com/doorward/doorward/internal/service"
)

// This returns the machine that the command runs on.
func This() Machine {
	return Machine{
		Root:  os.DirFS("/"),
		Flows: presence.NewWatcher().FlowsVisible,
		SSHD:  doctor.SSHServers,
		Addresses: func() []netip.Addr {
			all, _ := doctor.Addresses() // without them there is no proposal
			return all
		},
		Firewalls: func(c *config.Config) (all []Firewall) {
			for _, f := range doctor.Openings(c) {
				all = append(all, Firewall{Name: f.Where, Steps: f.Steps()})
			}
			return all
		},
	}
}

// unitTime is how long systemd may take to answer for a unit's names.
const unitTime = 10 * time.Second

// UnitNames returns what systemd calls a unit: as it says itself where it runs, and by
// the links between unit files where it does not.
func UnitNames(ctx context.Context, unit string) service.Names {
	ctx, cancel := context.WithTimeout(ctx, unitTime)
	defer cancel()
	facts, err := service.NewUnit(unit, slog.New(slog.DiscardHandler)).Facts(ctx)
	if err != nil {
		return service.NamesByLinks("", unit)
	}
	return facts.Names
}
