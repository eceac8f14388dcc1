package gateway

import (
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/race"
)

var (
	alice = netip.MustParseAddr("192.0.2.2")
	bob   = netip.MustParseAddr("2001:db8::7")
)

// scenes returns what is explored. Their depth is in steps after the prefix.
func scenes() []*scene {
	ssh := oneTouch(exploredDoor)
	bare := strings.NewReplacer("[door.ssh.service]", "", `unit = "ssh.service"`, "", "journal", "off").Replace(ssh)
	article := strings.Replace(exploredDoor, "penalty", "scope = \"door\"\njudge = \"every 5s\"\npenalty", 1)
	all := []*scene{
		{name: "knocks", files: only(exploredDoor), sources: []netip.Addr{alice, bob}, ports: []uint16{59000, 59001, 59002},
			may: may("start 2 kill 1 crash 1 wait 4 almost 1 late 1 touch 4 task 9 news 9"), prefix: started, depth: 6},
		{name: "boot", files: only(ssh), sources: []netip.Addr{alice}, ports: []uint16{59000, 59001},
			may: may("start 3 crash 2 wait 3 touch 2 task 9 news 9 service 1 reboot 1 due 3"), depth: 7},
		{name: "days", files: only(ssh), sources: []netip.Addr{alice}, ports: []uint16{59000, 59001},
			may:    may("start 2 kill 1 stop 1 reboot 1 crash 1 wait 3 touch 2 task 9 news 9 clock 1 flush 2 disk 2 upkeep 1 refuse 1"),
			prefix: started, depth: 6},
		{name: "service", files: only(ssh), sources: []netip.Addr{alice, bob}, ports: []uint16{59000},
			may: may("start 1 kill 1 crash 1 wait 2 due 4 touch 2 task 9 news 9 service 2 close 1"), prefix: opened, depth: 7},
		{name: "orders", files: only(ssh), sources: []netip.Addr{alice, bob}, ports: []uint16{59000, 59001},
			may: may("start 1 crash 1 wait 2 touch 2 task 9 news 9 open 2 close 2 arm 2 disk 1 refuse 1"), prefix: opened, depth: 6},
		{name: "neighbours", files: only(ssh), sources: []netip.Addr{alice, bob}, ports: []uint16{59000, 59001},
			may: may("start 1 kill 1 wait 3 touch 4 connect 2 task 9 news 9 open 1 arm 1"), prefix: opened, depth: 7},
		{name: "bare", files: only(bare), sources: []netip.Addr{alice, bob}, ports: []uint16{59000, 59001},
			may:    may("start 2 kill 1 crash 1 wait 3 almost 1 touch 3 task 9 open 1 close 1 arm 1 clock 1 flush 2"),
			prefix: []step{{do: "the daemon starts"}}, depth: 6},
		{name: "single use", files: only("[door.ssh]\nsingle_use = true\n" + strings.Replace(ssh, "[door.ssh]\n", "", 1)),
			sources: []netip.Addr{alice}, ports: []uint16{59000},
			may:    may("start 2 kill 1 crash 1 wait 2 touch 2 task 9 news 9 connect 2 upkeep 2 flush 2 open 1 refuse 1"),
			prefix: opened, depth: 7},
		{name: "apply", files: texts(map[string]string{"ssh": ssh, "both": ssh + exploredWeb, "web": neverDark(exploredWeb), "bad": "rubbish"}),
			sources: []netip.Addr{alice}, ports: []uint16{59000, 60000},
			may:    may("start 2 kill 1 reboot 1 crash 1 wait 3 touch 1 task 9 news 9 apply 3 file 1 clock 1 disk 2 refuse 1"),
			prefix: started, depth: 5},
		{name: "slow disk", files: only(ssh), sources: []netip.Addr{alice}, ports: []uint16{59000, 59001},
			may: may("start 1 kill 1 crash 1 wait 2 due 1 hang 2 touch 2 task 9 news 9 close 1 arm 1 disk 1"), prefix: started, depth: 6},
		{name: "slow apply", files: texts(map[string]string{"ssh": ssh, "web": neverDark(exploredWeb)}),
			sources: []netip.Addr{alice}, ports: []uint16{59000},
			may:    may("start 1 kill 1 crash 1 wait 2 due 1 hang 2 apply 2 task 9 news 9 disk 1 refuse 1"),
			prefix: started, depth: 6},
		// Changes of the fence end at any time.
		{name: "slow fence", files: texts(map[string]string{"ssh": bare, "both": bare + exploredWeb, "web": neverDark(exploredWeb)}),
			sources: []netip.Addr{alice}, ports: []uint16{59000, 60000},
			may:    may("start 1 kill 1 crash 1 wait 1 apply 2 touch 1 task 9 flush 2 refuse 1"),
			prefix: []step{{do: "the daemon starts"}, {do: "task 0 ends"}, {do: "the fence is slow"}}, depth: 7},
		{name: "marks", files: only(ssh), sources: []netip.Addr{alice, bob}, ports: []uint16{59001},
			may: may("start 1 kill 1 crash 1 wait 2 due 1 hang 2 mark 3 touch 1 task 9 news 9 disk 1"), prefix: started, depth: 6},
		{name: "the article", files: only(article), sources: []netip.Addr{alice, bob}, ports: []uint16{59000, 59001, 59002},
			may: may("start 1 kill 1 crash 1 wait 4 touch 3 task 9 news 9 due 3 arm 1"), prefix: started, depth: 6},
	}
	all = append(all, clubScenes()...)
	for _, sc := range all {
		sc.actions = sc.allActions()
	}
	return all
}

// clubScenes are about who knocks, and may not any more.
func clubScenes() []*scene {
	bare := strings.NewReplacer("[door.ssh.service]", "", `unit = "ssh.service"`, "", "journal", "off").Replace(oneTouch(exploredDoor))
	both := clubDoor(bare, "ssh") + clubDoor(exploredWeb, "web")
	return []*scene{
		{name: "members", files: only(both), sources: []netip.Addr{alice},
			says: []string{"192.0.2.2 ssh open ann", "192.0.2.2 web open briefly ann", "192.0.2.9 ssh only ann", "192.0.2.2 ssh close ann",
				"192.0.2.2 ssh open bea"},
			members: []string{"ann"}, lists: []string{"bea", "ann bea"},
			may:    may("start 1 kill 1 crash 1 wait 2 say 8 again 1 lock 1 members 1 upkeep 1 task 9 refuse 1"),
			prefix: entered("192.0.2.2 ssh open ann", "192.0.2.2 ssh open bea", "time passes until just after", "192.0.2.2 web open briefly ann"), depth: 6},
		{name: "codes", files: only(both), sources: []netip.Addr{alice},
			says:    []string{"192.0.2.2 ssh code cod", "192.0.2.9 web code cod", "192.0.2.2 ssh open bea", "192.0.2.2 ssh close cod"},
			members: []string{"cod"}, lists: []string{"bea"},
			may:    may("start 1 kill 1 crash 1 wait 1 due 1 hang 2 say 4 again 2 lock 1 members 1 task 9 disk 2"),
			prefix: entered(), depth: 6},
		{name: "members of before", files: only(both), sources: []netip.Addr{alice},
			says:    []string{"192.0.2.2 ssh code cod", "192.0.2.2 web open ann", "192.0.2.2 web open bea", "192.0.2.9 ssh code cod"},
			members: []string{"ann"}, lists: []string{"bea"},
			may: may("start 3 kill 2 crash 1 wait 1 clock 1 upkeep 1 say 6 again 1 lock 1 members 1 task 9 disk 1 refuse 1"),
			prefix: append(entered("192.0.2.2 ssh code cod", "192.0.2.2 web open ann", "192.0.2.2 web open bea"),
				step{do: "the daemon is killed"}), depth: 6},
	}
}

func only(text string) map[string]file { return texts(map[string]string{"ssh": text}) }

// may parses how often each kind of action may happen.
func may(text string) map[string]int {
	may := map[string]int{}
	words := strings.Fields(text)
	for i := 0; i < len(words); i += 2 {
		may[words[i]], _ = strconv.Atoi(words[i+1])
	}
	return may
}

// started has a gateway run, with the results of its first tasks.
var started = []step{{do: "the daemon starts"}, {do: "task 0 ends"}, {do: "news of the service"}, {do: "task 0 ends"}}

// opened is started, after which alice is let in.
var opened = append(slices.Clip(started), step{do: "192.0.2.2 touches 59000"}, step{do: "task 0 ends"})

// found is a state, or a broken promise, and the steps that lead to it.
type found struct {
	steps   []step
	problem string
}

// explorer goes through the states of a scene breadth-first.
type explorer struct {
	scene *scene
	most  int          // states to visit
	known sync.Map     // digests of states
	found atomic.Int64 // states
	trips atomic.Int64 // taken
}

// explore visits all states of a scene down to its depth, or as many as x.most says. It
// returns the depth of which it has visited all states, and the first broken promise with
// the shortest way to it.
func (x *explorer) explore() (depth int, broken *found) {
	frontier := []found{{steps: x.scene.prefix}}
	for depth = 0; depth < x.scene.depth && len(frontier) > 0; depth++ {
		next := x.level(frontier)
		for _, f := range next {
			if f.problem != "" {
				return depth, &f
			}
		}
		if x.enough() {
			return depth, nil
		}
		frontier = next
	}
	return depth, nil
}

func (x *explorer) enough() bool { return int(x.found.Load()) >= x.most }

// level returns the states that are one step beyond a frontier, using all processors.
func (x *explorer) level(frontier []found) []found {
	results := make([][]found, len(frontier))
	var at atomic.Int64
	var workers sync.WaitGroup
	var broken atomic.Bool
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := at.Add(1) - 1; int(i) < len(frontier) && !broken.Load() && !x.enough(); i = at.Add(1) - 1 {
				results[i] = x.expand(frontier[i].steps)
				if slices.ContainsFunc(results[i], func(f found) bool { return f.problem != "" }) {
					broken.Store(true)
				}
			}
		})
	}
	workers.Wait()
	return slices.Concat(results...)
}

// expand takes every step that is possible after steps, with every answer of
// the world, and with a crash before each of its effects.
func (x *explorer) expand(steps []step) []found {
	var all []found
	t := travel(x.scene, steps)
	var todo []step
	for _, a := range x.scene.actions {
		if t.left[a.kind] > 0 && a.can(t) {
			todo = append(todo, step{do: a.name})
		}
	}
	crashes := t.left["crash"] > 0
	t.dies()
	for len(todo) > 0 {
		s := todo[0]
		todo = todo[1:]
		way := append(slices.Clone(steps), s)
		t := travel(x.scene, way)
		x.trips.Add(1)
		if s.crash == 0 {
			todo = append(todo, t.variants(s, crashes)...)
		}
		if _, known := x.known.LoadOrStore(t.digest(), true); !known || t.problem != "" {
			if t.problem == "" {
				t.rest()
				if t.problem != "" {
					t.problem = "once everything has come to rest: " + t.problem
				}
			}
			all = append(all, found{way, t.problem})
			x.found.Add(1)
		}
		t.dies()
		if t.problem != "" {
			return all
		}
	}
	return all
}

// variants are the other ways in which the step just taken can go.
func (t *trip) variants(s step, crashes bool) []step {
	var all []step
	for i := len(s.choices); i < len(t.ways); i++ {
		for c := 1; c < t.ways[i]; c++ {
			choices := make([]int, i+1)
			copy(choices, s.choices)
			choices[i] = c
			all = append(all, step{do: s.do, choices: choices})
		}
	}
	for k := 1; crashes && k <= t.points; k++ {
		all = append(all, step{s.do, s.choices, k})
	}
	return all
}

func TestExplore(t *testing.T) {
	race.Skip(t) // the explorer's gateways have no goroutines that share anything
	t.Cleanup(withClub())
	for _, sc := range scenes() {
		t.Run(sc.name, func(t *testing.T) {
			begun := time.Now()
			x := &explorer{scene: sc, most: atMost()}
			depth, broken := x.explore()
			t.Logf("visited %d states by %d trips, all of those %d steps after the first %d, in %v",
				x.found.Load(), x.trips.Load(), depth, len(sc.prefix), time.Since(begun).Round(time.Millisecond))
			if broken != nil {
				again := travel(sc, broken.steps)
				again.dies()
				t.Errorf("%s\n\t%s", broken.problem, strings.Join(again.tale, "\n\t"))
			}
		})
	}
}

// exploredStates is how many states of each scene are visited, unless
// DOORWARD_EXPLORE says otherwise.
const exploredStates = 1150

// atMost returns how many states of a scene are visited.
func atMost() int {
	if n, err := strconv.Atoi(os.Getenv("DOORWARD_EXPLORE")); err == nil {
		return n
	}
	return exploredStates
}

// When the wall clock steps the monotonic clock goes on, as on a real machine.
func TestTheModelsClock(t *testing.T) {
	m := newModel(nil)
	before := m.clock()
	if !before.Equal(m.now) || !before.Round(0).Equal(m.now.Round(0)) {
		t.Errorf("without a step the clock is at %v, want %v", before, m.now)
	}
	m.now = m.now.Add(time.Second)
	m.wall = -time.Hour
	after := m.clock()
	if mono, wall := after.Sub(before), after.Round(0).Sub(before.Round(0)); mono != time.Second || wall != time.Second-time.Hour {
		t.Errorf("the monotonic clock went by %v and the wall clock by %v", mono, wall)
	}
	if later := after.Add(time.Minute); later.Sub(before) != 61*time.Second {
		t.Errorf("added a minute, and the monotonic clock went by %v", later.Sub(before))
	}
}
