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
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/sockdiag"
	"github.com/doorward/doorward/internal/store"
)

// World is all that a gateway acts upon and hears of. Linux returns the real
// one; tests bring a small one of their own.
type World struct {
	Fence Fence
	// Open opens what survives a restart. It is called once, when the fence
	// stands. With store.ErrLocked the gateway ends; with any other error it
	// goes on and keeps nothing.
	Open      func() (Store, error)
	Ear       Ear
	Datagrams Datagrams
	// Service returns what runs behind a door that has a service.
	Service func(config.Door) Service
	// Look returns a function that looks for a door's presence, and says what
	// was odd about it, for people. It is not called twice at a time.
	Look func(config.Door) func(context.Context) (door.Seen, []string)
	// Connections counts who has come in by each door's ports and is there still:
	// what Look counts. With an error it is what could be counted all the same. It
	// is called beside the turns, once in a second at most.
	Connections func(ports [][]port.Range) ([]int, error)
	// FlowsVisible says why the kernel's flows cannot be seen, nil if they can.
	FlowsVisible func() error
	// Listening says whether something listens on one of the ports.
	Listening func(port.Range) bool
	// Own says whether an address is this machine's own: with an error it may be. It is
	// called beside the turns.
	Own func(netip.Addr) (bool, error)
	// Config reads and checks the configuration file and returns its text too.
	Config func(path string) (*config.Config, []byte, error)
	// Text reads the configuration file and does not check it.
	Text func(path string) ([]byte, error)
	// Now is the time; time.Now in the real world.
	Now func() time.Time
}

// Fence is the kernel's table; *fence.Fence is one.
type Fence interface {
	Stands() (bool, error)
	Guard(doors []fence.Door) error
	Change(fence.Changes) error
	// Grants lists the kernel's grants at some doors, beside the turns.
	Grants(doors []string) iter.Seq2[fence.Grant, error]
	// Ends returns when the kernel's grants end, zero for those that it does not have.
	// It is called beside the turns, but once at the start.
	Ends(grants []fence.Grant) ([]time.Time, error)
	EndFlows(ends []fence.Grant) error
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

// Ear listens on ports, and holds those that it does not listen on for now; *listen.Ear is one.
type Ear interface {
	Set(ports listen.Ports) error
	Check() (missing []uint16)
	// Behind says whether touches wait that could not be heard since it was last
	// asked. It is called beside the turns.
	Behind() bool
	// Dropped counts the touches that were heard and thrown away since too many waited.
	// It is called beside the turns.
	Dropped() uint64
	Close() error
}

// Datagrams is the ear on UDP ports, and holds those where nothing is to be heard for
// now, which have no opener; *datagrams.Ear is one.
type Datagrams interface {
	Set(ports map[uint16]knock.Opener) error
	// Answer sends a visitor something. It is called beside the turns.
	Answer(path knock.Path, payload []byte) error
	Check() (missing []uint16)
	Behind() bool // as Ear's
	// Counts is called beside the turns.
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
func Linux(table Fence, open func() (Store, error), commands func(config.Door) Service, ear Ear, mail Datagrams, log *slog.Logger) World {
	watcher := presence.NewWatcher()
	counts := func(ports [][]port.Range) ([]int, error) { return connections(watcher, ports) }
	return World{
		Fence:     table,
		Open:      open,
		Ear:       ear,
		Datagrams: mail,
		Service: func(c config.Door) Service {
			if c.Service.Unit != "" {
				return service.NewUnit(c.Service.Unit, log.With("door", c.Name))
			}
			return commands(c)
		},
		Look:         func(c config.Door) func(context.Context) (door.Seen, []string) { return newLook(c, counts) },
		Connections:  counts,
		FlowsVisible: watcher.FlowsVisible,
		Listening:    listening,
		Own:          presence.Own,
		Config:       config.Load,
		Text:         config.Read,
		Now:          time.Now,
	}
}

// newLook returns the look for presence of one door. What cannot be seen is no
// presence: the door rather goes dark than stands open on a guess.
func newLook(c config.Door, counts func([][]port.Range) ([]int, error)) func(context.Context) (door.Seen, []string) {
	logins := newLogins(c.Presence)
	return func(ctx context.Context) (seen door.Seen, odd []string) {
		if logins != nil { // first, since what comes after has no part in their time
			odd = lastLogin(ctx, logins, &seen)
			seen.Unread = seen.NoData != "" || len(odd) > 0
		}
		if c.Presence.Connections {
			found, err := counts([][]port.Range{c.Ports})
			if err != nil {
				odd = append(odd, err.Error())
			}
			seen.Connections = found[0]
		}
		return seen, odd
	}
}

// lastLogin notes the latest login, and returns what was odd, for people.
func lastLogin(ctx context.Context, logins *presence.Log, seen *door.Seen) []string {
	login, ok, err := logins.Last(ctx)
	odd := logins.Warnings()
	switch {
	case errors.Is(err, presence.ErrNoData):
		seen.NoData = err.Error()
	case err != nil:
		odd = append(odd, fmt.Sprintf("logins cannot be read, so they do not count: %v", err))
	case ok:
		seen.Login = login.Time
	}
	return odd
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

// connections counts who has come in by each door's ports, as far as it can be
// seen, with one look at the kernel for all.
func connections(watcher *presence.Watcher, ports [][]port.Range) ([]int, error) {
	in, err := watcher.In(slices.Concat(ports...))
	found := make([]int, len(ports))
	for _, c := range in {
		p := port.Port{Proto: c.Proto, Number: c.Local.Port()}
		for i, of := range ports {
			if port.Within(of, p) {
				found[i]++
			}
		}
	}
	return found, err
}

// listening errs on the side of yes: a service that cannot be seen to listen is
// not waited for.
func listening(r port.Range) bool {
	found, err := sockdiag.Listening([]port.Range{r})
	return err != nil || len(found) > 0
}
