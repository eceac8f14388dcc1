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

// What is kept for metrics alone decides nothing, so the explorer of states leaves out
// the fields named metered.

// metered is what the gateway keeps for metrics.
type metered struct {
	doorEventCounts map[string]map[string]uint64 // records of the trail, by door ("" for none) and event
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

// loads are the results of putting configuration files into use.
type loads struct {
	latest time.Time // when one was last put into use, zero if not since the start
	failed bool      // the latest attempt failed
}

// meteredDoor is what is kept about one door. Its times are zero while they are not
// known.
type meteredDoor struct {
	refused                   map[string]uint64 // knocks, by why (control.Refusal)
	knock, grant, login, dark time.Time         // when there was one last
	unread                    bool              // the logs that tell of logins could not be read in full at the last look
}

func newMeteredDoor() meteredDoor { return meteredDoor{refused: make(map[string]uint64)} }

// meteredStarts is what is kept about a service.
type meteredStarts struct {
	failed   string // why it is down although it should run, "" when it is not, or may be
	failures uint64 // starts that failed
}

// meteredCommits is what is kept about the writer.
type meteredCommits struct {
	took     control.Spans
	failures uint64 // commits that failed
	lost     uint64 // records that are missing from the trail
}

// meter notes when the event of a record last happened.
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

// loading notes the result of an attempt. A configuration that is in use counts as a
// success, even if it is not on disk.
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

// readMetrics returns a door's numbers, which are kept anyway.
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

// configID is different for each configuration in use, and for each run of the daemon.
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
