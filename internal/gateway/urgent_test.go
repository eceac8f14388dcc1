package gateway

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
)

// The loop runs before others, but not before the process is confined, and what that
// starts does not inherit it; and whoever makes the fence guard other doors does.
func TestWhatIsUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		var did []string
		note := func(what string) { m.do(func() { did = append(did, what) }) }
		m.confine = func(*config.Config) error { note("confined"); return nil }
		m.raises = func(error) { did = append(did, "guarded") }
		r := runWith(t, m, configPath(t), sshDoor, func(w *World) { w.Urgent = func() { note("urgent") } })
		expect := func(when string, want ...string) {
			t.Helper()
			synctest.Wait()
			m.do(func() {
				if diff := cmp.Diff(want, did); diff != "" {
					t.Errorf("%s (-want +got):\n%s", when, diff)
				}
				did = nil
			})
		}
		expect("at the start", "guarded", "guarded", "confined", "urgent")
		r.touch(visitor, 59000, 59002)
		expect("after a knock")
		write(t, r.path, sshDoor+webDoor)
		r.order(control.ApplyRequest{Action: "apply"})
		expect("with other doors", "confined", "urgent", "guarded")
		m.do(func() { m.table = false })
		m.changed <- struct{}{}
		expect("after somebody has removed the fence", "urgent", "guarded")
	})
}
