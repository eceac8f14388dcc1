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
	return s
}

func (p *pool) come(s *socket, payloads ...string) {
	var all []arrival
	for _, text := range payloads {
		all = append(all, arrival{payload: []byte(text)})
	}
	p.put(s, s.opener.Load(), all)
}

// However long each Open takes and however many run, what it accepts is heard once, in
// the order in which it came, and not before Open has returned.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		takes := rapid.SliceOfN(rapid.IntRange(0, 50), 1, 60).Draw(r, "takes")
		runners := rapid.IntRange(1, 5).Draw(r, "runners")
		sockets := []*socket{listenedTo(), listenedTo(), listenedTo()}
		var want, got []any
		var last time.Time
		synctest.Test(t, func(t *testing.T) {
			var p pool
			p.init(func(all []knock.Heard) {
				for _, h := range all {
					if h.Time.Before(last) {
						t.Errorf("%v was heard after what came later", h.Said)
					}
					last = h.Time
				}
				for _, h := range all {
					got = append(got, h.Said)
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
					want = append(want, text)
				}
				p.come(sockets[i%len(sockets)], text)
				time.Sleep(time.Duration(i%3) * time.Millisecond)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			p.close()
			running.Wait()
		})
		if !slices.Equal(got, want) {
			r.Fatalf("heard %v, want %v", got, want)
		}
	})
}

// A flood at one port takes that port's share and no more; a knock at another port is
// opened before what came to the first one after it.
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
	if len(flooded.waiting) != p.each || p.waiting.Len() != p.each+1 || p.lost() != uint64(flood-p.each) {
		t.Errorf("%d wait, %d of them at the flooded port, %d lost; want %d, %d, %d",
			p.waiting.Len(), len(flooded.waiting), p.lost(), p.each+1, p.each, flood-p.each)
	}
	var before, after int
	seen := false
	for range p.waiting.Len() {
		text := string(p.next().datagram.Payload)
		var i int
		_, _ = fmt.Sscanf(text, "flood %d", &i)
		switch {
		case text == "knock":
			seen = true
		case i > flood/2:
			after++
			if !seen {
				t.Fatalf("%q is opened before the knock that came first", text)
			}
		default:
			before++
		}
	}
	if !seen || before+after != p.each {
		t.Errorf("opened %d before the knock, %d after it, the knock: %v", before, after, seen)
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
				at := slices.IndexFunc(s.waiting, func(w *waiting) bool { return string(w.datagram.Payload) == "knock" })
				if at >= 0 {
					kept++
					p.take(s.waiting[at])
					burst(1)
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
		if opened < maxHeard || opened > 2*maxHeard || len(s.waiting) != maxWaiting ||
			opened+len(s.waiting)+int(p.lost()) != sent {
			t.Errorf("opened %d, %d wait, %d lost of %d", opened, len(s.waiting), p.lost(), sent)
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
	p.come(other, "of another")
	w := p.next()
	by := s.opener.Load()
	s.use(nil)
	p.forget(s)
	p.put(s, by, []arrival{{payload: []byte("late")}})
	p.finish(w, knock.Heard{}, true)
	if p.waiting.Len() != 1 || len(s.waiting) != 0 || len(p.told) != 0 {
		t.Errorf("%d wait, %d of them at the port, %d are to be heard; want 1, 0, 0", p.waiting.Len(), len(s.waiting), len(p.told))
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
	if got := testing.AllocsPerRun(rounds, func() {
		if foreign, strange := b.sift(59000, by, atOnce); foreign != atOnce || strange != 0 {
			t.Fatalf("%d foreign, %d strange, want %d and none", foreign, strange, atOnce)
		}
	}); got != 0 {
		t.Errorf("%v allocations for %d datagrams that are nothing", got, atOnce)
	}
	if got := by.glances.Load(); got != (rounds+1)*atOnce {
		t.Errorf("%d glances at %d datagrams", got, (rounds+1)*atOnce)
	}

	for _, each := range []int{minWaiting, maxWaiting} {
		var p pool
		p.init(nil)
		p.each = each
		sock := listenedTo()
		if b.sift(59000, sock.opener.Load(), atOnce); len(b.come) != atOnce {
			t.Fatalf("%d came, want %d", len(b.come), atOnce)
		}
		round := func() { p.put(sock, sock.opener.Load(), b.come) }
		for range 10 * maxWaiting / atOnce {
			round()
		}
		if got := testing.AllocsPerRun(rounds, round); got != 0 {
			t.Errorf("with %d waiting, %v allocations for %d more", each, got, atOnce)
		}
		memory := 0
		for _, w := range sock.waiting {
			memory += cap(w.datagram.Payload)
		}
		if len(sock.waiting) != each || memory > each*Longest {
			t.Errorf("%d wait, with %d bytes; want %d, with %d", len(sock.waiting), memory, each, each*Longest)
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
	const sent = 5000
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
