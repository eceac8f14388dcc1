package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/store"
)

// Records that concern a source are found, in whatever form they have it. Those of a door
// that is gone are found, too; a door that never existed is an error.
func TestLogFinds(t *testing.T) {
	kept := store.InMemory()
	at := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	if _, err := kept.Commit(store.Change{Records: []audit.Record{
		{Time: at, Door: "gone", Event: audit.EventGranted, Source: "192.0.2.7"},
		{Time: at, Door: "ssh", Event: audit.EventGranted, Source: "any"},
		{Time: at, Door: "ssh", Event: audit.EventRefused, Source: "192.0.2.0/24", Count: 5},
		{Time: at, Door: "ssh", Event: audit.EventRefused, Source: "2001:db8::/64"},
		{Time: at, Door: "ssh", Event: audit.EventRefused, Count: 9},
	}}); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := runWith(t, newMachine(), configPath(t), sshDoor, func(w *World) { w.Open = func() (Store, error) { return kept, nil } })
		for _, tt := range []struct {
			q    control.LogQuery
			want string
		}{
			{control.LogQuery{Source: "192.0.2.7"}, "[1 2 3 5]"}, {control.LogQuery{Source: "192.0.2.8"}, "[2 3 5]"}, {control.LogQuery{Source: "192.0.2.0/28"}, "[1 2 3 5]"},
			{control.LogQuery{Source: "2001:db8::7"}, "[2 4 5]"}, {control.LogQuery{Source: "any"}, "[2]"}, {control.LogQuery{Door: "gone"}, "[1]"},
			{control.LogQuery{Door: "gone", Source: "198.51.100.1"}, "[]"}, {control.LogQuery{Door: "ssh", Since: at.Add(time.Second)}, "[]"},
			{control.LogQuery{Events: []string{audit.EventRefused}}, "[3 4 5]"}, {control.LogQuery{After: 3, Oldest: true, Limit: 1}, "[4]"},
			{control.LogQuery{Door: "ssh", Until: at}, "[]"}, {control.LogQuery{Door: "ssh", Until: at.Add(1), Limit: 2}, "[4 5]"},
		} {
			p, err := r.Log(tt.q)
			ids := []uint64{}
			for _, found := range p.Records {
				ids = append(ids, found.ID)
			}
			if got := fmt.Sprint(ids); err != nil || got != tt.want {
				t.Errorf("%+v: got %s, %v, want %s", tt.q, got, err, tt.want)
			}
		}
		made := r.statusCache.made
		for range 3 {
			if _, err := r.Log(control.LogQuery{Door: "ssh", After: 100}); err != nil {
				t.Error(err)
			}
		}
		if made != r.statusCache.made {
			t.Error("the loop is asked about a door that has records")
		}
		_, err := r.Log(control.LogQuery{Door: "nosuch"})
		told, ok := err.(*control.Error)
		want := `there is no door "nosuch", nor has the audit trail a record of one: the doors are ssh`
		if !ok || told.Code != control.CodeNoDoor || told.Message != want || told.Hint != "doorward status" {
			t.Errorf("a door that never existed: %+v, want %s", err, want)
		}
	})
}

// A client that asks for the trail while the daemon starts, such as a follower that has
// waited for it, is answered when the store is open, or when it is certain that it will
// not be.
func TestLogWaitsForTheStore(t *testing.T) {
	for _, locked := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			path, let := configPath(t), make(chan struct{})
			write(t, path, sshDoor)
			g := New(Options{Path: path, Version: "v1", Log: slog.New(slog.DiscardHandler)})
			w := newMachine().world()
			w.Open = func() (Store, error) {
				<-let
				if locked {
					return nil, store.ErrLocked
				}
				return store.InMemory(), nil
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended, answered := make(chan error, 1), make(chan error, 1)
			go func() { ended <- g.Run(ctx, w, func() {}) }()
			go func() {
				_, err := g.Log(control.LogQuery{Limit: 1})
				answered <- err
			}()
			synctest.Wait()
			close(let)
			err := <-answered
			if got := fmt.Sprint(err); locked != (got == "the daemon is shutting down") || !locked && err != nil {
				t.Errorf("a store that is locked: %v: got %v", locked, err)
			}
			cancel()
			if err := <-ended; errors.Is(err, store.ErrLocked) != locked {
				t.Errorf("the gateway ends with %v", err)
			}
		})
	}
}
