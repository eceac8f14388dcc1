package gateway

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/store"
)

// However often a visitor opens and closes, by a knock with a name or without, what was
// ordered stays in the trail, others' visits are recorded one by one, the trail can be
// verified, and the sums have all that happened: in metrics, over a restart, and to whoever
// looks for an address.
func TestAVisitorCannotWashTheTrail(t *testing.T) {
	kept, err := store.Open(t.TempDir(), store.AuditLimit{Records: 800}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		c.stop()
		kept := keptOpen{kept}
		begin := func() {
			c.running = restartWith(t, c.m, c.path, func(w *World) {
				c.files.change(w)
				w.Open = func() (Store, error) { return kept, nil }
			})
		}
		begin()
		for n := range 40 {
			c.order(control.OpenRequest{Door: "web", Source: fmt.Sprintf("203.0.113.%d", n+1), For: "1s"})
		}
		const loops = 500
		for n := range loops {
			c.says(visitor, "web open alice")
			c.says(visitor, "web close alice")
			c.touch(netip.AddrFrom4([4]byte{198, 51, 100, byte(n)}), 59000, 59002)
			if n%25 == 0 {
				c.says(neighbour, "web open bob")
			}
			if n == loops/2 {
				c.stop()
				begin()
			}
		}
		c.stop()
		begin()
		all := readAll(t, c.Gateway)
		count := func(is func(r audit.Record) bool) (records int, times uint64) {
			for _, r := range all {
				if is(r) {
					records++
					times += r.Times()
				}
			}
			return records, times
		}
		if n, _ := count(func(r audit.Record) bool { return r.Event == audit.EventGranted && !r.Visit }); n != 40 {
			t.Errorf("%d orders are in the trail, want all 40", n)
		}
		if n, _ := count(func(r audit.Record) bool { return r.Event == audit.EventGranted && r.By == "club bob" && r.Count == 0 }); n != loops/25 {
			t.Errorf("%d of bob's visits are in the trail, want all %d", n, loops/25)
		}
		for by, where := range map[string]string{"club alice": "web", "touch": "ssh"} {
			n, times := count(func(r audit.Record) bool { return r.Event == audit.EventGranted && r.By == by && r.Door == where })
			if n > 210 || times != loops {
				t.Errorf("%s: %d records say that they got %d grants, want at most 210 of %d", by, n, times, loops)
			}
		}
		var w audit.Verifier
		for _, r := range all {
			text, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			w.Add(text)
		}
		if v := w.End(0); !v.Sound || v.Visits == nil {
			t.Errorf("the trail: %+v, want that it is sound", v)
		}
		found, err := c.Log(control.LogQuery{Source: visitor.String(), Events: []string{audit.EventRevoked}, Limit: 1})
		if err != nil || len(found.Records) != 1 || found.Records[0].Count == 0 || found.Records[0].Source != visitor.String() {
			t.Errorf("the latest of %s: %+v, %v; want the sum of what it gave back", visitor, found.Records, err)
		}
	})
}

// keptOpen is a store that outlives the gateways that use it.
type keptOpen struct{ Store }

func (keptOpen) Close() error { return nil }

func readAll(t *testing.T, g *Gateway) []audit.Record {
	t.Helper()
	p, err := g.Log(control.LogQuery{Oldest: true, Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	return p.Records
}

// What a visitor's knock leads to is of their share, whatever record says so; what operators
// order, and what goes wrong by itself, is not.
func TestWhoseARecordIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		c.says(visitor, "web open alice")
		c.order(control.OpenRequest{Door: "web", Source: "203.0.113.9", For: "1s"})
		c.touch(neighbour, 59000, 59002)
		time.Sleep(10 * time.Minute)
		c.says(visitor, "web open alice")
		c.order(control.CloseRequest{Door: "web"})
		got := make(map[string]bool)
		c.m.do(func() {
			for _, r := range c.m.trail {
				got[fmt.Sprint(r.Door, " ", r.Event, " ", r.Source)] = r.Visit
			}
		})
		want(t, "what is a visit", got, map[string]bool{
			" started ": false, " keys ": false,
			"web opened 192.0.2.2": true, "web granted 192.0.2.2": true, "web expired 192.0.2.2": true,
			"web granted 203.0.113.9": false, "web expired 203.0.113.9": false, "web dark ": false,
			"ssh opened 192.0.2.9": true, "ssh granted 192.0.2.9": true, "ssh expired 192.0.2.9": true,
		})
	})
}

// A door that goes dark again, and a service that does not start, are of the share of whoever
// knocked; so are their logins and alarms, which still come before visits.
func TestWhatAVisitorCausesIsSummedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openClub(t, newMachine(), clubDoors)
		c.order(lock("bob"))
		for range 300 {
			c.says(visitor, "web open bob")
			time.Sleep(alarmEvery)
		}
		n := len(c.events(audit.EventAlarm))
		if n > 300*3/4 {
			t.Errorf("%d alarms of one network in five hours, want that most are summed up", n)
		}
	})
}
