package gateway

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
)

// A door that is closed again while it closes does not open for those who have asked for
// that meanwhile.
func TestClosingWhileClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		r.touch(visitor, 59000, 59002)
		var got []string
		r.events <- func(now time.Time) { // before the service has ended
			d, by := r.door("ssh"), control.Caller{Name: "operator alice (uid 1000)"}
			for range 2 {
				got = append(got, said(d.shut(now, by), nil))
			}
			d.apply(d.door.Knock(now, door.Knock{Source: door.Source(visitor6), By: "touch", Reason: "right"}))
			got = append(got, said(d.shut(now, by), nil))
		}
		synctest.Wait()
		const closing = "door ssh is closing; existing sessions continue"
		want := []string{"ssh, , closing, changed: " + closing, "ssh, , closing, as before: " + closing, "ssh, , closing, changed: " + closing}
		if d := gocmp.Diff(want, got); d != "" {
			t.Errorf("closed twice, and again after a knock (-want +got):\n%s", d)
		}
	})
}

// Whatever else goes wrong, no answer says that a source is shut out which is let in.
func TestClosingWhatIsCoveredOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), openDoor)
		r.ask(control.OpenRequest{Door: "web", Source: "any", For: "1h"})
		r.ask(control.OpenRequest{Door: "web", Source: "192.0.2.7", For: "1h"})
		m.do(func() { m.full = errors.New("no space left on device") })
		got := said(r.ask(control.CloseRequest{Door: "web", Source: "192.0.2.7"}))
		if want := "failed: 192.0.2.7 can STILL connect to door web: the grant to everybody (operator alice (uid 1000), for another 1h); " +
			"its own grant has ended; it is done, but a restart would forget it: no space left on device (doorward status)"; got != want {
			t.Errorf("\n got %q\nwant %q", got, want)
		}
	})
}
