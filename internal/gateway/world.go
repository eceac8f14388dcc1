package gateway

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/datagrams"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/listen"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/presence"
	"github.com/doorward/doorward/internal/priority"
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/sockdiag"
	"github.com/doorward/doorward/internal/store"
)

// World is all that a gateway acts upon and learns from. Linux returns the real one;
// tests bring a small one of their own.
type World struct {
	Fence Fence
	// Open opens what survives a restart. It is called once, when the fence stands. After
	// store.ErrLocked the gateway ends; after any other error it goes on and keeps
	// nothing.
	Open      func() (Store, error)
	Touches   Listener
	Datagrams Datagrams
	// Service returns what runs behind a door that has a service.
	Service func(config.Door) Service
	// Look returns a function that checks for a door's presence. It is not called
	// concurrently.
	Look func(config.Door) func(context.Context) Observation
	// Connections lists who has come in through each door's ports and is still there, as
	// Look reports them. With an error that Is presence.ErrFlows the list has only what
	// sockets show, with any other nothing. It is called in the background, one call at a
	// time.
	Connections func(ports [][]port.Range) ([][]presence.Connection, error)
	// Cut ends connections. It is called in the background.
	Cut func([]presence.Connection) error
	// FlowsVisible says why the kernel's flows cannot be seen, nil if they can.
	FlowsVisible func() error
	// Listening says whether something listens on one of the ports.
	Listening func(port.Range) bool
	// Own says whether an address is this machine's own; with an error it may be. It is
	// called in the background.
	Own func(netip.Addr) (bool, error)
	// Config reads and checks the configuration file and returns its text too.
	Config func(path string) (*config.Config, []byte, error)
	// Text reads the configuration file and does not check it.
	Text func(path string) ([]byte, error)
	// KnockFile reads a file that knocks go by. Stamp says what it is, in words that differ
	// when it has changed, and "" if it may change without that. Both are called in the
	// background.
	KnockFile func(knock.File) ([]byte, error)
	Stamp     func(path string) string
	// Now returns the time; time.Now in the real world.
	Now func() time.Time
	// Urgent lets the calling goroutine run before others for as long as it lives; see
	// priority.Raise. nil: it does nothing.
	Urgent func()
}

// Observation is what a check for presence found.
type Observation struct {
	door.Seen
	Odd    []string              // oddities, for people
	Asked  time.Time             // when In was asked for; zero where that is not known
	In     []presence.Connection // who has come in through the door and is still there
	Logins []presence.Login      // logins through the door that were read for the first time
}

// Fence is the kernel's table; *fence.Fence is one.
type Fence interface {
	Stands() (bool, error)
	Guard(doors []fence.Door) error
	Change(fence.Changes) error
	// Grants lists the kernel's grants at some doors, in the background.
	Grants(doors []string) iter.Seq2[fence.Grant, error]
	// Ends returns when the kernel's grants end, zero for those that it does not have. It
	// is called in the background, except once at the start.
	Ends(grants []fence.Grant) ([]time.Time, error)
	EndFlows(ends []fence.Grant) error
	// Cut ends those of some connections that are forwarded. It is called in the background.
	Cut(ends []fence.Ends) error
	// Used says whether, and how long ago, a completed connection last used a
	// source's grant at a door.
	Used(door string, source netip.Addr) (ago time.Duration, ok bool, err error)
	Check() error
	Watch(ctx context.Context) (<-chan struct{}, error)
	Refused() (map[string]uint64, error)
	Owned() bool
}

// Store is what survives a restart; *store.Store is one.
type Store interface {
	Load() (store.State, error)
	Commit(store.Change) ([]audit.Record, error)
	Records(store.Query) (store.Page, error)
	SetAside() string
}

// Listener listens on ports, and holds those that it does not listen on for now;
// *listen.Listener is one.
type Listener interface {
	Set(ports listen.Ports) error
	Check() (missing []uint16)
	// Behind says whether touches wait that could not be heard since it was last asked.
	// It is called in the background.
	Behind() bool
	// Dropped counts the touches that were heard and thrown away since too many waited.
	// It is called in the background.
	Dropped() uint64
	Close() error
}

// Datagrams is the listener on UDP ports and of streams, and holds those UDP ports where
// nothing is to be heard for now, which have no opener; *datagrams.Listener is one.
type Datagrams interface {
	Set(places map[knock.Place]knock.Opener) error
	// Answer sends a visitor something. It is called in the background.
	Answer(path knock.Path, payload []byte) error
	Check() (missing []uint16)
	Behind() bool // as Listener's
	// Counts is called in the background.
	Counts() datagrams.Counts
	Close() error
}

// Service is what runs behind a door; *service.Unit and *launcher.Service are.
// Start and Stop return when it is done, and may be called again when it is
// already.
type Service interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	Status(ctx context.Context) (service.Status, error)
	Watch(ctx context.Context, report func(service.Status)) error
	String() string
}

// Linux returns this machine. open opens the store; commands returns the service
// of a door that has commands.
func Linux(table Fence, open func() (Store, error), commands func(config.Door) Service, touches Listener, datagrams Datagrams, log *slog.Logger) World {
	watcher := presence.NewWatcher()
	lists := func(ports [][]port.Range) ([][]presence.Connection, error) { return connections(watcher, ports) }
	return World{
		Fence:     table,
		Open:      open,
		Touches:   touches,
		Datagrams: datagrams,
		Service: func(c config.Door) Service {
			if c.Service.Unit != "" {
				return service.NewUnit(c.Service.Unit, log.With("door", c.Name))
			}
			return commands(c)
		},
		Look:         func(c config.Door) func(context.Context) Observation { return newLook(c, watcher) },
		Connections:  lists,
		Cut:          func(all []presence.Connection) error { return cut(table, all) },
		FlowsVisible: watcher.FlowsVisible,
		Listening:    listening,
		Own:          presence.Own,
		Config:       config.Load,
		Text:         config.Read,
		KnockFile:    readKnockFile,
		Stamp:        stampOf,
		Now:          time.Now,
		Urgent:       priority.Raise,
	}
}

// newLook returns the check for presence of one door. What cannot be seen does not count
// as presence: the door goes dark rather than stay open on a guess.
func newLook(c config.Door, watcher *presence.Watcher) func(context.Context) Observation {
	logins, first := newLogins(c.Presence), true
	return func(ctx context.Context) (s Observation) {
		if logins != nil { // first, so that the time of what follows is not counted
			s.lastLogin(ctx, logins)
			s.Unread = s.NoData != "" || len(s.Odd) > 0
		}
		asked := time.Now()
		in, err := watcher.In(c.Ports)
		if err == nil || errors.Is(err, presence.ErrFlows) {
			s.Asked, s.In = asked, in
		}
		if c.Presence.Connections {
			s.Connections = len(s.In)
			if err != nil {
				s.Odd = append(s.Odd, err.Error())
			}
		}
		if logins != nil {
			fresh, lost := logins.Fresh()
			if lost > 0 && !first { // before the first check it is only what a log happens to have
				s.Odd = append(s.Odd, fmt.Sprintf("%s: more logins appeared at once than can be read: the audit trail may lack some", logins))
			}
			first = false
			s.Logins = byWayOf(c.Ports, fresh, s.In, watcher)
		}
		return s
	}
}

// lastLogin notes the latest login.
func (s *Observation) lastLogin(ctx context.Context, logins *presence.Log) {
	login, ok, err := logins.Last(ctx)
	s.Odd = logins.Warnings()
	switch {
	case errors.Is(err, presence.ErrNoData):
		s.NoData = err.Error()
	case err != nil:
		s.Odd = append(s.Odd, fmt.Sprintf("logins cannot be read, so they do not count: %v", err))
	case ok:
		s.Login = login.Time
	}
}

// rememberedFor is for how long after its login connection tracking may know of a session
// that was too short to be seen.
const rememberedFor = 10 * time.Minute

// byWayOf returns the logins that came through a door's ports: the kernel has, or had, a
// session with their address and port. Other logins came to another port of sshd's.
func byWayOf(ports []port.Range, logins []presence.Login, in []presence.Connection, watcher *presence.Watcher) []presence.Login {
	came := make(map[netip.AddrPort]bool)
	for _, c := range in {
		came[c.Remote] = true
	}
	var missed []netip.AddrPort
	for _, l := range logins {
		if !came[cameFrom(l)] && time.Since(l.Time) < rememberedFor {
			missed = append(missed, cameFrom(l))
		}
	}
	if len(missed) > 0 {
		found, _ := watcher.Came(ports, missed) // if flows cannot be seen, the check has reported that
		for _, from := range found {
			came[from] = true
		}
	}
	return slices.DeleteFunc(logins, func(l presence.Login) bool { return !came[cameFrom(l)] })
}

// newLogins returns where a door's logins are read, nil where they do not count.
func newLogins(c config.Presence) *presence.Log {
	switch c.Logins {
	case config.LoginsFiles:
		return presence.Files(c.Files, time.Now)
	case config.LoginsJournal:
		return presence.Journal(time.Now)
	case config.LoginsAuto:
		return presence.Auto(time.Now)
	}
	return nil
}

// connections lists who has come in through each door's ports, as far as that can be
// seen, with one query to the kernel for all.
func connections(watcher *presence.Watcher, ports [][]port.Range) ([][]presence.Connection, error) {
	in, err := watcher.In(slices.Concat(ports...))
	found := make([][]presence.Connection, len(ports))
	for _, c := range in {
		p := port.Port{Proto: c.Proto, Number: c.Local.Port()}
		for i, of := range ports {
			if port.Within(of, p) {
				found[i] = append(found[i], c)
			}
		}
	}
	return found, err
}

// listening errs on the side of yes: if it cannot be seen whether a service listens,
// nobody waits for it.
func listening(r port.Range) bool {
	found, err := sockdiag.Listening([]port.Range{r})
	return err != nil || len(found) > 0
}
