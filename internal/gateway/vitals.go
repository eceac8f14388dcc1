package gateway

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
)

// Vitals returns how things stand, in numbers (control.Meter). What they cost
// grows with the number of doors alone.
func (g *Gateway) Vitals() control.Vitals {
	s, ok := readBoard(g, &g.vitals)
	if !ok {
		return control.Vitals{Version: g.opts.Version, Problems: []control.Problem{{Code: control.ProblemEnding}}}
	}
	v := s.of
	refused, sessions := g.measure(s.doors)
	v.Touches = g.world.Ear.Dropped()
	v.Doors = append([]control.DoorVitals(nil), v.Doors...)
	for i := range v.Doors {
		d := &v.Doors[i]
		d.Refused, d.Sessions = refused[d.Name], sessions[d.Name]
	}
	if hearsDatagrams(s.doors) {
		c := g.world.Datagrams.Counts()
		v.Datagrams = map[string]uint64{"foreign": c.Foreign, "strange": c.Strange, "crowded": c.Crowded,
			"overrun": c.Overrun, "withheld": c.Withheld}
	}
	return v
}

// hearsDatagrams says whether a door has a knock that does.
func hearsDatagrams(doors []config.Door) bool {
	return slices.ContainsFunc(doors, func(d config.Door) bool {
		return slices.ContainsFunc(hears(d), func(p knock.Place) bool { return p.Medium == knock.Datagrams })
	})
}

// vitalsNow is how things stand in numbers that are kept anyway: no list is gone
// through for them.
func (g *Gateway) vitalsNow(time.Time) control.Vitals {
	v := control.Vitals{
		Version: g.opts.Version, Warnings: len(g.allWarnings()), Problems: g.problems(), Pending: g.applied.Pending != nil,
		Config:  control.ConfigVitals{ID: g.configID(), Loaded: g.metered.loads.latest, LoadedOK: !g.metered.loads.failed},
		FenceUp: g.broken == "", FenceOwned: g.world.Fence.Owned(), FenceRepairs: g.repairs,
		Store: control.StoreVitals{Up: g.unkept == "" && g.unsaved == "" && !g.writer.slow,
			Failures: g.writer.metered.failures, Lost: g.writer.metered.lost, Commits: &g.writer.metered.took},
		Events: map[string]map[string]uint64{"": maps.Clone(g.metered.told[""])},
	}
	for _, d := range g.doors {
		v.Doors = append(v.Doors, d.vitals())
		v.Events[d.name()] = maps.Clone(g.metered.told[d.name()])
	}
	return v
}

// measureEvery is how old a measurement may be.
const measureEvery = time.Second

// measurement is what only the kernel knows, as it was at a time. It is read by
// who asks, beside the loop, and once for all who ask within a second.
type measurement struct {
	mu       sync.Mutex // held while it is read
	at       time.Time  // zero before the first
	doors    []config.Door
	refused  map[string]uint64 // packets, by door
	sessions map[string]int    // live connections, by door
	problem  string            // why packets cannot be read, "" when they can
}

// measure returns refused packets and live connections of doors.
func (g *Gateway) measure(doors []config.Door) (refused map[string]uint64, sessions map[string]int) {
	m := &g.measured
	m.mu.Lock()
	defer m.mu.Unlock()
	now := g.world.Now()
	same := len(doors) == len(m.doors) && (len(doors) == 0 || &doors[0] == &m.doors[0])
	if same && !m.at.IsZero() && now.Sub(m.at) < measureEvery {
		return m.refused, m.sessions
	}
	m.at, m.doors, m.sessions = now, doors, make(map[string]int)
	var ports [][]port.Range
	for _, d := range doors {
		ports = append(ports, d.Ports)
	}
	found, _ := g.world.Connections(ports) // what is odd, the looks say
	for i, n := range found {
		m.sessions[doors[i].Name] = n
	}
	var err error
	if m.refused, err = g.world.Fence.Refused(); err == nil {
		m.problem = ""
	} else if m.problem != err.Error() {
		m.problem = err.Error()
		g.log.Warn("cannot read how many packets were refused", "err", err)
	}
	return m.refused, m.sessions
}
