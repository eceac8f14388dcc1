package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/service"
	"github.com/doorward/doorward/internal/store"
)

// scene is what one exploration is about: the machine, and how often each kind of
// action may happen on a trip. Kinds that are not named do not happen.
type scene struct {
	name    string
	files   map[string]file // "ssh" is the first one in use
	sources []netip.Addr
	ports   []uint16 // that are touched
	may     map[string]int
	says    []string // what is said at the club, each after who says it
	members []string // whom operators lock out
	lists   []string // what the list of members can become
	prefix  []step   // every trip begins with it
	depth   int
	actions []action
}

// action is something that can happen. Its kind is what a scene allows.
type action struct {
	name, kind string
	can        func(*trip) bool
	do         func(*trip)
}

func lives(t *trip) bool { return t.g != nil }
func dead(t *trip) bool  { return t.g == nil }
func nobody()            {}

// confirmTime is how long an operator has to confirm a configuration.
const confirmTime = 15 * time.Second

// perform performs the action with a name.
func (t *trip) perform(name string) {
	for _, a := range t.scene.actions {
		if a.name == name {
			t.left[a.kind]--
			a.do(t)
			return
		}
	}
	panic("no action " + name)
}

// allActions returns all actions that can happen in a scene.
func (sc *scene) allActions() []action {
	as := []action{
		{"the daemon starts", "start", dead, (*trip).start},
		{"the daemon is killed", "kill", lives, (*trip).killed},
		{"the daemon is stopped", "stop", func(t *trip) bool { return t.g != nil && !t.hangs }, (*trip).stop},
		{"the machine reboots", "reboot", dead, (*trip).reboot},
		{"time passes", "wait", func(*trip) bool { return true }, func(t *trip) { t.wait(0) }},
		{"time passes until just before", "almost", func(*trip) bool { return true }, func(t *trip) { t.wait(-time.Millisecond) }},
		{"time passes until just after", "late", func(*trip) bool { return true }, func(t *trip) { t.wait(time.Millisecond) }},
		{"the next turn is due", "due", lives, func(t *trip) {
			t.now = t.now.Add(t.g.next().Sub(t.clock()))
			t.turn(nil)
		}},
		{"upkeep", "upkeep", lives, (*trip).upkeep},
		{"the clock steps back", "clock", func(*trip) bool { return true }, func(t *trip) { t.step(-time.Hour) }},
		{"the clock steps forward", "clock", func(*trip) bool { return true }, func(t *trip) { t.step(10 * time.Second) }},
		{"the ruleset is flushed", "flush", func(t *trip) bool { return t.table }, func(t *trip) {
			t.table, t.flushed = false, t.g != nil
			clear(t.grants)
		}},
		{"the kernel tells of it", "flush", func(t *trip) bool { return t.flushed }, func(t *trip) {
			t.flushed = false
			t.turn(func(time.Time) { t.g.resync = true })
		}},
		{"the kernel refuses a change", "refuse", lives, func(t *trip) { t.refuses = 1 }},
		{"the kernel refuses two changes", "refuse", lives, func(t *trip) { t.refuses = 2 }},
		{"the disk is full", "disk", func(t *trip) bool { return t.full == nil }, func(t *trip) { t.full = errors.New("no space left on device") }},
		{"the disk has room", "disk", func(t *trip) bool { return t.full != nil }, func(t *trip) { t.full = nil }},
		{"the disk hangs", "hang", func(t *trip) bool { return t.g != nil && !t.hangs }, func(t *trip) { t.hangs = true }},
		{"the disk goes on", "hang", func(t *trip) bool { return t.hangs }, (*trip).goesOn},
		{"the fence is slow", "slow", func(t *trip) bool { return t.g != nil && !t.drags }, func(t *trip) { t.drags = true }},
		{"the service dies", "service", func(t *trip) bool { return t.running["ssh.service"] }, func(t *trip) {
			t.becomes("ssh.service", died9)
		}},
		{"others stop the service", "service", func(t *trip) bool { return t.running["ssh.service"] }, func(t *trip) {
			t.becomes("ssh.service", service.Status{State: service.Stopped})
		}},
		{"others start the service", "service", func(t *trip) bool { return !t.running["ssh.service"] }, func(t *trip) {
			t.becomes("ssh.service", service.Status{State: service.Running})
		}},
		{"news of the service", "news", func(t *trip) bool { return len(t.notices) > 0 }, (*trip).deliver},
		{"keep", "apply", lives, func(t *trip) {
			t.oracle.untold = true
			t.applies(control.ApplyRequest{Action: "keep"}, "", func() { t.oracle.deadline = time.Time{} })
		}},
		{"undo", "apply", lives, (*trip).undo},
	}
	for i := range 3 {
		as = append(as, action{fmt.Sprintf("task %d ends", i), "task",
			func(t *trip) bool { return len(t.tasks) > i }, func(t *trip) { t.complete(i) }})
	}
	for _, a := range sc.sources {
		for _, p := range sc.ports {
			as = append(as, action{fmt.Sprintf("%s touches %d", a, p), "touch", lives, func(t *trip) { t.touch(a, p) }})
		}
		as = append(as, action{fmt.Sprintf("%s connects", a), "connect", func(*trip) bool { return true },
			func(t *trip) { t.connect(a) }})
		as = append(as, action{fmt.Sprintf("%s knocks with a mark", a), "mark", lives, func(t *trip) { t.knockFirst(a) }})
		as = append(as, sc.orders(a.String())...)
	}
	as = append(append(as, sc.orders("any")...), sc.sayings()...)
	for name := range sc.files {
		as = append(as, action{"the file becomes " + name, "file", func(t *trip) bool { return t.file != name },
			func(t *trip) { t.becomesFile(name) }})
		needsForce := func(t *trip) bool {
			return t.g != nil && (!t.oracle.deadline.IsZero() || t.oracle.rejected == name)
		}
		for words, confirm := range map[string]string{"": "", " --confirm 15s": confirmTime.String()} {
			as = append(as,
				action{"apply " + name + words, "apply", lives, func(t *trip) { t.becomesFile(name); t.apply(confirm, false) }},
				action{"apply " + name + words + " --force", "apply", needsForce, func(t *trip) { t.becomesFile(name); t.apply(confirm, true) }})
		}
	}
	return as
}

// orders returns the orders that an operator can give about a source at the first door.
func (sc *scene) orders(source string) []action {
	who, _ := parseSource(source)
	return []action{
		{"open " + source, "open", lives, func(t *trip) {
			d := t.oracle.doors["ssh"]
			d.leaves[who] = append(d.leaves[who], leave{length: 7 * time.Second})
			if !t.order(control.OpenRequest{Door: "ssh", Source: source, For: "7s"}, nobody) {
				d.leaves[who] = d.leaves[who][:len(d.leaves[who])-1]
			}
		}},
		{"close " + source, "close", lives, func(t *trip) {
			if source == "any" {
				if t.order(control.CloseRequest{Door: "ssh"}, nobody) {
					t.oracle.doors["ssh"].closed(t.model)
				}
				return
			}
			if t.order(control.CloseRequest{Door: "ssh", Source: source}, nobody) {
				t.oracle.doors["ssh"].sure = false // a revoked source has not come in
				leaves := t.oracle.doors["ssh"].leaves
				leaves[who] = slices.DeleteFunc(leaves[who], func(l leave) bool { return !l.used || t.g.fenceProblem == "" })
			}
		}},
		{"arm " + source, "arm", lives, func(t *trip) {
			o := control.ArmRequest{Door: "ssh", Source: source}
			if source == "any" {
				o.Source = ""
			}
			t.oracle.doors["ssh"].pardon(who, func(told func()) { t.order(o, told) })
		}},
	}
}

func (t *trip) wait(more time.Duration) {
	if at := t.due().Add(more); at.After(t.now) {
		t.pass(at)
	}
	if t.g != nil && more >= 0 {
		t.turn(nil)
	}
}

// upkeep has the gateway ask whether grants were spent.
func (t *trip) upkeep() { t.turn(t.g.upkeep) }

// step sets the wall clock.
func (t *trip) step(by time.Duration) {
	t.wall += by
	t.oracle.torn = true // a reader of the trail cannot know what its times mean
}

func (t *trip) reboot() {
	t.rebooted, t.table, t.doors = true, false, nil
	clear(t.grants)
	t.running["ssh.service"] = true // enabled
	t.now = t.now.Add(5 * time.Second)
}

// connect uses a grant, and spends it at a door with single_use.
func (t *trip) connect(a netip.Addr) {
	who := netip.PrefixFrom(a, a.BitLen())
	for l, end := range t.grants {
		if l.source == who && t.now.Before(end) {
			t.used[l] = t.now
		}
		if d, _ := t.guards(l.door); l.source == who && d.SingleUse {
			delete(t.grants, l)
			for i := range t.oracle.doors[l.door].leaves[who] {
				e := &t.oracle.doors[l.door].leaves[who][i]
				e.spent = e.used
			}
		}
	}
}

func (t *trip) becomesFile(name string) {
	t.file = name
	if t.g != nil {
		t.g.opts.Path = name
	}
}

func (t *trip) undo() {
	o := t.oracle
	if o.deadline.IsZero() {
		t.order(control.ApplyRequest{Action: "undo"}, nobody)
		return
	}
	rejected, before := o.inForce, o.before
	t.applies(control.ApplyRequest{Action: "undo"}, before, func() {
		o.use(before)
		o.rejected, o.deadline = rejected, time.Time{}
	})
}

// apply gives the order of doorward apply, and of SIGHUP.
func (t *trip) apply(confirm string, force bool) {
	o, file, at, wall := t.oracle, t.file, t.now, t.clock()
	before, may, waits := o.inForce, file, !o.deadline.IsZero()
	if waits {
		before = o.before
	}
	refused := waits && !force || file == o.rejected && confirm == "" && !force
	unchanged := !waits && file == o.inForce
	if refused || unchanged || t.files[file].err != nil {
		may = ""
	}
	t.applies(control.ApplyRequest{Action: "apply", Confirm: confirm, Force: force}, may, func() {
		if refused {
			t.found("P8: a configuration that waits, or was rolled back, is replaced without force")
		}
		if unchanged {
			return
		}
		o.use(file)
		o.rejected, o.deadline = "", time.Time{}
		if confirm != "" {
			o.before, o.deadline, o.wallDeadline = before, at.Add(confirmTime), wall.Add(confirmTime).Round(0)
		}
	})
}

// waiting is an order about configurations that has not been answered yet.
type waiting struct {
	file     string // that may come into use, "" for none
	promised bool   // that it is rolled back unless it is kept
	done     func()
	answered bool
	well     bool
}

// applies gives an order about configurations. If the disk hangs it is answered
// later.
func (t *trip) applies(o control.ApplyRequest, file string, done func()) {
	w := &waiting{file: file, promised: o.Confirm != "", done: done}
	if t.waits == nil {
		t.waits = w
	}
	t.may(w, func() {
		t.turn(func(now time.Time) {
			t.g.order(context.Background(), now, control.Caller{Name: "operator"}, o, func(_ control.Reply, err error) {
				t.point()
				w.answered, w.well = true, !refused(err)
			})
		})
		t.settle("apply")
	})
}

// may does something during which what an order waits for can come into use.
func (t *trip) may(w *waiting, do func()) {
	before, doors := t.oracle.inForce, t.oracle.doors
	if w.file != "" {
		t.oracle.mayUse(w.file)
	}
	t.raised = func() {
		if w.file != "" && w.promised && t.fileOf(t.applied.Pending) != w.file {
			t.found("P8: a configuration comes into use before the disk knows that it is rolled back unless it is kept")
		}
	}
	do()
	t.raised = nil
	if w.file != "" {
		t.oracle.use(before)
		if t.oracle.lapsing {
			t.oracle.doors = doors
		}
	}
	if w.answered && w.well {
		w.done()
	}
	if w.answered && t.waits == w {
		t.waits = nil
	}
}

// refused reports whether an order was not carried out.
func refused(err error) bool {
	return err != nil && !strings.HasPrefix(err.Error(), "it is done") && !strings.HasPrefix(err.Error(), "the kernel does not have it")
}

// goesOn has disk and fence complete what they were asked to do.
func (t *trip) goesOn() {
	t.hangs, t.drags = false, false
	t.mayWait(t.quiet)
}

// mayWait does something during which the configuration that waits, if there is one, can
// come into use.
func (t *trip) mayWait(do func()) {
	if w := t.waits; w != nil && t.raised == nil {
		t.may(w, do)
		return
	}
	do()
}

// killed is kill -9. What was on its way to the disk may have been saved, and what was on
// its way to the kernel may have been done.
func (t *trip) killed() {
	if t.commit != nil && t.choose(2) == 1 {
		t.commit()
	}
	if i := t.fenceTask(); i >= 0 && t.choose(2) == 1 {
		t.tasks[i].run()
	}
	t.dies()
}

// stop ends the daemon in order.
func (t *trip) stop() {
	t.g.commits = func(run func() event) { t.g.commitEnds <- run() }
	t.g.end()
	t.dies()
}

// knockFirst is a right knock whose mark must be on disk first.
func (t *trip) knockFirst(a netip.Addr) {
	d, who, key := t.oracle.doors["ssh"], door.Source(a), strconv.Itoa(t.left["mark"])
	d.leaves[who] = append(d.leaves[who], leave{length: d.conf.OpenFor, lost: true, mark: key})
	t.turn(func(now time.Time) {
		t.g.door("ssh").knockFirst(door.Knock{Source: who, By: "sealed", Reason: "a right knock"},
			[]store.Mark{{Door: "ssh", Knock: "sealed", Key: key, Value: []byte("seen")}}, knock.Verdict{Right: true})
	})
}

// texts parses the configurations of a scene.
func texts(all map[string]string) map[string]file {
	files := map[string]file{}
	for name, text := range all {
		c, err := config.Parse(name, []byte(text))
		files[name] = file{[]byte(text), c, err}
	}
	return files
}

// A door with a service, at which each visitor has a knock of their own.
const exploredDoor = `
[door.ssh]
ports = ["22/tcp"]
open_for = "10s"
always = ["203.0.113.0/24"]
[door.ssh.presence]
idle = "15s"
logins = "journal"
[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59000, 59002]
within = "3s"
penalty = "12s"
[door.ssh.service]
unit = "ssh.service"
`

// A door whose service always runs, with no log to read.
const exploredWeb = `
[door.web]
ports = ["443/tcp"]
open_for = "10s"
[door.web.presence]
idle = "15s"
logins = "off"
[[door.web.knock]]
kind = "touch"
listen = [60000, 60001]
touch = [60000]
within = "3s"
penalty = "12s"
`

// neverDark returns a configuration whose doors do not go dark by themselves.
func neverDark(text string) string { return strings.Replace(text, `idle = "15s"`, `idle = "never"`, 1) }

// oneTouch returns a configuration in which a single touch is the knock, for trips that
// are about what comes after it.
func oneTouch(text string) string {
	return strings.Replace(text, "touch = [59000, 59002]", "touch = [59000]", 1)
}
