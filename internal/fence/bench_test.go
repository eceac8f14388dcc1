//go:build linux

package fence

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/nstest"
)

// many returns n grants of single addresses, alternately of both families.
func many(door string, n int) []Grant {
	gs := make([]Grant, n)
	for i := range gs {
		b := [16]byte{0x20, 0x01, 0x0d, 0xb8, 12: byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
		a := netip.AddrFrom16(b)
		if i%2 == 0 {
			a = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		}
		gs[i] = Grant{door, netip.PrefixFrom(a, a.BitLen()), time.Now().Add(time.Hour)}
	}
	return gs
}

// BenchmarkChange gives and revokes one grant while there are others, which is a step
// from a knock to an open door.
func BenchmarkChange(b *testing.B) {
	for _, live := range []int{1, 1_000, 100_000} {
		for _, watched := range []bool{false, true} {
			b.Run(fmt.Sprintf("live=%d/watched=%v", live, watched), func(b *testing.B) {
				n := nstest.New(b)
				f := openIn(b, n, false)
				must(b, f.Guard([]Door{sshDoor(b)}))
				must(b, f.Change(Changes{Give: many("ssh", live)}))
				if watched {
					ctx, cancel := context.WithCancel(b.Context())
					defer cancel()
					n.Do(func() error { _, err := f.Watch(ctx); return err })
				}
				give := []Grant{grant("ssh", "192.0.2.9", time.Hour)}
				for b.Loop() {
					must(b, f.Change(Changes{Give: give}))
				}
			})
		}
	}
}

// BenchmarkChangeBatch gives 10,000 grants in one transaction.
func BenchmarkChangeBatch(b *testing.B) {
	f := openIn(b, nstest.New(b), false)
	must(b, f.Guard([]Door{sshDoor(b)}))
	gs := many("ssh", 10_000)
	for b.Loop() {
		must(b, f.Change(Changes{Give: gs}))
	}
}

func BenchmarkGrants(b *testing.B) {
	for _, live := range []int{1, 1_000, 60_000, 300_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			f := openIn(b, nstest.New(b), false)
			must(b, f.Guard([]Door{sshDoor(b)}))
			must(b, f.Change(Changes{Give: many("ssh", live)}))
			for b.Loop() {
				if gs, err := f.allGrants(); err != nil || len(gs) != live {
					b.Fatal(len(gs), err)
				}
			}
		})
	}
}

// BenchmarkEnds queries all existing grants, one by one.
func BenchmarkEnds(b *testing.B) {
	for _, live := range []int{1, 1_000, 60_000, 300_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			f := openIn(b, nstest.New(b), false)
			must(b, f.Guard([]Door{sshDoor(b)}))
			gs := many("ssh", live)
			must(b, f.Change(Changes{Give: gs}))
			for b.Loop() {
				if ends, err := f.Ends(gs); err != nil || slices.Contains(ends, time.Time{}) {
					b.Fatal(len(ends), err)
				}
			}
		})
	}
}

// BenchmarkCheck measures what a signal of Watch costs, with a thousand doors.
func BenchmarkCheck(b *testing.B) {
	f := openIn(b, nstest.New(b), false)
	var doors []Door
	for i := range 1_000 {
		doors = append(doors, Door{Name: fmt.Sprint("door", i), Ports: ports(b, fmt.Sprintf("%d/tcp", 10_000+i))})
	}
	must(b, f.Guard(doors))
	for b.Loop() {
		must(b, f.Check())
	}
}

// BenchmarkEmpty removes all grants of a door.
func BenchmarkEmpty(b *testing.B) {
	for _, live := range []int{1, 1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			f := openIn(b, nstest.New(b), false)
			must(b, f.Guard([]Door{sshDoor(b)}))
			gs := many("ssh", live)
			for b.Loop() {
				b.StopTimer()
				for part := range slices.Chunk(gs, 10_000) {
					must(b, f.Change(Changes{Give: part}))
				}
				b.StartTimer()
				must(b, f.Change(Changes{Empty: []string{"ssh"}}))
			}
		})
	}
}

// BenchmarkGuard changes all doors, and reports how long a change of a grant waited
// meanwhile.
func BenchmarkGuard(b *testing.B) {
	for _, n := range []int{1, 100, 1_000} {
		b.Run(fmt.Sprintf("doors=%d", n), func(b *testing.B) {
			f := openIn(b, nstest.New(b), false)
			doors := make([]Door, n)
			for i := range doors {
				doors[i] = Door{Name: fmt.Sprint("door", i), Ports: ports(b, fmt.Sprintf("%d/tcp", 10_000+i))}
			}
			must(b, f.Guard(doors))
			give := Changes{Give: []Grant{grant(doors[0].Name, "192.0.2.9", time.Hour)}}
			var worst time.Duration
			for b.Loop() {
				for i := range doors {
					doors[i].Reject = !doors[i].Reject
				}
				done := make(chan error)
				go func() { done <- f.Guard(doors) }()
				for going := true; going; {
					select {
					case err := <-done:
						must(b, err)
						going = false
					default:
						begun := time.Now()
						must(b, f.Change(give))
						worst = max(worst, time.Since(begun))
					}
				}
			}
			b.ReportMetric(float64(worst.Microseconds())/1000, "worst-ms")
		})
	}
}
