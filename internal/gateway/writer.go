package gateway

import (
	"errors"
	"fmt"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/store"
)

// slowDisk is how long a commit may take before nobody waits for it any more. A card that
// has much to erase first takes a second or two (the SD specification allows cards 250 ms
// a write, and a commit makes several); those who wait are a person at a terminal, or a
// visitor whose host gives a connection up after a few tries.
const slowDisk = 5 * time.Second

// endTime limits how long the daemon's end may wait: less than the 10 s after which
// impatient supervisors kill (docker stop, runit), and far less than systemd's 90 s.
const endTime = 5 * time.Second

// writer commits to the store what the turns gather, one commit at a time and in the
// background. While one is under way, turns go on and gather for the next, so that the
// slower the disk, the more turns share a commit: a flood costs only as many commits as
// the disk can do.
//
// What a commit could not save is kept, and goes with the next change that somebody
// waits for or that comes a second later, or with the next upkeep.
type writer struct {
	commit *delta    // under way, nil for none; its commit alone may read it
	since  time.Time // when that began
	slow   bool      // it has taken so long that nobody waits for it any more
	held   *delta    // what the last commit could not save
	failed time.Time // when that was
	retry  bool      // held is worth another try even without anything new
	waits  []after   // for the commit under way
	later  []after   // for the one after it
	news   bool      // whoever watches is to look again

	metered meteredCommits
}

// after is called when what somebody waited for is on disk, or with the reason why it is
// not.
type after func(now time.Time, err error)

// fullRetry is the pause between commits to a disk that cannot be written, where nobody
// waits for one: each contains everything that was not saved, however little is new.
const fullRetry = time.Second

// write begins a commit of what was gathered, unless one is under way.
func (g *Gateway) write(now time.Time) {
	w := &g.writer
	if w.commit != nil || g.changes.empty() && !w.retry {
		return
	}
	if w.held != nil && !w.retry && len(w.later) == 0 && now.Sub(w.failed) < fullRetry {
		return
	}
	gathered := g.changes.delta
	g.changes.delta = newDelta()
	if w.held != nil {
		w.held.follow(&gathered)
		gathered = *w.held
		g.boundPenalties(&gathered)
	}
	w.commit, w.since, w.held, w.retry = &gathered, now, nil, false
	w.waits, w.later = w.later, nil
	kept := g.store
	g.commits(func() event {
		records, err := kept.Commit(gathered.change())
		if err == nil {
			for _, r := range records {
				g.tellRecord(r) // a log that blocks holds up the disk, not the turns
			}
		}
		return func(now time.Time) { g.written(now, records, err) }
	})
}

// crowded says whether so many records wait for a commit that expiries must wait, too, so
// that no record is lost: the kernel has ended these grants already. They do not wait for
// a slow disk.
func (g *Gateway) crowded() bool {
	return g.writer.commit != nil && !g.writer.slow && len(g.changes.records) >= maxUnsaved/2
}

// tryAgain retries what could not be saved, if there is anything.
func (w *writer) tryAgain() { w.retry = w.held != nil }

// written handles the end of a commit, and reports once when the disk cannot be written
// and when it can again. The doors go on meanwhile, since memory and kernel hold all that
// guards them.
func (g *Gateway) written(now time.Time, records []audit.Record, err error) {
	w := &g.writer
	d, waits, took := w.commit, w.waits, now.Sub(w.since)
	w.commit, w.since, w.waits, w.news = nil, time.Time{}, nil, true
	w.metered.took.Add(took)
	if w.slow {
		w.slow = false
		g.log.Info("the slow write to disk has finished", "after", took.Round(time.Millisecond).String())
	}
	if err != nil {
		if g.diskProblem == "" {
			g.log.Error("cannot save; the doors go on, but a restart would forget the latest changes", "err", err)
		}
		g.diskProblem, w.held, w.failed = err.Error(), d, now
		w.metered.failures++
	} else {
		if g.diskProblem != "" {
			g.log.Info("saving works again")
			g.diskProblem = ""
		}
		if d.lost > 0 {
			w.metered.lost += uint64(d.lost)
			g.record(now, audit.EventError, "", fmt.Sprintf("%d records are missing here: the disk failed for too long", d.lost))
		}
	}
	for _, r := range records {
		g.count(r)
	}
	for _, then := range waits {
		then(now, err)
	}
}

// onDisk calls then once: with nil as soon as everything changed so far is on disk, which
// may be at once, or with an error if it is not: the write failed, or has taken so long
// that nobody waits any more.
func (g *Gateway) onDisk(now time.Time, then after) {
	w := &g.writer
	switch {
	case w.commit == nil && g.changes.empty():
		var err error
		if w.held != nil {
			err = errors.New(g.diskProblem)
		}
		then(now, err)
	case w.slow:
		then(now, g.slowness(now))
	case g.changes.empty():
		w.waits = append(w.waits, then)
	default:
		w.later = append(w.later, then)
	}
}

// slowness returns an error that says that the disk is slow, nil if there is nothing to
// report.
func (g *Gateway) slowness(now time.Time) error {
	if !g.writer.slow {
		return nil
	}
	return fmt.Errorf("the latest changes have not been written to disk for %s", now.Sub(g.writer.since).Round(time.Second))
}

// slowWarning returns slowness as status shows it, "" for nothing.
func (g *Gateway) slowWarning() string {
	if err := g.slowness(g.world.Now()); err != nil {
		return err.Error() + ": a restart would forget them"
	}
	return ""
}

// checkDisk stops everybody's waiting for a slow disk.
func (g *Gateway) checkDisk(now time.Time) {
	w := &g.writer
	if w.commit == nil || w.slow || now.Sub(w.since) < slowDisk {
		return
	}
	w.slow, w.news = true, true
	g.log.Warn("the disk is slow; the doors go on, but a restart would forget what is not on disk yet",
		"for", now.Sub(w.since).Round(time.Second).String())
	waits := append(w.waits, w.later...)
	w.waits, w.later = nil, nil
	err := g.slowness(now)
	for _, then := range waits {
		then(now, err)
	}
}

// slowAt is when checkDisk has something to do.
func (w *writer) slowAt() (time.Time, bool) {
	return w.since.Add(slowDisk), w.commit != nil && !w.slow
}

// first saves marks, and calls then in a turn in which they are on disk. What then
// changes in the fence is changed at the end of the turn. With an error they are not on
// disk, and then must not do what they were needed for. Where nothing is kept, and while
// the disk is slow or cannot be written, it is called at once.
//
// Other events come in between: a door may be gone by then.
func (g *Gateway) first(marks []store.Mark, then after) {
	now := g.world.Now()
	if g.storeProblem != "" {
		then(now, fmt.Errorf("nothing is kept: %s", g.storeProblem))
		return
	}
	if w := &g.writer; w.held != nil && len(w.held.marks)+len(g.changes.marks) >= maxUnsaved {
		then(now, errors.New(g.diskProblem))
		return
	}
	for _, m := range marks {
		if err := g.changes.mark(m); err != nil {
			then(now, err)
			return
		}
	}
	g.onDisk(now, then)
}

// knockFirst hands a right knock to the door when its marks are on disk. A knock whose
// marks cannot be saved is refused: after a restart it could be repeated by whoever saw
// it.
func (d *guarded) knockFirst(k door.Knock, marks []store.Mark, v knock.Verdict) {
	d.gw.first(marks, func(now time.Time, err error) {
		var refused knock.Refusal
		switch {
		case d.ctx.Err() != nil: // the door went meanwhile
			refused = knock.RefusedEnded
		case err != nil:
			refused = knock.RefusedUnsaved
			r := audit.Record{Time: now, Door: d.name(), Event: audit.EventRefused, Source: door.SourceString(k.Source),
				By: k.By, Reason: "a right knock, but what must be remembered of it is not on disk: " + err.Error()}
			d.noteRefusal(r)
			d.metered.refused["unsaved"]++
			d.gw.tell(r, k.By)
		default:
			refused = d.cannot(k, v) // because of what has happened meanwhile
		}
		if refused == "" {
			d.opens(now, k, v)
			d.gw.markAhead(now)
			return
		}
		d.undo(now, k, v, marks)
		d.tellLater(v, k, knock.Outcome{Refused: refused})
	})
}

// undo takes back what a kind has noted of a right knock of which nothing comes. The marks
// that say so follow those that the disk may have, or may still get.
func (d *guarded) undo(now time.Time, k door.Knock, v knock.Verdict, had []store.Mark) {
	if v.Undo == nil {
		return
	}
	back := v.Undo()
	if len(had) == 0 {
		return // there is nothing that they would follow
	}
	marks := d.marks(had[0].Knock, back)
	for _, m := range marks {
		d.gw.marks.keep(m)
	}
	d.gw.remember(marks)
	for _, n := range v.Notes {
		d.gw.tell(audit.Record{Time: now, Door: d.name(), Event: audit.EventKeys, Source: door.SourceString(k.Source), By: k.By,
			Reason: "undone, since nothing came of the knock: " + n.Detail}, k.By)
	}
}

// finish waits for the commit under way and makes the last one, as far as the disk is
// fast enough.
func (g *Gateway) finish() {
	late := time.NewTimer(endTime)
	defer late.Stop()
	for g.writer.commit != nil {
		select {
		case e := <-g.commitEnds:
			now := g.world.Now()
			e(now)
			if !g.changes.empty() {
				g.writer.tryAgain()
			}
			g.write(now)
		case <-late.C:
			g.log.Error("the disk is too slow to wait for: the next start will not know of the latest changes",
				"after", endTime.String())
			return
		}
	}
}
