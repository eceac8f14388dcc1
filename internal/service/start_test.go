//go:build linux

package service

import (
	"testing"

	"github.com/godbus/dbus/v5"
)

// A start that systemd refused without trying is distinguished from one that failed.
func TestRefused(t *testing.T) {
	unit := func(result string, left uint64) member {
		return member{name: "ssh.service",
			unit: properties{"InactiveExitTimestampMonotonic": dbus.MakeVariant(left)},
			own:  properties{"Result": dbus.MakeVariant(result)}}
	}
	for _, tt := range []struct {
		name, job     string
		before, after member
		want          bool
	}{
		{"too many starts that went well", "failed", unit("success", 7), unit("start-limit-hit", 7), true},
		{"too many starts, the last failed", "failed", unit("exit-code", 7), unit("exit-code", 7), true},
		{"and again", "failed", unit("start-limit-hit", 7), unit("start-limit-hit", 7), true},
		{"a first failure", "failed", unit("success", 0), unit("exit-code", 7), false},
		{"the same failure again", "failed", unit("exit-code", 7), unit("exit-code", 8), false},
		{"no memory for a process", "failed", unit("success", 7), unit("resources", 7), false},
		{"a unit that it requires failed", "dependency", unit("exit-code", 7), unit("exit-code", 7), false},
		{"it runs", "done", unit("success", 7), unit("success", 8), false},
	} {
		if got := refused(tt.job, tt.before, tt.after); got != tt.want {
			t.Errorf("%s: refused is %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A unit that is down while systemd has a job for it is about to be started.
func TestRestartIsNoStop(t *testing.T) {
	job := func(id uint32) dbus.Variant { return dbus.MakeVariant([]any{id, dbus.ObjectPath("/job")}) }
	for _, tt := range []struct {
		active string
		job    dbus.Variant
		want   State
	}{
		{"inactive", job(7), Starting},
		{"failed", job(7), Starting},
		{"inactive", job(0), Stopped},
		{"failed", job(0), Failed},
		{"active", job(7), Running}, // systemd has not carried out the order yet
		{"deactivating", job(7), Stopping},
		{"inactive", dbus.Variant{}, Stopped},
	} {
		m := member{name: "ssh.service", unit: properties{"ActiveState": dbus.MakeVariant(tt.active), "Job": tt.job}}
		if got := m.state(); got != tt.want {
			t.Errorf("%s with the job %v: %v, want %v", tt.active, tt.job.Value(), got, tt.want)
		}
	}
}
