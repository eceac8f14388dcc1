package gateway

import (
	"log/slog"
	"slices"

	"github.com/doorward/doorward/internal/listen"
)

// ear keeps the listeners as the doors want them. A port that cannot be had is
// said once and tried again at each upkeep.
type ear struct {
	log     *slog.Logger
	ear     Ear
	wanted  listen.Ports
	problem string // why some port is not as it should be, "" when all are
	repairs uint64
}

// set has the ear do with ports as they say. Each list is sorted.
func (e *ear) set(ports listen.Ports) {
	if slices.Equal(ports.Open, e.wanted.Open) && slices.Equal(ports.Shut, e.wanted.Shut) &&
		slices.Equal(ports.Same, e.wanted.Same) {
		return
	}
	e.wanted = ports
	e.apply()
}

func (e *ear) apply() {
	problem := ""
	if err := e.ear.Set(e.wanted); err != nil {
		problem = err.Error()
	}
	if problem != "" && problem != e.problem {
		e.log.Error("some knocks cannot be heard; trying again", "err", problem)
	}
	if problem == "" && e.problem != "" {
		e.log.Info("all knocks can be heard again")
	}
	e.problem = problem
}

// check opens listeners again that have died, and says which.
func (e *ear) check() (died []uint16) {
	missing := e.ear.Check()
	if len(missing) == 0 {
		return nil
	}
	known := e.problem != ""
	e.apply()
	if known {
		return nil
	}
	e.repairs++
	return missing
}

func (e *ear) close() {
	if err := e.ear.Close(); err != nil {
		e.log.Warn("cannot close the listeners", "err", err)
	}
}
