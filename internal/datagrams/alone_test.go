//go:build linux

package datagrams

import (
	"fmt"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/knock"
)

// brief are words that take no time, and says how many were handed over before they were
// opened.
type brief struct {
	words
	handed atomic.Int64
}

func (*brief) Brief() {}

func (b *brief) Open(d knock.Datagram) (any, []byte, bool) {
	b.handed.Add(handedOver())
	return b.words.Open(d)
}

// lengthy are words that may take long.
type lengthy struct {
	words
	handed atomic.Int64
}

func (l *lengthy) Open(d knock.Datagram) (any, []byte, bool) {
	l.handed.Add(handedOver())
	return l.words.Open(d)
}

// handedOver is 0 if the calling goroutine is one that reads datagrams, else 1.
func handedOver() int64 {
	if strings.Contains(string(debug.Stack()), ".receive(") {
		return 0
	}
	return 1
}

// A datagram that comes alone is not handed over to be opened, unless that may take long.
func TestAloneIsNotHandedOver(t *testing.T) {
	s := newScene(t)
	short, long := &brief{}, &lengthy{}
	s.mustSet(map[uint16]knock.Opener{59000: short, 59001: long})
	const n = 20
	for i := range n {
		for j, port := range []string{":59000", ":59001"} {
			c := s.caller(visitor4 + ":0")
			send(t, c, gateway4+port, fmt.Sprintf("knock %d:yes", i))
			s.record.await(t, 2*i+j+1)
		}
	}
	if got := short.handed.Load(); got != 0 {
		t.Errorf("of %d that came one by one, %d were handed over, want none", n, got)
	}
	if got := long.handed.Load(); got != n {
		t.Errorf("of %d whose opening may take long, %d were handed over, want all", n, got)
	}
}

// Whoever has read a datagram opens it only while nothing else is to be opened, and counts
// among those who open at once. What waits for that goes on afterwards, and is heard in
// its order.
func TestAloneCountsAsOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pool
		var heard []any
		p.init(func(all []knock.Heard) { heard = append(heard, said(all)...) })
		const openers = 2
		p.limit(openers)
		held, now, most := make(chan struct{}), 0, 0
		open := func(w *waiting) (knock.Heard, bool) {
			p.mu.Lock()
			now++
			most = max(most, now)
			p.mu.Unlock()
			<-held
			p.mu.Lock()
			now--
			p.mu.Unlock()
			return heardAs(w)
		}
		for range openers {
			go p.run(open)
		}
		go p.deliver()
		s := listenedTo()
		alone := func(text string) *waiting {
			a := arrival{[]byte(text), knock.Path{From: netip.AddrPortFrom(netip.MustParseAddr(visitor4), 9)}, knock.Claimed}
			return p.alone(&s.queue, s, s.opener.Load(), a)
		}
		first := alone("1")
		if first == nil {
			t.Fatal("with nothing to be opened, a datagram has to wait")
		}
		go p.open(first, open)
		synctest.Wait()
		if alone("2") != nil {
			t.Error("while one is being opened, who has read another opens that, too")
		}
		p.come(s, "2", "3", "4", "5")
		synctest.Wait()
		if now != openers {
			t.Errorf("%d are opened at once, want %d", now, openers)
		}
		close(held)
		synctest.Wait()
		if diff := cmp.Diff([]any{"1", "2", "3", "4", "5"}, heard); diff != "" {
			t.Errorf("heard (-want +got):\n%s", diff)
		}
		if most != openers {
			t.Errorf("at most %d were opened at once, want %d", most, openers)
		}
		p.listen(&s.queue, false)
		if alone("6") != nil {
			t.Error("at a place that is not listened on, a datagram is opened")
		}
		p.listen(&s.queue, true)
		p.close()
		if alone("7") != nil {
			t.Error("after the end, a datagram is opened")
		}
	})
}

// With one opener, what was put while the reader opened something is not forgotten.
func TestWhatWaitsForTheReaderGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pool
		heard := 0
		p.init(func(all []knock.Heard) { heard += len(all) })
		p.limit(1)
		go p.run(heardAs)
		go p.deliver()
		s := listenedTo()
		w := p.alone(&s.queue, s, s.opener.Load(), arrival{[]byte("1"), knock.Path{From: netip.AddrPortFrom(netip.MustParseAddr(visitor4), 9)}, knock.Claimed})
		p.come(s, "2", "3")
		synctest.Wait()
		if heard != 0 {
			t.Errorf("%d were heard before the first", heard)
		}
		p.open(w, heardAs)
		synctest.Wait()
		if heard != 3 {
			t.Errorf("%d were heard, want 3", heard)
		}
		p.close()
	})
}
