package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/presence"
)

// ReadMetrics returns the current state in numbers (control.MetricSource). Its cost grows
// with the number of doors alone.
func (g *Gateway) ReadMetrics() control.GatewayMetrics {
	s, ok := readSnapshot(g, &g.metricsCache)
	if !ok {
		return control.GatewayMetrics{Version: g.opts.Version, Problems: []control.Problem{{Code: control.ProblemEnding}}}
	}
	v := s.of
	read := g.measure(s.doors, measureEvery)
	v.Touches = g.world.Touches.Dropped()
	v.Doors = append([]control.DoorMetrics(nil), v.Doors...)
	for i := range v.Doors {
		d := &v.Doors[i]
		d.PacketsRefused, d.Sessions = read.refused[d.Name], read.sessions[d.Name]
	}
	if hearsDatagrams(s.doors) {
		c := g.world.Datagrams.Counts()
		v.Datagrams = map[string]uint64{"foreign": c.Foreign, "strange": c.Strange, "crowded": c.Crowded,
			"replied": c.Replied, "overrun": c.Overrun, "withheld": c.Withheld}
	}
	return v
}

// hearsDatagrams says whether a door has a knock that does.
func hearsDatagrams(doors []config.Door) bool {
	return slices.ContainsFunc(doors, func(d config.Door) bool {
		return slices.ContainsFunc(hears(d), func(p knock.Place) bool { return p.Medium != knock.Connections })
	})
}

// metricsNow returns the current state in numbers that are kept anyway: it walks no list.
func (g *Gateway) metricsNow(time.Time) control.GatewayMetrics {
	v := control.GatewayMetrics{
		Version: g.opts.Version, Warnings: len(g.allWarnings()), Problems: g.problems(), Pending: g.applied.Pending != nil,
		Config:  control.ConfigMetrics{ID: g.configID(), Loaded: g.metered.loads.latest, LoadedOK: !g.metered.loads.failed},
		FenceUp: g.fenceProblem == "", FenceOwned: g.world.Fence.Owned(), FenceRepairs: g.repairs,
		Store: control.StoreMetrics{Up: g.storeProblem == "" && g.diskProblem == "" && !g.writer.slow,
			Failures: g.writer.metered.failures, Lost: g.writer.metered.lost, Commits: &g.writer.metered.took},
		Events: map[string]map[string]uint64{"": maps.Clone(g.metered.doorEventCounts[""])},
		Turns:  &g.turnTimes, Waits: &g.waitTimes,
	}
	for _, d := range g.doors {
		v.Doors = append(v.Doors, d.readMetrics())
		v.Events[d.name()] = maps.Clone(g.metered.doorEventCounts[d.name()])
	}
	return v
}

// How old a measurement may be: for those who do not look at the sessions, and for those
// who do.
const (
	measureEvery = time.Second
	measureSoon  = 100 * time.Millisecond
)

// measurement is what only the kernel knows. It is read by the caller, outside the loop,
// and once for all who ask at the same time.
type measurement struct {
	mu      sync.Mutex // held while it is read
	latest  reading
	problem string // why packets cannot be read, "" when they can
}

// reading is what was read. It is not changed afterwards.
type reading struct {
	at       time.Time // when the reading began, zero before the first
	doors    []config.Door
	refused  map[string]uint64            // packets, by door
	sessions map[string]int               // how many are in, by door
	live     map[string][]control.Session // who is in, the latest, by door
}

// measure returns refused packets and who is in, by door, no older than age.
func (g *Gateway) measure(doors []config.Door, age time.Duration) reading {
	asked := g.world.Now()
	m := &g.measured
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.latest
	same := len(doors) == len(old.doors) && (len(doors) == 0 || &doors[0] == &old.doors[0])
	if same && !old.at.IsZero() && asked.Sub(old.at) < age {
		return old
	}
	r := reading{at: g.world.Now(), doors: doors, live: make(map[string][]control.Session)}
	sessions, news, err := g.readSessions(doors)
	r.sessions = sessions
	if news.changed {
		g.soon(func(now time.Time) { g.takeNewSessions(now, news) })
	}
	if err == nil || errors.Is(err, presence.ErrFlows) {
		for _, d := range doors {
			r.live[d.Name] = g.sessionTable.live(d.Name)
		}
	}
	if r.refused, err = g.world.Fence.Refused(); err == nil {
		m.problem = ""
	} else if m.problem != err.Error() {
		m.problem = err.Error()
		g.log.Warn("cannot read how many packets were refused", "err", err)
	}
	m.latest = r
	return r
}

// soon runs an event in a turn, and waits for it, unless the gateway ends first.
func (g *Gateway) soon(e event) {
	await(context.Background(), g, func(now time.Time, answer func(struct{}, error)) {
		e(now)
		answer(struct{}{}, nil)
	})
}
