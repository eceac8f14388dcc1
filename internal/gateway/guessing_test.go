package gateway

import (
	"container/heap"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/door"
	"github.com/doorward/doorward/internal/race"
	"github.com/doorward/doorward/internal/touch"
)

// attack is somebody who knows the listening ports and tries one knock after the other
// from all their addresses, from each as soon as it is heard again.
type attack struct {
	sources []netip.Addr
	// rest is after how many tries in a row a source waits until it is forgotten, 0 for
	// never. Nine are the most in little more than a week, with penalties of 5 minutes to
	// 21 hours; that gains three in a hundred.
	rest int
}

// outcome is what an attack achieves.
type outcome struct {
	day  int           // tries that were heard in the first day
	half time.Duration // until half of all possibilities have been tried, so that the odds are even
}

// guesser is a real door with its recogniser, and a clock of its own.
type guesser struct {
	*guarded
	start time.Time
	until map[netip.Prefix]time.Time // ends of penalties, as the attacker can work them out
}

func newGuesser(k touch.Rule) *guesser {
	start := time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)
	g := &Gateway{changes: newChanges(), sums: audit.NewSums(), world: World{Now: func() time.Time { return start }}}
	conf := config.Door{Name: "ssh", OpenFor: 30 * time.Second, Knocks: []config.Knock{{Name: "touch", Kind: "touch", Rule: k}},
		Presence: config.Presence{Idle: time.Hour, Logins: config.LoginsOff}}
	return &guesser{guarded: g.newGuarded(conf, door.Saved{}, start), start: start, until: map[netip.Prefix]time.Time{}}
}

// try has a source knock wrong, and reports whether that was heard.
func (g *guesser) try(now time.Time, source netip.Addr) (heard bool) {
	g.judge(now)
	g.tick(now)
	g.gw.changes = newChanges()
	wrong := g.conf.Knocks[0].Hears()[0].Port // to be left alone
	g.hear(&g.knocks[0], touchOf(source, wrong, now))
	if due, underway := g.knocks[0].rec.Next(); underway { // it is judged when that is due
		g.judge(due)
	}
	for k, p := range g.gw.changes.penalties {
		if p != nil {
			g.until[k.Source], heard = p.Until, true
		}
	}
	return heard
}

// free returns when a source is heard again.
func (g *guesser) free(source netip.Addr) time.Time {
	free := g.start
	for _, bits := range []int{32, 48, 56, 64} {
		p := netip.PrefixFrom(source, bits).Masked()
		if g.conf.Knocks[0].ForAll() {
			p = door.Any
		}
		if end := g.until[p]; end.After(free) {
			free = end
		}
	}
	return free
}

// run carries the attack out until half of all possibilities have been tried, or for at
// most some time.
func (a attack) run(k touch.Rule, possibilities int, most time.Duration) (o outcome) {
	g := newGuesser(k)
	var turns turnHeap
	for _, s := range a.sources {
		turns = append(turns, turn{g.start, s, 0})
	}
	for tries := 0; tries < (possibilities+1)/2; {
		t := &turns[0]
		if t.at.Sub(g.start) > most {
			o.half = most
			return o
		}
		if g.try(t.at, t.source) {
			tries++
			t.tries++
			if t.at.Sub(g.start) <= 24*time.Hour {
				o.day++
			}
			o.half = t.at.Sub(g.start)
			if k.Judge > 0 {
				o.half += k.Judge // when the door opens
			}
		}
		t.at = g.free(t.source)
		if a.rest > 0 && t.tries == a.rest {
			t.at, t.tries = t.at.Add(door.Remembered), 0
		}
		heap.Fix(&turns, 0)
	}
	return o
}

// turn is when a source tries next.
type turn struct {
	at     time.Time
	source netip.Addr
	tries  int // in a row
}

type turnHeap []turn

func (h turnHeap) Len() int           { return len(h) }
func (h turnHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h turnHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *turnHeap) Push(any)          {}
func (h *turnHeap) Pop() any          { return nil }

// possibilities returns how many knocks there are with a rule's listening ports.
func possibilities(k touch.Rule) int {
	n := 1
	for i := range k.Touch {
		n *= len(k.Listen) - i
	}
	if !k.Given {
		for i := range k.Touch {
			n /= i + 1
		}
	}
	return n
}

// addresses returns n IPv4 addresses.
func addresses(n int) (all []netip.Addr) {
	a := netip.MustParseAddr("198.18.0.0")
	for range n {
		all = append(all, a)
		a = a.Next()
	}
	return all
}

// site returns n addresses of one IPv6 /48, each in a /56 of its own.
func site(n int) (all []netip.Addr) {
	for i := range n {
		b := netip.MustParseAddr("2001:db8:1::1").As16()
		b[6] = byte(i)
		all = append(all, netip.AddrFrom16(b))
	}
	return all
}

// guessedFor is how long an attack is followed.
const guessedFor = 100 * 365 * 24 * time.Hour

// best returns the outcome of the best of some attacks.
func best(k touch.Rule, ways ...attack) outcome {
	best := outcome{half: guessedFor}
	for _, a := range ways {
		o := a.run(k, possibilities(k), guessedFor)
		best.day = max(best.day, o.day)
		best.half = min(best.half, o.half)
	}
	return best
}

// TestGuessing computes what guessing costs with the real door and recogniser, and
// compares it with what is promised and with the table in docs/THREATS.md.
func TestGuessing(t *testing.T) {
	race.Skip(t)
	if os.Getenv("DOORWARD_MUTANT") != "" {
		t.Skip("mutants are hunted by quicker tests")
	}
	proposed := touch.Proposed()
	for i := range proposed.Listen {
		proposed.Listen[i] = uint16(20000 + i)
	}
	copy(proposed.Touch, proposed.Listen[1:])
	parsed, err := config.Parse("article.toml", []byte(config.LikeTheArticle()))
	if err != nil {
		t.Fatal(err)
	}
	article := parsed.Doors[0].Knocks[0].Rule.(touch.Rule)
	article.Listen[0], article.Listen[1] = article.Listen[1], article.Listen[0] // the first is the wrong one
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	var rows []string
	for _, tt := range []struct {
		who   string
		ways  []attack
		half  time.Duration // at least
		inDay float64       // odds of being in within a day, at most
	}{
		{"one address, or one IPv6 /64", []attack{{addresses(1), 0}, {addresses(1), 9}}, 100 * year, 0.0001},
		// 15 networks do not penalise their /48, 16 do.
		{"one IPv6 /48", []attack{{site(15), 9}, {site(16), 0}}, 50 * year, 0.001},
		{"100 addresses", []attack{{addresses(100), 9}}, 5 * year, 0.01},
		{"10,000 addresses", []attack{{addresses(10000), 0}}, 14 * day, 0.15},
	} {
		o, n := best(proposed, tt.ways...), possibilities(proposed)
		odds := float64(o.day) / float64(n)
		if o.half < tt.half || odds > tt.inDay {
			t.Errorf("%s: even odds after %s, want at least %s; odds within a day %.3f, want at most %.3f",
				tt.who, o.half, tt.half, odds, tt.inDay)
		}
		a := best(article, tt.ways[0])
		rows = append(rows, fmt.Sprintf("| %s | %s | %.2g%% | %s | %s |", tt.who, thousands(o.day), 100*odds, span(o.half), span(a.half)))
	}
	page, err := os.ReadFile("../../docs/THREATS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if !strings.Contains(string(page), row+"\n") {
			t.Errorf("docs/THREATS.md does not say what guessing costs; it is to have the rows\n%s", strings.Join(rows, "\n"))
			break
		}
	}
}

// More networks of a /48 than go unnoticed are slower than those: the whole /48 is
// penalised, and each time for longer.
func TestGuessingFromAWholeNetworkIsNoFaster(t *testing.T) {
	k := touch.Proposed()
	for i := range k.Listen {
		k.Listen[i] = uint16(20000 + i)
	}
	copy(k.Touch, k.Listen[1:])
	const month = 30 * 24 * time.Hour
	tries := func(n int) int {
		g, heard := newGuesser(k), 0
		for now := g.start; now.Sub(g.start) < month; {
			next := now.Add(month)
			for _, source := range site(n) {
				if free := g.free(source); !free.After(now) && g.try(now, source) {
					heard++
				}
				if free := g.free(source); free.Before(next) {
					next = free
				}
			}
			now = next
		}
		return heard
	}
	few := tries(15)
	for _, n := range []int{16, 64, 256} {
		if many := tries(n); many >= few {
			t.Errorf("from %d networks of a /48 %d tries are heard within a month, from 15 %d", n, many, few)
		}
	}
}

// thousands returns a number with commas.
func thousands(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// span returns in words how long something takes, roughly.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= guessedFor:
		return "more than 100 years"
	case d >= 2*365*day:
		return fmt.Sprintf("%d years", d/(365*day))
	case d >= 2*day:
		return fmt.Sprintf("%d days", d/day)
	}
	return fmt.Sprintf("%d minutes", d/time.Minute)
}
