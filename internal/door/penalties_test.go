package door

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// lan returns an address in the n-th /64 of 2001:db8:site::/48.
func lan(site, n int) netip.Prefix {
	b := netip.MustParseAddr("2001:db8::1").As16()
	binary.BigEndian.PutUint16(b[4:], uint16(site))
	binary.BigEndian.PutUint16(b[6:], uint16(n))
	return Source(netip.AddrFrom16(b))
}

// wrong has a source knock wrong; its first penalty is five minutes.
func (s *scene) wrong(source netip.Prefix) []Effect {
	return s.door.Wrong(s.now, Wrong{Name: "touch", Proven: true, Source: source, By: "touch", Reason: "touched another", Penalty: 5 * time.Minute})
}

// stand returns the penalties that are in force, as status has them.
func (s *scene) stand() []string {
	var all []string
	for _, p := range s.door.View(s.now).Penalties {
		all = append(all, SourceString(p.Source)+" "+p.Until.Sub(s.now).String())
	}
	return all
}

func (s *scene) wantStand(want ...string) {
	s.t.Helper()
	if d := cmp.Diff(want, s.stand(), cmpopts.EquateEmpty()); d != "" {
		s.t.Errorf("after %s, penalties (-want +got):\n%s", s.now.Sub(start), d)
	}
}

func TestPenaltiesGrow(t *testing.T) {
	s := newScene(t, Rules{Name: "ssh", Idle: time.Hour})
	s.want(s.wrong(visitor), "punish 192.0.2.2 5m0s", "record refused | 192.0.2.2 | touch | touched another")
	want := 5 * time.Minute
	for times := 2; times < 14; times++ {
		s.now = s.now.Add(want) // when the last is over
		s.want(s.door.Tick(s.now), "over 192.0.2.2")
		want = min(2*want, 24*time.Hour)
		s.wrong(visitor)
		s.wantStand("192.0.2.2 " + want.String())
	}
	// The last is forgotten a week after its end.
	s.now = s.now.Add(24*time.Hour + Remembered - 1)
	s.want(s.door.Tick(s.now), "over 192.0.2.2")
	if got := s.door.remembers(); len(got) != 1 {
		t.Errorf("before the week is over, %v are remembered", got)
	}
	s.now = s.now.Add(1)
	if at, ok := s.door.Next(); !ok || !at.Equal(s.now) {
		t.Errorf("the next turn is at %s, want when the penalty is forgotten, %s", at, s.now)
	}
	s.want(s.door.Tick(s.now), "pardon 192.0.2.2")
	s.wrong(visitor)
	s.wantStand("192.0.2.2 5m0s")
}

// A penalty that is longer than a day from the beginning does not change.
func TestALongPenaltyStaysAsLong(t *testing.T) {
	s := newScene(t, Rules{Name: "ssh", Idle: time.Hour})
	for range 3 {
		s.door.Wrong(s.now, Wrong{Proven: true, Source: visitor, By: "touch", Penalty: 720 * time.Hour})
		s.wantStand("192.0.2.2 720h0m0s")
		s.now = s.now.Add(720 * time.Hour)
		s.door.Tick(s.now)
	}
}

// Everybody's penalty is always the same length, as in the article.
func TestEverybodysPenaltyDoesNotGrow(t *testing.T) {
	s := newScene(t, Rules{Name: "ssh", Idle: time.Hour})
	for range 5 {
		s.want(s.wrong(Any), "punish any 5m0s", "record refused | any | touch | touched another")
		s.now = s.now.Add(5 * time.Minute)
		s.want(s.door.Tick(s.now), "pardon any", "record armed | the penalty has ended")
	}
}

// A penalised source is ignored, and so a knock that it had begun before is not another
// wrong one.
func TestWhatWasNotHeardIsNotWrong(t *testing.T) {
	s := newScene(t, Rules{Name: "ssh", Idle: time.Hour})
	s.wrong(visitor)
	s.at(time.Minute)
	s.want(s.wrong(visitor))
	s.wantStand("192.0.2.2 4m0s")
}

// A penalty is for one knock, everybody's too, unless the rules say that it is for the
// whole door. One without a knock, as in earlier versions, counts for each.
func TestPenaltiesAreAKnocksOwn(t *testing.T) {
	for _, shared := range []bool{false, true} {
		for _, source := range []netip.Prefix{visitor, other, Any} {
			s := newScene(t, Rules{Name: "ssh", OpenFor: time.Minute, Idle: time.Hour, Shared: shared})
			s.door.Knock(s.now, Knock{Name: "sealed", Source: source, By: "touch"})
			s.wrong(source)
			if source != Any && (!s.door.Deaf("touch", source) || s.door.Deaf("sealed", source) != shared) {
				t.Errorf("shared: %v; after a wrong touch of %s, touch ignores it: %v, sealed: %v", shared, SourceString(source),
					s.door.Deaf("touch", source), s.door.Deaf("sealed", source))
			}
			if s.door.Mute("touch") != (source == Any) || s.door.Mute("sealed") != (source == Any && shared) {
				t.Errorf("shared: %v; after a wrong touch of %s, touch ignores everybody: %v, sealed: %v", shared, SourceString(source),
					s.door.Mute("touch"), s.door.Mute("sealed"))
			}
			if s.door.Granted() != 1 {
				t.Error("a wrong touch takes back what another knock had earned")
			}
			if n := len(s.door.View(s.now).Penalties); n != 1 {
				t.Errorf("%d penalties stand", n)
			}
		}
	}
	s := newScene(t, Rules{Name: "ssh", Idle: time.Hour})
	s.door.RestorePenalty(s.now, Penalty{Source: visitor, Until: s.now.Add(time.Minute), For: time.Minute, Times: 3})
	if !s.door.Deaf("touch", visitor) || !s.door.Deaf("sealed", visitor) {
		t.Error("a penalty without a knock does not count for each")
	}
	s.at(time.Minute)
	s.door.Tick(s.now)
	s.wrong(visitor)
	s.wantStand("192.0.2.2 40m0s")
	if s.door.Deaf("sealed", visitor) {
		t.Error("the next penalty is not for its knock alone")
	}
	for n := range 3 {
		s.wrong(lan(1, n))
		s.door.Wrong(s.now, Wrong{Name: "sealed", Proven: true, Source: lan(1, 3+n), By: "sealed", Penalty: time.Minute})
	}
	if s.door.Deaf("touch", lan(1, 9)) || s.door.Deaf("sealed", lan(1, 9)) {
		t.Error("three networks at each of two knocks have all of a /56 ignored")
	}
}

func TestWhoMayBeForgedIsNotPenalised(t *testing.T) {
	s := newScene(t, Rules{Name: "ssh", Idle: time.Hour})
	s.want(s.door.Wrong(s.now, Wrong{Source: visitor, By: "touch", Reason: "touched another", Penalty: time.Minute}),
		"record refused | 192.0.2.2 | touch | touched another")
	s.wantStand()
}

func TestAnIPv6NetworkIsPenalisedAsOneSource(t *testing.T) {
	s := newScene(t, Rules{Name: "ssh", Idle: time.Hour})
	s.want(s.wrong(other), "punish 2001:db8::/64 5m0s",
		"record refused | 2001:db8::2 | touch | touched another; its /64 is penalised")
	if neighbour := Source(netip.MustParseAddr("2001:db8::ffff:2")); !s.door.Deaf("touch", neighbour) {
		t.Error("another address of the same /64 is heard")
	}
	if s.door.Deaf("touch", lan(0, 1)) {
		t.Error("the neighbouring /64 is not heard")
	}
}

// Four penalised networks of a /56, or sixteen anywhere in a /48, have all of it
// penalised; and it is one source for as long as that is remembered.
func TestPenaltiesWiden(t *testing.T) {
	s := newScene(t, Rules{Name: "ssh", Idle: time.Hour})
	for n := range 3 {
		s.wrong(lan(1, n))
	}
	if s.door.Deaf("touch", lan(1, 3)) {
		t.Error("three networks of a /56 have all of it ignored")
	}
	s.want(s.wrong(lan(1, 3)), "punish 2001:db8:1:3::/64 5m0s",
		"record refused | 2001:db8:1:3::1 | touch | touched another; its /64 is penalised",
		"punish 2001:db8:1::/56 5m0s",
		"record refused | 2001:db8:1::/56 | touch | 4 of its networks knocked wrong")
	if !s.door.Deaf("touch", lan(1, 0xff)) || s.door.Deaf("touch", lan(1, 0x100)) {
		t.Error("four networks of a /56 must have all of it ignored, and nothing else")
	}
	s.at(5 * time.Minute)
	s.door.Tick(s.now)
	s.wrong(lan(1, 9))
	s.wantStand("2001:db8:1::/56 10m0s", "2001:db8:1:9::/64 5m0s")

	s = newScene(t, Rules{Name: "ssh", Idle: time.Hour})
	for n := range 15 {
		s.wrong(lan(1, n<<8))
	}
	if s.door.Deaf("touch", lan(1, 0xffff)) {
		t.Error("fifteen networks of a /48 have all of it ignored")
	}
	s.wrong(lan(1, 0xf00))
	if !s.door.Deaf("touch", lan(1, 0xffff)) || s.door.Deaf("touch", lan(2, 0)) {
		t.Error("sixteen networks of a /48 must have all of it ignored, and nothing else")
	}
	s.at(5 * time.Minute)
	s.door.Tick(s.now)
	s.wrong(lan(1, 0xfff))
	s.wantStand("2001:db8:1::/48 10m0s", "2001:db8:1:fff::/64 5m0s")
}

func TestArmForgets(t *testing.T) {
	s := newScene(t, Rules{Name: "ssh", Idle: time.Hour})
	for n := range 4 {
		s.wrong(lan(1, n))
	}
	s.wrong(visitor)
	effects, had := s.door.ArmSource(s.now, lan(1, 2), "operator alice")
	s.want(effects, "pardon 2001:db8:1:2::/64", "record armed | 2001:db8:1:2::/64 | operator alice | by operator alice",
		"pardon 2001:db8:1::/56", "record armed | 2001:db8:1::/56 | operator alice | by operator alice")
	if !had || s.door.Deaf("touch", lan(1, 2)) || !s.door.Deaf("touch", lan(1, 1)) || !s.door.Deaf("touch", visitor) {
		t.Error("arming a source must end all penalties that cover it, and no others")
	}
	if _, had := s.door.ArmSource(s.now, lan(1, 2), "operator alice"); had {
		t.Error("it had a penalty, and has none")
	}
	if _, had := s.door.ArmSource(s.now, netip.MustParsePrefix("2001:db8:1::/48"), "operator alice"); !had || s.door.Deaf("touch", lan(1, 1)) {
		t.Error("arming a network does not arm what lies in it")
	}
	s.at(5 * time.Minute)
	s.door.Tick(s.now)
	s.want(s.door.Arm(s.now, "operator alice"), "pardonall", "record armed | operator alice | by operator alice")
	s.wrong(visitor)
	s.wantStand("192.0.2.2 5m0s")
}

// A grant that a connection has used is not taken back by a wrong knock, which may be a
// neighbour's behind the same address.
func TestAUsedGrantIsNotTakenBack(t *testing.T) {
	s := opened(t, ssh)
	if since, ok := s.door.GrantedSince(visitor, "touch"); !ok || !since.Equal(s.now) {
		t.Errorf("granted since %s, %v; want %s", since, ok, s.now)
	}
	s.at(10 * time.Second)
	s.door.Knock(s.now, Knock{Source: visitor, By: "touch"})
	if since, _ := s.door.GrantedSince(visitor, "touch"); !since.Equal(start) {
		t.Errorf("when given again it is granted since %s, want %s: an earlier use counts", since, start)
	}
	if _, ok := s.door.GrantedSince(visitor, "operator"); ok {
		t.Error("a knock's grant counts as an operator's")
	}
	s.want(s.door.Wrong(s.now, Wrong{Proven: true, Source: visitor, By: "touch", Reason: "touched another", Penalty: time.Minute, Used: true}),
		"punish 192.0.2.2 1m0s", "record refused | 192.0.2.2 | touch | touched another")
	if len(s.door.View(s.now).Grants) != 1 {
		t.Error("the grant is gone")
	}
	// A grant that was prolonged does not show since when it was given, and so, after a
	// restart, not whether it was used: it counts as unused.
	d := New(ssh, s.door.Saved(), s.now)
	d.Restore(Claim{Source: visitor, By: "touch", Until: s.now.Add(20 * time.Second), For: 30 * time.Second})
	if since, ok := d.GrantedSince(visitor, "touch"); !ok || !since.Equal(s.now.Add(-10*time.Second)) {
		t.Errorf("restored, it is granted since %s", since)
	}
	d.Restore(Claim{Source: other, By: "touch", Until: s.now.Add(20 * time.Second)})
	if since, _ := d.GrantedSince(other, "touch"); since.Before(s.now) {
		t.Errorf("restored without its length, it is granted since %s, want it not known", since)
	}
}

// naivePenalty is a source's penalty, as the model keeps it.
type naivePenalty struct {
	until time.Time
	times int
}

// The penalties of a door agree with those of a model that goes through all of them each
// time.
func TestPenaltiesAgreeWithTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := New(Rules{Name: "ssh", Idle: time.Hour}, Saved{}, start)
		now, base := start, 10*time.Minute
		known := map[netip.Prefix]naivePenalty{}
		var sources []netip.Prefix
		for i := range 8 {
			sources = append(sources, lan(1, i), lan(1, i<<8), lan(2, i), Source(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})))
		}
		covered := func(source netip.Prefix) bool {
			for p, k := range known {
				if p.Contains(source.Addr()) && now.Before(k.until) {
					return true
				}
			}
			return false
		}
		punish := func(p netip.Prefix) {
			k := known[p]
			k.times++
			length := base
			for range k.times - 1 {
				length = min(2*length, 24*time.Hour)
			}
			k.until = now.Add(length)
			known[p] = k
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			now = now.Add(rapid.SampledFrom([]time.Duration{0, time.Minute, 10 * time.Minute, time.Hour, 24 * time.Hour, 3 * 24 * time.Hour}).Draw(t, "wait"))
			d.Tick(now)
			maps.DeleteFunc(known, func(_ netip.Prefix, k naivePenalty) bool { return now.Sub(k.until) >= 7*24*time.Hour })
			s := rapid.SampledFrom(sources).Draw(t, "source")
			if deaf := d.Deaf("touch", s); deaf != covered(s) {
				t.Fatalf("after %s the door ignores %s: %v", now.Sub(start), s, deaf)
			}
			if !covered(s) && s.Addr().Is4() {
				punish(s)
			} else if !covered(s) {
				within := func(bits int) (wide netip.Prefix, n int) {
					wide = netip.PrefixFrom(s.Addr(), bits).Masked()
					for p := range known {
						if p.Bits() == 64 && wide.Contains(p.Addr()) {
							n++
						}
					}
					return wide, n
				}
				punish(netip.PrefixFrom(s.Addr(), 64).Masked())
				for bits, enough := range map[int]int{56: 4, 48: 16} {
					if wide, n := within(bits); n >= enough || known[wide].times > 0 {
						punish(wide)
					}
				}
			}
			d.Wrong(now, Wrong{Proven: true, Source: s, Penalty: base})
			for p, k := range known {
				if got, ok := d.penalties.get(target{"", p}); !ok || got.Times != k.times || !got.Until.Equal(k.until) {
					t.Fatalf("the penalty of %s is %+v, want %+v", p, got, k)
				}
			}
			if len(d.penalties.of) != len(known) {
				t.Fatalf("%v are remembered, want %v", d.remembers(), slices.Collect(maps.Keys(known)))
			}
		}
	})
}

// A touch, a wrong knock and a penalty's end cost the same however many penalties there
// are; and the number of those that are kept is bounded.
func TestPenaltiesCostTheSameHoweverMany(t *testing.T) {
	for _, n := range []int{1, 1000, maxPenalties + 1000} {
		s := newScene(t, Rules{Name: "ssh", Idle: time.Hour})
		for i := range n {
			s.wrong(lan(i>>4, i&15<<8)) // 16 networks each penalise their /48
		}
		ps := &s.door.penalties
		if len(ps.of) > maxPenalties || len(ps.wrong) > 2*maxPenalties {
			t.Errorf("%d penalties and %d counts are kept after %d", len(ps.of), len(ps.wrong), n)
		}
		before := ps.looks
		s.door.Deaf("touch", visitor)
		s.door.Deaf("touch", lan(1, 1))
		s.door.Deaf("touch", lan(9999, 1))
		if looks := ps.looks - before; looks > 3*8 {
			t.Errorf("with %d penalties three touches look at %d, want at most 8 each, and 10 for one of IPv6", n, looks)
		}
		effects := s.wrong(lan(0xfff0, 1))
		if len(effects) > 3*3 {
			t.Errorf("with %d penalties a wrong knock has %d effects", n, len(effects))
		}
		s.at(5 * time.Minute)
		effects = s.door.Tick(s.now)
		if len(effects) > endedPerTick {
			t.Errorf("of %d penalties that end at once a tick ends %d", n, len(effects))
		}
		if s.wantStand(); s.door.Deaf("touch", lan(0xfff0, 1)) {
			t.Error("a penalty that is over counts until a tick has ended it")
		}
		if s.calm(); len(ps.stand.heap) != 0 || len(ps.memory.heap) != len(ps.of) {
			t.Errorf("%d penalties are over, but %d are in force", len(ps.of), len(ps.stand.heap))
		}
		s.at(5*time.Minute + Remembered)
		if s.calm(); len(ps.of)+len(ps.wrong)+len(ps.memory.heap)+len(ps.names) != 0 {
			t.Errorf("left behind are %d penalties and %d counts", len(ps.of), len(ps.wrong))
		}
	}
}

// calm has the door tick as long as something is due.
func (s *scene) calm() (ticks int) {
	for at, ok := s.door.Next(); ok && !at.After(s.now); at, ok = s.door.Next() {
		s.door.Tick(s.now)
		ticks++
	}
	return ticks
}

// When there is no room, a penalty that is over and remembered is dropped before one that
// is in force.
func TestNoRoomForPenalties(t *testing.T) {
	s := newScene(t, Rules{Name: "ssh", Idle: time.Hour})
	s.wrong(visitor)
	s.at(5 * time.Minute)
	s.door.Tick(s.now)
	for i := range maxPenalties - 1 {
		s.wrong(Source(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})))
	}
	effects := s.wrong(other)
	if len(effects) != 3 || effects[0] != (Pardon{"touch", visitor}) || len(s.door.penalties.of) != maxPenalties {
		t.Errorf("one more: %v, %d kept", effects, len(s.door.penalties.of))
	}
	if effects := s.wrong(lan(3, 3)); effects[0] != (Pardon{"touch", Source(netip.AddrFrom4([4]byte{198, 18, 0, 0}))}) {
		t.Errorf("another: %v, want the one that ends soonest to go", effects[0])
	}
}
