//go:build linux

package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// limitRetry is how often a start that systemd refuses because there were too many is
	// retried. That does not count as another start, systemd's src/basic/ratelimit.c.
	limitRetry = time.Second
	// jobsEvery is how often systemd is asked whether somebody else's jobs for a unit are
	// done.
	jobsEvery = 50 * time.Millisecond
)

// ErrOvertaken is wrapped by the error of a Start that ended because somebody
// else had the unit stopped meanwhile.
var ErrOvertaken = errors.New("cancelled by another order for it")

// Start starts the unit and returns when systemd calls it active, at once when it is
// already. When ctx ends first the start goes on in systemd; Stop ends it. A unit of
// Type=simple counts as active when its process was made: if it fails right after that,
// Watch reports it.
//
// systemd refuses to start a unit that was started often in a short time
// (StartLimitIntervalSec= in systemd.unit(5)), which happens if somebody opens and closes
// the door again and again. Start resets the counter, if it may, or else waits as long as
// ctx allows.
func (u *Unit) Start(ctx context.Context) error {
	begun := time.Now()
	b, err := u.dial(ctx, u.address)
	if err != nil {
		return fmt.Errorf("start unit %q: %w", u.name, err)
	}
	defer b.close()
	v, err := u.look(ctx, b)
	if err != nil {
		return u.fail(ctx, "start", begun, view{}, err)
	}
	u = u.byItsOwnName()
	if v.status().State == Running {
		return nil
	}
	if err := u.loadable(v); err != nil {
		return err
	}
	if err := u.forgive(ctx, b, v); err != nil {
		return u.fail(ctx, "start", begun, v, err)
	}
	for limited := 0; ; limited++ {
		result, err := b.job(ctx, "StartUnit", u.name)
		if err != nil {
			return u.fail(ctx, "start", begun, v, err)
		}
		after, err := u.look(ctx, b)
		if err != nil {
			return u.fail(ctx, "start", begun, v, err)
		}
		switch {
		case result == "canceled":
			return u.overtaken(ctx, b, begun)
		case !refused(result, v.members[0], after.members[0]):
			return u.startResult(result, after.members[0])
		}
		if err := u.wait(ctx, b, after.members[0], limited); err != nil {
			return err
		}
		v = after
	}
}

// refused says whether systemd did not even try to start a unit, because it was started
// too often: then the unit has not left its state, and keeps the result of an earlier
// failure if there was one (service_enter_dead in systemd's src/core/service.c).
func refused(result string, before, m member) bool {
	const left = "InactiveExitTimestampMonotonic"
	now, was := m.own.str("Result"), before.own.str("Result")
	return result == "failed" && m.unit.count(left) == before.unit.count(left) &&
		(now == "start-limit-hit" || now == was && was != "success")
}

// wait waits after a start was refused; tries is how often it was refused before. The
// first time it makes systemd forget the starts so far.
func (u *Unit) wait(ctx context.Context, b *bus, m member, tries int) error {
	interval := time.Duration(m.unit.count("StartLimitIntervalUSec")) * time.Microsecond
	if tries == 0 {
		if u.reset(ctx, b, m) {
			u.log.Info("the unit had reached its start limit; that is reset, and it is started again",
				"starts", m.unit.pid("StartLimitBurst"), "within", interval)
			return nil
		}
		u.log.Info("the unit has reached its start limit, and may not be reset; its start waits for that to be over",
			"starts", m.unit.pid("StartLimitBurst"), "within", interval)
	}
	select {
	case <-time.After(limitRetry):
		return nil
	case <-ctx.Done():
	}
	return fmt.Errorf("unit %q was not started again, because it was started %d times within %v already (its StartLimitBurst), "+
		"the last time with the result %q, and that time was not over soon enough: %w; \"systemctl reset-failed %s\" forgets that, "+
		"and \"doorward polkit --install\" lets the daemon do it",
		u.name, m.unit.pid("StartLimitBurst"), interval, m.own.str("Result"), ctx.Err(), u.name)
}

// reset makes systemd forget how often a unit was started and that it failed,
// ResetFailedUnit in org.freedesktop.systemd1(5), and says whether it did.
func (u *Unit) reset(ctx context.Context, b *bus, m member) bool {
	return b.manager.CallWithContext(ctx, managerIface+".ResetFailedUnit", 0, m.name).Err == nil
}

// forgive makes systemd forget starts before one too many does harm: of a unit whose
// StartLimitAction= takes the machine down, and of a socket's service. That is stopped
// each time that the door goes dark, and started by the first visitor's connection after
// that: one start too many would end the socket under a visitor. Without permission for
// this, a socket that has ended in this way waits until it cannot happen again.
func (u *Unit) forgive(ctx context.Context, b *bus, v view) error {
	if action := v.members[0].unit.str("StartLimitAction"); action != "" && action != "none" {
		u.reset(ctx, b, v.members[0])
	}
	for _, m := range v.members[1:] {
		if u.reset(ctx, b, m) {
			continue // as long as it may, there is nothing to report
		}
		ended := v.members[0].own.str("Result")
		if !slices.Contains([]string{"service-start-limit-hit", "trigger-limit-hit"}, ended) {
			continue
		}
		interval := time.Duration(m.unit.count("StartLimitIntervalUSec")) * time.Microsecond
		if end, ok := ctx.Deadline(); ok && time.Until(end) < 2*interval {
			interval = time.Until(end) / 2
		}
		u.log.Info("the socket ended because its service was started too often, which may not be reset; its start waits for that to be over",
			"result", ended, "service", m.name, "wait", interval)
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// overtaken returns the result of a start that another job has cancelled: the result of
// that job. A restart starts the unit, too.
func (u *Unit) overtaken(ctx context.Context, b *bus, begun time.Time) error {
	for {
		v, err := u.look(ctx, b)
		if err != nil {
			return u.fail(ctx, "start", begun, v, err)
		}
		switch v.status().State {
		case Running:
			return nil
		case Stopped, Failed:
			return fmt.Errorf("the start of unit %q was %w", u.name, ErrOvertaken)
		}
		select {
		case <-time.After(jobsEvery):
		case <-ctx.Done():
			return u.fail(ctx, "start", begun, v, ctx.Err())
		}
	}
}

// startResult turns a finished start job into an error, or nil when the unit
// runs.
func (u *Unit) startResult(result string, m member) error {
	switch {
	case m.state() == Running && result == "done":
		return nil
	case result == "failed", result == "done" && m.failure() != "":
		return fmt.Errorf("unit %q failed to start: %s; see %s", u.name, m.failure(), journal(u.name))
	case result == "done", result == "skipped":
		return fmt.Errorf("unit %q does not run after its start: it ended at once without an error, or one of its conditions is not met; see %s",
			u.name, journal(u.name))
	case result == "timeout":
		return fmt.Errorf("unit %q did not start within the time that its own JobTimeoutSec allows; see %s", u.name, journal(u.name))
	case result == "dependency":
		return fmt.Errorf("unit %q was not started: a unit that it requires failed; see \"systemctl list-dependencies %s\" and %s",
			u.name, u.name, journal(u.name))
	}
	return fmt.Errorf("start of unit %q ended as %q; see %s", u.name, result, journal(u.name))
}
