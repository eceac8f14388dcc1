package gateway

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
)

// What is kept for metrics alone decides nothing, so that the explorer of states leaves
// out the fields that are called metered.

// metered is the gateway's.
type metered struct {
	doorEventCounts map[string]map[string]uint64 // records of the trail, by door ("" for those of none) and event
	loads           loads
	idKey           []byte // of configID
	idOf            []byte // the text that id is of
	id              string
}

func newMetered() metered {
	m := metered{doorEventCounts: make(map[string]map[string]uint64), idKey: make([]byte, sha256.Size)}
	rand.Read(m.idKey) // never fails
	return m
}

// loads are what came of taking configuration files into use.
type loads struct {
	latest time.Time // when one was last taken into use, zero if that was not since the start
	failed bool      // the latest attempt has
}

// meteredDoor is one door's. Its times are zero while they are not known.
type meteredDoor struct {
	refused                   map[string]uint64 // knocks, by why (control.Refusal)
	knock, grant, login, dark time.Time         // when there was one last
	unread                    bool              // the logs that tell of logins could not be read in full at the last look
}

func newMeteredDoor() meteredDoor { return meteredDoor{refused: make(map[string]uint64)} }

// meteredStarts is a service's.
type meteredStarts struct {
	failed   string // why it is down although it should run, "" when it is not, or may be
	failures uint64 // starts that failed
}

// meteredCommits is the writer's.
type meteredCommits struct {
	took     control.Spans
	failures uint64 // commits that the disk did not take
	lost     uint64 // records that are missing in the trail
}

// meter keeps when what a record tells of last happened.
func (d *guarded) meter(r audit.Record) {
	switch r.Event {
	case audit.EventGranted:
		d.metered.grant = r.Time
	case audit.EventDark, audit.EventFailsafe:
		d.metered.dark = r.Time
	}
}

// metricState is the service's state in metrics.
func (c *controller) metricState() string {
	switch {
	case c.running:
		return control.ServiceRunning
	case c.metered.failed != "":
		return control.ServiceFailed
	case c.known:
		return control.ServiceStopped
	}
	return control.ServiceUnknown
}

// loading has what comes of an attempt noted. One that is in use went well, although
// the disk may not know of it.
func (g *Gateway) loading(done func(control.Reply, error)) func(control.Reply, error) {
	before := g.config
	return func(reply control.Reply, err error) {
		g.metered.loads.failed = err != nil && g.config == before
		if !g.metered.loads.failed {
			g.metered.loads.latest = g.world.Now()
		}
		done(reply, err)
	}
}

// readMetrics is a door in numbers that are kept anyway.
func (d *guarded) readMetrics() control.DoorMetrics {
	v := control.DoorMetrics{
		Name: d.name(), State: d.door.Saved().State.String(), Grants: d.door.Granted(), Penalties: d.door.Penalised(),
		Refusals:  maps.Clone(d.metered.refused),
		LastKnock: d.metered.knock, LastGrant: d.metered.grant, LastLogin: d.metered.login, LastDark: d.metered.dark,
	}
	if d.service != nil {
		v.Service, v.StartFailures = d.service.metricState(), d.service.metered.failures
	}
	if d.conf.Presence.Logins != config.LoginsOff {
		read := d.door.Looked() && !d.metered.unread
		v.Logs = &read
	}
	return v
}

// configID is another one for another configuration in use, and for another run of
// the daemon (control.ConfigVitals).
func (g *Gateway) configID() string {
	text := g.applied.Confirmed
	if g.applied.Pending != nil {
		text = g.applied.Pending
	}
	m := &g.metered
	if m.id == "" || !bytes.Equal(text, m.idOf) {
		mac := hmac.New(sha256.New, m.idKey)
		mac.Write(text)
		m.idOf, m.id = text, hex.EncodeToString(mac.Sum(nil)[:8])
	}
	return m.id
}
