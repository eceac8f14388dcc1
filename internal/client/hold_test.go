package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/client/clienttest"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
)

// held writes down what Hold tells, with the time since it began.
func held(start time.Time, lines *[]string) func(Held) {
	words := map[HeldFor]string{HeldFirst: "first", HeldEnds: "ends", HeldMoved: "moved", HeldRetry: "retry", HeldReturn: "return"}
	return func(h Held) {
		line := fmt.Sprintf("%v %s:", h.At.Sub(start).Round(time.Second), words[h.Why])
		for _, s := range summary(h.Result) {
			line += " " + s
		}
		if h.Err != nil {
			line += " " + h.Err.Error()
		}
		*lines = append(*lines, line)
	}
}

// A door stays open: there is another knock before the grant ends, at once when the own
// address changes, again and again while there is no answer, and it is closed at the end.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.knock.Profile.Hosts = []string{v4}
		var own atomic.Value // netip.Addr
		own.Store(netip.MustParseAddr("198.51.100.7"))
		c := l.client()
		c.Dial = func(ctx context.Context, carrier, address string) (net.Conn, error) {
			s, err := l.network.dial(ctx, carrier, address)
			return moved{s.(*socket), own.Load().(netip.Addr)}, err
		}
		start := time.Now().Round(0)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute+time.Second)
		defer cancel()
		time.AfterFunc(50*time.Second, func() { own.Store(netip.MustParseAddr("198.51.100.8")) })
		time.AfterFunc(80*time.Second, func() { l.set(v4, nil) })
		time.AfterFunc(110*time.Second, func() { l.set(v4, l.gateway) })
		var got []string
		if err := c.Hold(ctx, l.knock, held(start, &got)); err != nil {
			t.Error(err)
		}
		const silent = " no answer from 192.0.2.1 at 41641/udp within 5s"
		want := []string{
			"0s first: " + open4,
			"38s ends: " + open4,
			"50s moved: " + open4,
			"1m33s ends:" + silent,
			"1m42s retry:" + silent,
			"1m50s retry: " + open4,
			"2m28s ends: " + open4,
			"3m1s return: closed 192.0.2.1/udp for 198.51.100.7",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	})
}

// moved is a socket of a machine that has an address.
type moved struct {
	*socket
	own netip.Addr
}

func (m moved) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(m.own, 40000))
}

// A first knock in vain, and one that the gateway refuses, end it. What was opened is given
// back.
func TestHoldEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		clear(l.gateways)
		var got []string
		var silent *SilentError
		if err := l.client().Hold(t.Context(), l.knock, held(time.Now().Round(0), &got)); !errors.As(err, &silent) || len(got) != 1 {
			t.Errorf("nobody answers: %v, %q", err, got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.knock.Profile.Hosts = []string{v4}
		var locked atomic.Bool
		l.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
			if locked.Load() && k.Request.Action == seal.Open {
				return []seal.Answer{{Status: seal.Refused, Reason: seal.Reason(credential.Locked), Source: k.From}}
			}
			return l.gateway.Open(k)
		})
		time.AfterFunc(time.Second, func() { locked.Store(true) })
		var got []string
		err := l.client().Hold(t.Context(), l.knock, held(time.Now().Round(0), &got))
		want := []string{
			"0s first: " + open4,
			"38s ends: refused 192.0.2.1/udp for 198.51.100.7 your key is locked: ask the gateway's operator, who locked it and can unlock it",
			"38s return: closed 192.0.2.1/udp for 198.51.100.7",
		}
		if d := cmp.Diff(want, got); d != "" || err == nil {
			t.Errorf("%v (-want +got):\n%s", err, d)
		}
	})
}

// A single packet is sent over each family, and the gateway reads it.
func TestSingle(t *testing.T) {
	for _, suite := range []seal.Suite{seal.Hybrid, seal.X25519} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			l.knock.Profile.Suite = suite
			l.knock.Profile.Gateway.Bundle = nil
			n := uint64(100)
			k := Single{Knock: l.knock, Prover: single{l.prover}, Counter: func() (uint64, error) { n++; return n, nil }}
			sent, bundle, err := l.client().SendSingle(t.Context(), k)
			want := []Sent{{netip.MustParseAddrPort("[2001:db8::1]:41641"), source(v6)}, {netip.MustParseAddrPort("192.0.2.1:41641"), source(v4)}}
			if d := cmp.Diff(want, sent, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); err != nil || d != "" || bundle == nil {
				t.Fatalf("%v, %d bytes of a bundle (-want +got):\n%s", err, len(bundle), d)
			}
			synctest.Wait()
			time.Sleep(time.Second) // of the bubble: what is under way arrives
			knocks := l.gateway.Knocks()
			if len(knocks) != 2*singleTimes || !knocks[0].Single {
				t.Errorf("the gateway has seen %+v", knocks)
			}
		})
	}
}

// A bundle that is damaged, in a file that was edited, is fetched again.
func TestSingleWithADamagedBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.knock.Profile.Gateway.Bundle = []byte("damaged")
		k := Single{Knock: l.knock, Prover: single{l.prover}, Counter: func() (uint64, error) { return 100, nil }}
		sent, bundle, err := l.client().SendSingle(t.Context(), k)
		if err != nil || len(sent) != 2 || len(bundle) < 1000 {
			t.Errorf("%d sent, %d bytes of a bundle, %v; want 2, and the gateway's", len(sent), len(bundle), err)
		}
	})
}

type single struct{ *prover }

func (s single) ProveSingle(context.Context, []byte) (p [64]byte, err error) { return p, nil }

// A clock that is set back makes no grant longer: its end is not known any more, and there
// is another knock.
func TestHoldWithAClockThatIsSet(t *testing.T) {
	knocked := time.Date(2026, 11, 27, 14, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name  string
		looks []time.Duration // after the knock, whose grant is to be renewed after 20s
		want  HeldFor         // of the last look
	}{
		{"goes on", []time.Duration{2 * time.Second, 4 * time.Second}, HeldFirst},
		{"to the end", []time.Duration{16 * time.Second, 18 * time.Second}, HeldEnds},
		{"set back by an hour", []time.Duration{2 * time.Second, -time.Hour}, HeldEnds},
		{"set back by less than has passed", []time.Duration{16 * time.Second, 4 * time.Second}, HeldEnds},
		{"set back at once", []time.Duration{-time.Second}, HeldEnds},
		{"set forward, as in a sleep", []time.Duration{2 * time.Second, time.Hour}, HeldEnds},
	} {
		h := &holder{c: new(Client), looked: knocked, next: knocked.Add(20 * time.Second)}
		var got HeldFor
		for _, after := range tt.looks {
			got = h.due(knocked.Add(after))
		}
		if got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
