package door

import (
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A grant lasts for as long as the longest of its claims.
func TestSourcesAndTheirEnds(t *testing.T) {
	s := opened(t, ssh)
	s.door.Knock(s.now, Knock{Source: visitor, By: "touch"})
	if _, err := s.door.Open(s.now, visitor, time.Hour, "operator"); err != nil {
		t.Fatal(err)
	}
	want := []Grant{{visitor, s.now.Add(time.Hour)}}
	if got, next := s.door.Grants(s.now, 0, 10); next != 0 || !slices.Equal(got, want) {
		t.Errorf("grants are %v, and there are more from %d on, want %v", got, next, want)
	}
	if got := s.door.GrantEnd(s.now, visitor); !got.Equal(want[0].Until) {
		t.Errorf("the grant ends at %s, want %s", got, want[0].Until)
	}
	if got := s.door.GrantEnd(s.now, Any); !got.IsZero() {
		t.Errorf("everybody has no grant, but it ends at %s", got)
	}
}

// plain is what a grantTable has, kept without regard to cost: the ends of claims, by
// source and by whom.
type plain map[netip.Prefix]map[string]time.Time

func (p plain) end(source netip.Prefix) time.Time {
	return slices.MaxFunc(slices.Collect(maps.Values(p[source])), time.Time.Compare)
}

// The table agrees with maps, whatever is given, renewed, taken back, ended and
// cleared; its numbers are used again, and nothing is left in it at the end.
func TestTheGrantTableAgreesWithMaps(t *testing.T) {
	sources := []netip.Prefix{Any, visitor, other, netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/64"),
		netip.MustParsePrefix("192.0.2.0/32"), netip.MustParsePrefix("::/8")}
	rapid.Check(t, func(t *rapid.T) {
		b, want, now := newGrantTable(start, nil), plain{}, start
		t.Repeat(map[string]func(*rapid.T){
			"claims of many": func(t *rapid.T) {
				for i := range rapid.IntRange(0, 40).Draw(t, "how many") {
					until := now.Add(time.Duration(1+i%7) * time.Second)
					b.claim(b.open(nth(i), now, until), claimant{by: "a"}, until)
					if want[nth(i)] == nil {
						want[nth(i)] = make(map[string]time.Time)
					}
					want[nth(i)]["a"] = until
				}
			},
			"claim": func(t *rapid.T) {
				source, by := rapid.SampledFrom(sources).Draw(t, "source"), rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "by")
				until := now.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "for")) * time.Second)
				b.claim(b.open(source, now, until), claimant{by, rapid.SampledFrom([]string{"", "x"}).Draw(t, "knock")}, until)
				if want[source] == nil {
					want[source] = make(map[string]time.Time)
				}
				want[source][by] = until
			},
			"take back": func(t *rapid.T) {
				source := rapid.SampledFrom(sources).Draw(t, "source")
				if len(want[source]) < 2 {
					t.Skip("it has not several claims")
				}
				by := rapid.SampledFrom(slices.Sorted(maps.Keys(want[source]))).Draw(t, "by")
				n, _ := b.find(source)
				b.unclaim(n, b.claimOf(b.claims(n), by))
				delete(want[source], by)
			},
			"drop": func(t *rapid.T) {
				source := rapid.SampledFrom(sources).Draw(t, "source")
				n, has := b.find(source)
				if !has {
					t.Skip("it has no grant")
				}
				if got := b.drop(n); !slices.Equal(got, slices.Sorted(maps.Keys(want[source]))) {
					t.Fatalf("dropped are the claims of %q, want %v", got, want[source])
				}
				delete(want, source)
			},
			"end": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "wait")) * time.Second)
				for n, due := b.ends.due(now); due; n, due = b.ends.due(now) {
					source := b.grants.at(n).source.source()
					if now.Before(want.end(source)) {
						t.Fatalf("%v ends %s too early", source, want.end(source).Sub(now))
					}
					b.drop(n)
					delete(want, source)
				}
			},
			"clear": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "seldom") == 0 {
					b.clear()
					clear(want)
				}
			},
			"": func(t *rapid.T) { agree(t, &b, now, want) },
		})
		for _, n := range slices.Collect(b.ends.latest()) {
			b.drop(n)
		}
		if len(b.parties.number)+len(b.more)+len(b.ends.heap)+len(b.grants.parts) > 0 {
			t.Fatalf("all have gone, but left behind is %+v", b)
		}
	})
}

func agree(t *rapid.T, b *grantTable, now time.Time, want plain) {
	got := plain{}
	for n := range b.ends.latest() {
		source := b.grants.at(n).source.source()
		got[source] = make(map[string]time.Time)
		for _, c := range b.claims(n) {
			got[source][b.parties.at(c.by).by] = b.ends.time(now, c.until)
		}
		if end := b.until(now, n); !end.Equal(want.end(source)) {
			t.Fatalf("the grant of %v ends at %s, want %s", source, end, want.end(source))
		}
	}
	for source := range want {
		if n, has := b.find(source); !has || b.grants.at(n).source.source() != source {
			t.Fatalf("the grant of %v is not found", source)
		}
	}
	if n, has := b.find(netip.MustParsePrefix("203.0.113.9/32")); has {
		t.Fatalf("a source without a grant is found at %d", n)
	}
	if !maps.EqualFunc(got, want, maps.Equal[map[string]time.Time, map[string]time.Time]) || b.of.used != len(want) {
		t.Fatalf("the table has %v, want %v", got, want)
	}
	if _, at, ok := b.ends.next(); ok {
		for source := range want {
			if want.end(source).Before(at) {
				t.Fatalf("%v ends at %s, and the next end is said to be at %s", source, want.end(source), at)
			}
		}
	}
}

// nth returns one of many sources.
func nth(n int) netip.Prefix {
	return Source(netip.AddrFrom4([4]byte{198, 18 + byte(n>>16), byte(n >> 8), byte(n)}))
}

// crowded returns a scene in which n sources have been let in for 30 s.
func crowded(t *testing.T, n int) *scene {
	t.Helper()
	s := newScene(t, Rules{Name: "ssh", OpenFor: 30 * time.Second, Idle: time.Hour})
	for i := range n {
		s.door.Knock(s.now, Knock{Name: "touch", Source: nth(i), By: "touch"})
	}
	if s.door.Granted() != n {
		t.Fatalf("%d of %d are let in", s.door.Granted(), n)
	}
	return s
}

// Ending one grant, or all of them, has no more effects if there are many; and of many
// that end at once each tick ends a part.
func TestGrantsCostTheSameHoweverMany(t *testing.T) {
	for _, n := range []int{1, 1000, 20_000} {
		s := crowded(t, n)
		s.want(s.door.Knock(s.now, Knock{Name: "touch", Source: nth(0), By: "touch", Reason: "right"}),
			"give 198.18.0.0 30s", "keep 198.18.0.0 by touch", "record granted | 198.18.0.0 | touch | right")
		s.want(s.door.Close(s.now, "operator"), "clear", "end flows of any", "record dark | operator | by operator")
		if v := s.door.View(s.now); v.Granted+len(v.Grants) > 0 || s.door.grants.grants.parts != nil {
			t.Errorf("the door is dark, but %d sources have a grant", v.Granted)
		}
	}
	const n = 3*endedPerTick + 1
	s := crowded(t, n)
	s.at(30 * time.Second)
	if effects := s.door.Tick(s.now); len(effects) > 2*endedPerTick+1 {
		t.Errorf("if %d grants end at once, a tick has %d effects", n, len(effects))
	}
	left, _ := s.door.Grants(s.now, 0, n)
	late := left[0].Source
	who := SourceString(late)
	s.want(s.door.Knock(s.now, Knock{Name: "touch", Source: late, By: "touch", Reason: "right"}),
		"drop "+who+" by touch", "record expired | "+who+" | it expired",
		"give "+who+" 30s", "keep "+who+" by touch", "record granted | "+who+" | touch | right")
	if since, _ := s.door.GrantedSince(late, "touch"); !since.Equal(s.now) {
		t.Errorf("what was given after the end of another is granted since %s", since)
	}
	if ticks := s.calm(); ticks != 2 || s.door.Granted() != 1 {
		t.Errorf("it takes %d further ticks until %d grants are left, want 2 and one", ticks, s.door.Granted())
	}
}

// Every grant is in a page, even if others come and go between two pages.
func TestGrantsByThePage(t *testing.T) {
	const n = 1000
	s := crowded(t, n)
	seen := make(map[netip.Prefix]int)
	from, page := 0, []Grant(nil)
	for i := range 4 * n {
		if page, from = s.door.Grants(s.now, from, 7); len(page) > 7 {
			t.Fatalf("a page of %d", len(page))
		}
		for _, g := range page {
			seen[g.Source]++
			if want := s.door.GrantEnd(s.now, g.Source); !g.Until.Equal(want) {
				t.Fatalf("%s ends at %s, want %s", g.Source, g.Until, want)
			}
		}
		if from == 0 {
			break
		}
		s.door.Revoke(s.now, nth(2*i), "operator")
		s.door.Knock(s.now, Knock{Name: "touch", Source: nth(n + i), By: "touch"})
	}
	for i := range n {
		if at := seen[nth(i)]; at > 1 || at == 0 && s.door.GrantEnd(s.now, nth(i)) != (time.Time{}) {
			t.Errorf("%s stands all the time, and is in %d pages", nth(i), at)
		}
	}
}

// If there are very many grants and penalties, status lists the latest and counts all.
func TestStatusListsTheLatest(t *testing.T) {
	const n = 2*Listed + 5
	s := crowded(t, n)
	s.door.Knock(s.now, Knock{Name: "touch", Source: nth(3), By: "touch"}) // is the latest again
	for i := range n {
		s.wrong(nth(n + i))
	}
	v := s.door.View(s.now)
	if len(v.Grants) != Listed || v.Granted != n || len(v.Penalties) != Listed || v.Penalised != n {
		t.Fatalf("listed are %d of %d grants, %d of %d penalties", len(v.Grants), v.Granted, len(v.Penalties), v.Penalised)
	}
	if first, second := v.Grants[0].Source, v.Grants[1].Source; first != nth(3) || second != nth(n-Listed+1) {
		t.Errorf("listed are grants of %s, %s, ..., want those that were given last", first, second)
	}
	if first := v.Penalties[0].Source; first != nth(2*n-Listed) {
		t.Errorf("listed are penalties of %s, ..., want those that were given last", first)
	}
}

// The kernel knows better when a grant ends.
func TestAGrantEndsWithTheKernels(t *testing.T) {
	s := opened(t, ssh)
	if _, err := s.door.Open(s.now, visitor, 5*time.Second, "operator"); err != nil {
		t.Fatal(err)
	}
	s.door.EndsAt(s.now, other, s.now)
	for _, tt := range []struct {
		after time.Duration
		want  []string
	}{
		{40 * time.Second, []string{"operator 5s", "touch 40s"}},
		{10 * time.Second, []string{"operator 5s", "touch 10s"}},
		{4 * time.Second, []string{"operator 4s", "touch 4s"}},
	} {
		s.door.EndsAt(s.now, visitor, s.now.Add(tt.after))
		var got []string
		for _, c := range s.door.View(s.now).Grants {
			got = append(got, c.By+" "+c.Until.Sub(s.now).String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("the kernel's grant ends after %s, claims %q, want %q", tt.after, got, tt.want)
		}
	}
}

// BenchmarkGrants gives many grants and reports what each takes.
func BenchmarkGrants(b *testing.B) {
	for _, n := range []int{1000, 100_000, 1_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for b.Loop() {
				before := live()
				d := New(Rules{Name: "ssh", OpenFor: time.Hour}, Saved{}, start)
				for i := range n {
					d.Knock(start, Knock{Name: "touch", Source: lan(i>>16, i&0xffff), By: "touch"})
				}
				b.ReportMetric(float64(live()-before)/float64(n), "B/grant")
				runtime.KeepAlive(d)
			}
		})
	}
}

// live returns how much memory is in use.
func live() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
