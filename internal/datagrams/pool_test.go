//go:build linux

package datagrams

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/knock"
)

// heardAs stands for what a Listener makes of a datagram: the payload becomes Said.
func heardAs(w *waiting) (knock.Heard, bool) {
	return knock.Heard{Said: string(w.datagram.Payload), Time: w.datagram.Time}, !strings.HasPrefix(string(w.datagram.Payload), "nothing")
}

// listenedTo returns a socket without a port that has an opener.
func listenedTo() *socket {
	s := &socket{}
	s.use(&anything{})
	s.queue.heard = true
	return s
}

// come is as if datagrams came to a socket from one source.
func (p *pool) come(s *socket, payloads ...string) {
	p.comeFrom(s, netip.MustParseAddr(visitor4), knock.Claimed, payloads...)
}

func (p *pool) comeFrom(s *socket, from netip.Addr, rank knock.Rank, payloads ...string) {
	var all []arrival
	for _, text := range payloads {
		all = append(all, arrival{[]byte(text), knock.Path{From: netip.AddrPortFrom(from, 9)}, rank})
	}
	p.put(&s.queue, s, s.opener.Load(), all)
}

// all is what waits at a socket, in no order.
func (s *socket) all() (all []*waiting) {
	for _, c := range []*class{s.queue.shown, s.queue.claimed} {
		if c != nil {
			all = append(all, slices.Concat(c.lanes[:]...)...)
		}
	}
	return all
}

// However long each Open takes and however many run, what it accepts is heard once, that
// of a source at a place in the order in which it came, with times that never go back, and
// not before Open has returned.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		takes := rapid.SliceOfN(rapid.IntRange(0, 50), 1, 60).Draw(r, "takes")
		runners := rapid.IntRange(1, 5).Draw(r, "runners")
		sockets := []*socket{listenedTo(), listenedTo(), listenedTo()}
		at := rapid.SliceOfN(rapid.IntRange(0, 2), 60, 60).Draw(r, "sockets")
		var want, got [3][]any
		var last time.Time
		synctest.Test(t, func(t *testing.T) {
			var p pool
			p.init(func(all []knock.Heard) {
				for _, h := range all {
					if h.Time.Before(last) {
						t.Errorf("%v was heard after what came later", h.Said)
					}
					last = h.Time
					var i int
					_, _ = fmt.Sscanf(h.Said.(string), "%d", &i)
					got[at[i]] = append(got[at[i]], h.Said)
				}
			})
			var running sync.WaitGroup
			running.Go(p.deliver)
			for range runners {
				running.Go(func() {
					p.run(func(w *waiting) (knock.Heard, bool) {
						var i, ms int
						_, _ = fmt.Sscanf(strings.TrimPrefix(string(w.datagram.Payload), "nothing "), "%d %d", &i, &ms)
						time.Sleep(time.Duration(ms) * time.Millisecond)
						return heardAs(w)
					})
				})
			}
			for i, ms := range takes {
				text := fmt.Sprintf("%d %d", i, ms)
				if ms%7 == 3 {
					text = "nothing " + text
				} else {
					want[at[i]] = append(want[at[i]], text)
				}
				p.come(sockets[at[i]], text)
				time.Sleep(time.Duration(i%3) * time.Millisecond)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			p.close()
			running.Wait()
		})
		if d := cmp.Diff(want, got); d != "" {
			r.Fatalf("heard at each socket (-want +got):\n%s", d)
		}
	})
}

// A flood at one port takes that port's share and no more; a knock at another port is
// opened in its turn, which is the next but one.
func TestAFloodCrowdsOutItsOwnPort(t *testing.T) {
	var p pool
	p.init(nil)
	p.share(40)
	flooded, other := listenedTo(), listenedTo()
	const flood = 1000
	for i := range flood {
		p.come(flooded, fmt.Sprintf("flood %d", i))
		if i == flood/2 {
			p.come(other, "knock")
		}
	}
	if len(flooded.all()) != p.each || len(other.all()) != 1 || p.lost() != uint64(flood-p.each) {
		t.Errorf("%d wait at the flooded port, %d at the other, %d are lost; want %d, 1, %d",
			len(flooded.all()), len(other.all()), p.lost(), p.each, flood-p.each)
	}
	var opened []string
	for p.turns.Len() > 0 {
		opened = append(opened, string(p.next().datagram.Payload))
	}
	if at := slices.Index(opened, "knock"); at < 0 || at > 1 || len(opened) != p.each+1 {
		t.Errorf("opened %d, the knock after %d others; want %d, after 1 at most", len(opened), at, p.each+1)
	}
}

// A port is busy while more that is Claimed waits than half of what may, or is just coming:
// a crowd that it can open in a moment is not asked to begin anew.
func TestBusy(t *testing.T) {
	var p pool
	p.init(nil)
	s := listenedTo()
	p.share(8)
	p.listen(&s.queue, true)
	const few = 4
	for i := range few {
		if s.queue.busy(few - i) {
			t.Errorf("busy with %d that wait and %d that come", i, few-i)
		}
		if !s.queue.busy(few - i + 1) {
			t.Errorf("not busy with %d that wait and %d that come", i, few-i+1)
		}
		p.comeFrom(s, netip.MustParseAddr(visitor4), knock.Shown, "shown")
		p.come(s, "claimed")
	}
	p.come(s, "claimed")
	if !s.queue.busy(0) {
		t.Errorf("not busy with %d that wait", few+1)
	}
	for range 2*few + 1 {
		p.next()
	}
	if s.queue.busy(few) {
		t.Error("busy with nothing that waits")
	}
	for range 2 * few {
		p.come(s, "claimed")
	}
	if p.listen(&s.queue, false); s.queue.busy(few) {
		t.Error("busy when nothing is heard")
	}
	p.share(maxWaiting)
	if p.listen(&s.queue, true); s.queue.busy(maxWaiting/2) || !s.queue.busy(maxWaiting/2+1) {
		t.Errorf("with room for %d, %d are too many or %d are not", maxWaiting, maxWaiting/2, maxWaiting/2+1)
	}
}

// A burst just before a knock does not keep it out, and one just after it seldom
// throws it away: which one goes is drawn.
func TestWhoIsThrownAwayIsDrawn(t *testing.T) {
	const times = 2000
	for _, tt := range []struct {
		what          string
		before, after int
		want          float64 // how often it is opened
	}{
		{"after a burst", 5 * maxWaiting, 0, 1 - 1.0/(maxWaiting+1)},
		{"within a burst", maxWaiting, 100, math.Pow(1-1.0/(maxWaiting+1), 100)},
	} {
		t.Run(tt.what, func(t *testing.T) {
			var p pool
			p.init(nil)
			s := listenedTo()
			burst := func(n int) {
				for range n {
					p.come(s, "flood")
				}
			}
			kept := 0
			burst(tt.before)
			for range times {
				p.come(s, "knock")
				burst(tt.after)
				c := s.queue.claimed
				for i, lane := range c.lanes {
					at := slices.IndexFunc(lane, func(w *waiting) bool { return string(w.datagram.Payload) == "knock" })
					if at >= 0 {
						kept++
						c.remove(i, at)
						c.n--
						burst(1)
					}
				}
			}
			// The margin is more than five standard deviations.
			if got := float64(kept) / times; got < tt.want-0.06 || got > tt.want+0.06 {
				t.Errorf("kept in %v of all, want %v", got, tt.want)
			}
		})
	}
}

// The more ports there are, the less each has, so that all together have no more, down
// to a minimum for each.
func TestParts(t *testing.T) {
	for ports, want := range map[int]int{0: 128, 1: 128, 32: 128, 33: 124, 100: 40, 512: 8, 513: 8, 65535: 8} {
		if got := portShare(ports, 128, 8, 4096); got != want {
			t.Errorf("one of %d ports has %d, want %d", ports, got, want)
		}
	}
	s := newScene(t)
	for ports, want := range map[int]int{1: maxBuffer, 20: totalBuffer / 20} {
		all := make(map[uint16]knock.Opener)
		for i := range ports {
			all[uint16(59000+i)] = nil
		}
		s.mustSet(all)
		for _, sock := range s.listener.sockets {
			_ = sock.raw.Control(func(fd uintptr) {
				// The kernel reports twice what it was asked for, socket(7).
				if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF); got != 2*want || err != nil {
					t.Errorf("of %d ports, %d has %d bytes (%v), want %d", ports, sock.port, got, err, 2*want)
				}
			})
		}
	}
}

// While heard does not return, a limited number is opened, and nothing of that is lost:
// what comes after it is thrown away before it is opened.
func TestSlowGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pool
		gate, told, opened := make(chan bool), 0, 0
		p.init(func(all []knock.Heard) { <-gate; told += len(all) })
		s := listenedTo()
		var running sync.WaitGroup
		running.Go(p.deliver)
		running.Go(func() {
			p.run(func(w *waiting) (knock.Heard, bool) { opened++; return heardAs(w) })
		})
		const sent = 4 * maxHeard
		for range sent {
			p.come(s, "knock")
			synctest.Wait()
		}
		// One batch is with heard.
		if opened < maxHeard || opened > 2*maxHeard || len(s.all()) != maxWaiting ||
			opened+len(s.all())+int(p.lost()) != sent {
			t.Errorf("opened %d, %d wait, %d lost of %d", opened, len(s.all()), p.lost(), sent)
		}
		close(gate)
		synctest.Wait()
		if want := sent - int(p.lost()); told != want || opened != want {
			t.Errorf("heard %d and opened %d, want %d", told, opened, want)
		}
		p.close()
		running.Wait()
	})
}

// At a port that is no longer heard, neither what waits nor what still comes is opened,
// and what is just being opened is not heard. At a port that gets another opener, what
// waits is opened by the one that glanced at it.
func TestForget(t *testing.T) {
	var p pool
	p.init(nil)
	s, other := listenedTo(), listenedTo()
	p.come(s, "being opened", "waits")
	w := p.next()
	p.come(other, "of another")
	by := s.opener.Load()
	p.listen(&s.queue, false)
	if p.put(&s.queue, s, by, []arrival{{payload: []byte("late")}}) {
		t.Error("what comes late is to be opened")
	}
	p.finish(w, knock.Heard{}, true)
	if len(other.all()) != 1 || len(s.all()) != 0 || len(p.told) != 0 {
		t.Errorf("%d wait at the other port, %d at this, %d are to be heard; want 1, 0, 0", len(other.all()), len(s.all()), len(p.told))
	}
	by = other.opener.Load()
	other.use(&words{})
	if w := p.next(); string(w.datagram.Payload) != "of another" || w.by != by {
		t.Errorf("%q is opened by %T, want the one that glanced at it", w.datagram.Payload, w.by.Opener)
	}
}

// What is not an opener's costs one Glance and no memory; what comes when the port's
// share is full costs no memory either; and what waits has no more than its share.
func TestCosts(t *testing.T) {
	if size := unsafe.Sizeof(batch{}); size > 64<<10 {
		t.Errorf("a port's buffers are %d bytes, want 64 KiB at most", size)
	}
	s := newScene(t)
	by := &words{}
	s.mustSet(map[uint16]knock.Opener{59000: nil}) // its goroutine waits for what comes
	b := newBatch()
	at := netip.MustParseAddrPort("[2001:db8::2]:9")
	for i := range atOnce {
		b.headers[i].length = Longest
		b.names[i] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: 9 << 8, Addr: at.Addr().As16()}
		h := unix.PktInfo6(&unix.Inet6Pktinfo{Addr: netip.MustParseAddr(gateway6).As16(), Ifindex: 7})
		b.headers[i].SetControllen(copy(unsafe.Slice((*byte)(unsafe.Pointer(&b.controls[i])), controlSize), h))
	}
	const rounds = 20
	sock := listenedTo()
	sock.port = 59000
	if got := testing.AllocsPerRun(rounds, func() {
		if got := b.sift(sock, by, atOnce); got != (tally{foreign: atOnce}) {
			t.Fatalf("%+v, want %d foreign ones", got, atOnce)
		}
	}); got != 0 {
		t.Errorf("%v allocations for %d datagrams that are nothing", got, atOnce)
	}
	if got := by.glances.Load(); got != (rounds+1)*atOnce {
		t.Errorf("%d glances at %d datagrams", got, (rounds+1)*atOnce)
	}

	var real *socket
	s.gateway.Do(func() (err error) { real, err = open(59001); return err })
	defer real.file.Close()
	var all tally
	if got := testing.AllocsPerRun(rounds, func() {
		for i := range atOnce {
			b.headers[i].length = 7
			copy(b.payloads[i][:], "ask:who")
		}
		real.replies.spread.from = time.Time{}.Add(time.Duration(all.replied)) // another second
		got := b.sift(real, by, atOnce)
		all.replied += got.replied
	}); got != 0 || all != (tally{replied: (rounds + 1) * atOnce}) {
		t.Errorf("%v allocations for %d answers; all: %+v", got, atOnce, all)
	}
	for i := range atOnce {
		b.headers[i].length = Longest
		b.headers[i].SetControllen(unix.CmsgSpace(unix.SizeofInet6Pktinfo))
	}

	for _, each := range []int{minWaiting, maxWaiting} {
		var p pool
		p.init(nil)
		p.each = each
		sock := listenedTo()
		if b.sift(sock, sock.opener.Load(), atOnce); len(b.come) != atOnce {
			t.Fatalf("%d came, want %d", len(b.come), atOnce)
		}
		round := func() { p.put(&sock.queue, sock, sock.opener.Load(), b.come) }
		for range 10 * maxWaiting / atOnce {
			round()
		}
		if got := testing.AllocsPerRun(rounds, round); got != 0 {
			t.Errorf("with %d waiting, %v allocations for %d more", each, got, atOnce)
		}
		memory := 0
		for _, w := range sock.all() {
			memory += cap(w.datagram.Payload)
		}
		if len(sock.all()) != each || memory > each*Longest {
			t.Errorf("%d wait, with %d bytes; want %d, with %d", len(sock.all()), memory, each, each*Longest)
		}
	}
}

// What the kernel throws away is counted, and a socket that is not read is noticed.
func TestOverrunAndBehind(t *testing.T) {
	s := newScene(t)
	by := &words{slow: make(chan struct{})}
	s.mustSet(map[uint16]knock.Opener{59000: by})
	c := s.caller(visitor4 + ":0")
	send(t, c, gateway4+":59000", "x")
	eventually(t, "it is read", func() bool { return by.glances.Load() == 1 })
	if s.listener.Behind() {
		t.Error("behind, with nothing that waits")
	}
	const sent = 20_000
	for range sent {
		send(t, c, gateway4+":59000", "x")
	}
	if s.listener.Behind() {
		t.Error("behind, when it is seen for the first time")
	}
	if !s.listener.Behind() {
		t.Error("not behind, although nothing was read")
	}
	lost := s.listener.Counts().Overrun
	if lost == 0 || lost >= sent {
		t.Errorf("the kernel threw away %d of %d, want some", lost, sent)
	}
	close(by.slow)
	eventually(t, "the rest is read", func() bool { return s.listener.Counts() == (Counts{Foreign: sent + 1 - lost, Overrun: lost}) })
	if s.listener.Behind() {
		t.Error("behind, when all was read")
	}
	s.mustSet(nil)
	if got := s.listener.Counts().Overrun; got != lost {
		t.Errorf("overrun %d when the port is gone, want %d as before", got, lost)
	}
}

// counted counts how often it is locked: by a sync.Cond whose L it is, once for each
// goroutine that it wakes.
type counted struct {
	sync.Locker
	n *int
}

func (c counted) Lock() { c.Locker.Lock(); *c.n++ }

// What comes wakes one of those who wait to open something, and what has been opened wakes
// none, however many there are: each would take its turn on a processor from the gateway,
// to find nothing.
func TestOneIsWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pool
		heard, woken := 0, 0
		p.init(func(all []knock.Heard) { heard += len(all) })
		p.work.L = counted{&p.mu, &woken}
		for range 8 {
			go p.run(heardAs)
		}
		go p.deliver()
		s := listenedTo()
		const n = 10
		for range n {
			synctest.Wait()
			p.come(s, "knock")
		}
		synctest.Wait()
		if heard != n || woken != n {
			t.Errorf("%d were heard and %d goroutines woken, want %d of both", heard, woken, n)
		}
		p.close()
	})
}

// While more that are Shown wait to be opened, what was heard is told together: a turn of
// the gateway's for each would cost more than opening it. Nothing waits for what is only
// Claimed, which anybody can send, nor longer than toldWithin and for one more.
func TestToldTogether(t *testing.T) {
	const each = 100 * time.Microsecond // that opening takes
	for name, tt := range map[string]struct {
		shown, claimed int
		takes          time.Duration
		want           []int
	}{
		"one alone":              {shown: 1, takes: each, want: []int{1}},
		"few at once":            {shown: 10, takes: each, want: []int{10}},
		"no longer than that":    {shown: 50, takes: each, want: []int{21, 21, 8}},
		"no more than that":      {shown: 70, takes: time.Microsecond, want: []int{32, 32, 6}},
		"each of those that are": {claimed: 3, takes: each, want: []int{1, 1, 1}},
		"not for a flood":        {shown: 2, claimed: 40, takes: each, want: append([]int{2}, slices.Repeat([]int{1}, 40)...)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p pool
				var told []int
				p.init(func(all []knock.Heard) { told = append(told, len(all)) })
				s := listenedTo()
				for range tt.claimed {
					p.comeFrom(s, netip.MustParseAddr("192.0.2.7"), knock.Claimed, "knock")
				}
				for range tt.shown {
					p.comeFrom(s, netip.MustParseAddr("192.0.2.8"), knock.Shown, "knock")
				}
				go p.deliver()
				go p.run(func(w *waiting) (knock.Heard, bool) { time.Sleep(tt.takes); return heardAs(w) })
				time.Sleep(time.Second)
				synctest.Wait()
				if diff := cmp.Diff(tt.want, told); diff != "" {
					t.Errorf("how many were told at once (-want +got):\n%s", diff)
				}
				p.close()
			})
		})
	}
}

// What was heard does not wait for what is thrown away.
func TestToldWhenWhatWaitsIsThrownAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pool
		told := 0
		p.init(func(all []knock.Heard) { told += len(all) })
		heard, other := listenedTo(), listenedTo()
		go p.deliver()
		p.comeFrom(heard, netip.MustParseAddr("192.0.2.7"), knock.Shown, "knock")
		p.comeFrom(other, netip.MustParseAddr("192.0.2.8"), knock.Shown, "knock")
		w := p.next()
		h, _ := heardAs(w)
		p.finish(w, h, true)
		synctest.Wait()
		if told != 0 {
			t.Fatalf("%d were told while another waits, want none", told)
		}
		p.listen(&other.queue, false)
		synctest.Wait()
		if told != 1 || p.shown != 0 {
			t.Errorf("%d were told, and %d are said to wait, want 1 and none", told, p.shown)
		}
		p.close()
	})
}
