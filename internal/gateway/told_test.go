package gateway

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
)

// Each record is exported once, in the order of the trail, when the disk has it. Status
// warns of trouble with that.
func TestRecordsAreExportedWhenTheyAreOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		r := run(t, m, configPath(t), sshDoor)
		var told []audit.Record
		r.sync(func(time.Time) {
			r.opts.Tell = func(r audit.Record) { told = append(told, r) }
			r.opts.Troubles = func() []string { return []string{"the journal does not answer"} }
		})
		from := len(m.trail)
		m.do(func() { m.full = errors.New("no space left on device") })
		r.touch(visitor, 59001)
		r.order(control.OpenRequest{Door: "ssh", Source: "192.0.2.9", For: "1h"})
		if len(told) > 0 {
			t.Errorf("the disk has nothing, but exported are %v", told)
		}
		m.do(func() { m.full = nil })
		time.Sleep(upkeepInterval)
		r.touch(visitor6, 59001)
		if d := cmp.Diff(m.trail[from:], told); d != "" || len(told) < 3 {
			t.Errorf("%d records are exported (-trail +exported):\n%s", len(told), d)
		}
		if s, _ := r.Status(); !slices.Contains(s.Warnings, "the journal does not answer") {
			t.Errorf("status warns of %q", strings.Join(s.Warnings, "; "))
		}
	})
}
