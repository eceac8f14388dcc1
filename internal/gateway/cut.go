package gateway

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/presence"
	"github.com/doorward/doorward/internal/sockdiag"
)

// cutSessions ends the connections of those who came in by grants that some have had, and
// nobody else with them, in the background. Their grants have ended, so that no new ones
// come in meanwhile.
func (g *Gateway) cutSessions(whose func(party string) bool) {
	doors := g.config.Doors
	g.beside(func() {
		_, news, err := g.readSessions(doors)
		g.post(func(now time.Time) {
			if err != nil { // of presence.ErrFlows, what sockets show is there all the same
				g.cutFailed(now, err)
			}
			g.takeNewSessions(now, news)
			g.cutAttributed(doors, whose)
		})
	})
}

// cutAttributed ends them when it is known what has let the newcomers in.
func (g *Gateway) cutAttributed(doors []config.Door, whose func(party string) bool) {
	g.beside(func() {
		var all []presence.Connection
		for _, d := range doors {
			all = append(all, g.sessionTable.admittedBy(d, whose)...)
		}
		if len(all) == 0 {
			return
		}
		err := g.world.Cut(all)
		g.post(func(now time.Time) {
			if err != nil {
				g.cutFailed(now, err)
			}
		})
	})
}

func (g *Gateway) cutFailed(now time.Time, err error) {
	g.log.Error("connections of somebody who may not knock any more may go on", "err", err)
	g.record(now, audit.EventError, "", fmt.Sprintf("connections of somebody who may not knock any more may go on: %v", err))
}

// cut ends TCP connections: their sockets, where the machine itself has these, and what is
// tracked of those that it forwards. Flows over UDP end with their grants.
func cut(table Fence, all []presence.Connection) error {
	var here []sockdiag.Ends
	var forwarded []fence.Ends
	for _, c := range all {
		if c.Proto == port.TCP {
			here = append(here, sockdiag.Ends{Local: c.Local, Remote: c.Remote})
			forwarded = append(forwarded, fence.Ends{Visitor: c.Remote, Host: c.Local})
		}
	}
	return errors.Join(sockdiag.Destroy(here), table.Cut(forwarded))
}

// admittedBy lists the connections through a door that only some's grants have let in.
func (t *sessionTable) admittedBy(d config.Door, whose func(party string) bool) (all []presence.Connection) {
	t.lists.Lock()
	defer t.lists.Unlock()
	of := t.of(d.Name)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range of.in {
		if s.grant != nil && len(s.grant.Whose) > 0 && !slices.ContainsFunc(s.grant.Whose, func(by string) bool { return !whose(partyOf(d, by)) }) {
			all = append(all, s.Connection)
		}
	}
	return all
}

// partyOf returns the party that a grant is told to be of: where a door has several knocks
// of a kind, that says which of them it was.
func partyOf(d config.Door, whose string) string {
	for _, k := range d.Knocks {
		if by, ours := whoOf(k.Name, whose); ours {
			return party(k.Kind, by)
		}
	}
	return whose
}
