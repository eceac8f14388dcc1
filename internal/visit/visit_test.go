package visit

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is a fake network, for a bubble of testing/synctest: what answers, and
// what was dialled in which order.
type network struct {
	rtt     time.Duration
	answers map[string]func() error // by address; one that is missing is silent

	mu   sync.Mutex
	seen []string // guarded by mu
}

func accepts() error { return nil }
func refuses() error { return syscall.ECONNREFUSED }

func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.seen = append(n.seen, addr)
	n.mu.Unlock()
	answer := n.answers[addr]
	if answer == nil {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	}
	select {
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	case <-time.After(n.rtt):
	}
	if err := answer(); err != nil {
		return nil, &net.OpError{Op: "dial", Err: err}
	}
	c, other := net.Pipe()
	other.Close()
	return c, nil
}

// after returns an answer that is f's once d has passed, and before's until then.
func after(d time.Duration, before, f func() error) func() error {
	start := time.Now()
	return func() error {
		if time.Since(start) >= d {
			return f()
		}
		return before()
	}
}

var (
	gate4  = netip.MustParseAddr("192.0.2.2")
	other4 = netip.MustParseAddr("192.0.2.3")
	gate6  = netip.MustParseAddr("2001:db8::2")
)

func TestResolve(t *testing.T) {
	names := map[string][]netip.Addr{
		"dual":   {gate6, gate4, other4},
		"four":   {netip.MustParseAddr("::ffff:192.0.2.2")},
		"six":    {gate6},
		"broken": nil,
	}
	errs := map[string]*net.DNSError{
		"silent": {Err: "i/o timeout", Name: "silent", Server: "192.0.2.53:53", IsTimeout: true},
		"far":    {Err: "dial udp 192.0.2.53:53: connect: network is unreachable", Name: "far", Server: "192.0.2.53:53"},
	}
	v := &Visitor{Lookup: func(_ context.Context, network, host string) ([]netip.Addr, error) {
		if err := errs[host]; err != nil {
			return nil, err
		}
		a, ok := names[host]
		if !ok {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return a, nil
	}}
	tests := []struct {
		host   string
		family Family
		want   [][]netip.Addr
		err    string
	}{
		{host: "dual", want: [][]netip.Addr{{gate6}, {gate4, other4}}},
		{host: "dual", family: IPv4, want: [][]netip.Addr{{gate4, other4}}},
		{host: "dual", family: IPv6, want: [][]netip.Addr{{gate6}}},
		{host: "four", want: [][]netip.Addr{{gate4}}},
		{host: "four", family: IPv6, err: `"four" has no IPv6 address`},
		{host: "six", family: IPv4, err: `"six" has no IPv4 address`},
		{host: "broken", err: `"broken" has no IP address`},
		{host: "192.0.2.2", want: [][]netip.Addr{{gate4}}},
		{host: "[2001:db8::2]", want: [][]netip.Addr{{gate6}}},
		{host: "2001:db8::2", family: IPv4, err: `"2001:db8::2" has no IPv4 address`},
		{host: "nowhere", err: `host "nowhere" is not known`},
		{host: "silent", err: `look up host "silent": no name server has answered`},
		{host: "far", err: `look up host "far": dial udp 192.0.2.53:53: connect: network is unreachable`},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %s", tt.host, tt.family), func(t *testing.T) {
			got, err := v.Resolve(t.Context(), tt.host, tt.family)
			if msg := errText(err); msg != tt.err {
				t.Errorf("error %q, want %q", msg, tt.err)
			}
			if d := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestOnItself(t *testing.T) {
	v := &Visitor{Interfaces: func() ([]net.Addr, error) {
		mask := net.CIDRMask(24, 32)
		return []net.Addr{&net.IPNet{IP: net.IPv4(192, 0, 2, 2), Mask: mask},
			&net.IPNet{IP: net.ParseIP("2001:db8::2"), Mask: net.CIDRMask(64, 128)}}, nil
	}}
	loop := netip.MustParseAddr("127.0.0.7")
	for _, tt := range []struct {
		families [][]netip.Addr
		want     bool
	}{
		{[][]netip.Addr{{gate4}}, true},
		{[][]netip.Addr{{gate6.WithZone("eth0")}, {gate4}}, true},
		{[][]netip.Addr{{loop}}, true},
		{[][]netip.Addr{{other4}}, false},
		{[][]netip.Addr{{gate6}, {gate4, other4}}, false},
	} {
		if got := v.OnItself(tt.families); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.families, got, tt.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestKnock(t *testing.T) {
	const a, b = "192.0.2.2:59000", "192.0.2.2:59002"
	unreachable := func() error { return syscall.ENETUNREACH }
	resets := func() error { return syscall.ECONNRESET }
	tests := []struct {
		name    string
		addrs   []netip.Addr
		answers map[string]func() error
		seen    string // in this order
		err     string
	}{
		{
			name: "complete", addrs: []netip.Addr{gate4, other4},
			answers: map[string]func() error{a: accepts, b: accepts},
			seen:    a + " " + b,
		},
		{
			name: "refused", addrs: []netip.Addr{gate4},
			answers: map[string]func() error{a: refuses, b: accepts},
			seen:    a,
			err:     "59000/tcp on 192.0.2.2 refuses connections",
		},
		{
			name: "made and reset at once", addrs: []netip.Addr{gate4},
			answers: map[string]func() error{a: resets, b: accepts},
			seen:    a + " " + b,
		},
		{
			name: "silent after the first", addrs: []netip.Addr{gate4, other4},
			answers: map[string]func() error{a: accepts},
			seen:    a + " " + b,
			err:     "59002/tcp on 192.0.2.2 did not answer within 3s, after 59000 had been touched",
		},
		{
			name: "second address", addrs: []netip.Addr{other4, gate4},
			answers: map[string]func() error{a: accepts, b: accepts},
			seen:    "192.0.2.3:59000 " + a + " " + b,
		},
		{
			name: "no way there", addrs: []netip.Addr{gate6},
			answers: map[string]func() error{"[2001:db8::2]:59000": unreachable},
			seen:    "[2001:db8::2]:59000",
			err:     "59000/tcp on 2001:db8::2 cannot be reached: network is unreachable",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{rtt: time.Millisecond, answers: tt.answers}
				v := &Visitor{Dial: n.dial}
				at := v.Knock(t.Context(), tt.addrs,
					Knock{Touch: []uint16{59000, 59002}, Each: 3 * time.Second})
				if got := errText(at.Err); got != tt.err {
					t.Errorf("error %q, want %q", got, tt.err)
				}
				if got := strings.Join(n.seen, " "); got != tt.seen {
					t.Errorf("dialled %q, want %q", got, tt.seen)
				}
			})
		})
	}
}

func TestKnockPausesBetweenTouches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{answers: map[string]func() error{
			"192.0.2.2:1": accepts, "192.0.2.2:2": accepts, "192.0.2.2:3": accepts}}
		start := time.Now()
		at := (&Visitor{Dial: n.dial}).Knock(t.Context(), []netip.Addr{gate4},
			Knock{Touch: []uint16{1, 2, 3}, Delay: time.Second, Each: time.Second})
		if at.Err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("took %v, error %v; want 2s and none", time.Since(start), at.Err)
		}
	})
}

func TestKnockEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		n := &network{answers: map[string]func() error{"192.0.2.2:1": accepts}}
		at := (&Visitor{Dial: n.dial}).Knock(ctx, []netip.Addr{gate4},
			Knock{Touch: []uint16{1, 2}, Delay: time.Hour, Each: time.Second})
		if at.Err != context.Canceled || len(at.Touches) != 1 {
			t.Errorf("error %v after %d touches; want %v after 1", at.Err, len(at.Touches), context.Canceled)
		}
	})
}

func TestWait(t *testing.T) {
	const p4, p6 = "192.0.2.2:22", "[2001:db8::2]:22"
	tests := []struct {
		name    string
		rtt     time.Duration
		answers func() map[string]func() error // made inside the bubble
		keep    bool
		v4, v6  string // "open", or why it is shut; "" if it does not matter
		within  time.Duration
	}{
		{
			name: "both at once", rtt: time.Millisecond,
			answers: func() map[string]func() error {
				return map[string]func() error{p4: accepts, p6: accepts}
			},
			v4: "open", v6: "open", within: 2 * time.Millisecond,
		},
		{
			name: "a round trip longer than the first try", rtt: 300 * time.Millisecond,
			answers: func() map[string]func() error {
				return map[string]func() error{p4: accepts, p6: accepts}
			},
			v4: "open", v6: "open", within: 301 * time.Millisecond,
		},
		{
			name: "one family is never open", rtt: time.Millisecond,
			answers: func() map[string]func() error { return map[string]func() error{p4: accepts} },
			v4:      "open", v6: "does not answer", within: grace + 10*time.Millisecond,
		},
		{
			name: "the service takes its time", rtt: time.Millisecond,
			answers: func() map[string]func() error {
				late := after(2*time.Second, refuses, accepts)
				return map[string]func() error{p4: late, p6: late}
			},
			v4: "open", v6: "open", within: 2*time.Second + longRest + 2*time.Millisecond,
		},
		{
			name: "never", rtt: time.Millisecond,
			answers: func() map[string]func() error { return map[string]func() error{p6: refuses} },
			v4:      "does not answer", v6: "refuses connections", within: 10 * time.Second,
		},
		{
			name: "it ends with the first, which is kept", rtt: time.Millisecond, keep: true,
			answers: func() map[string]func() error { return map[string]func() error{p4: accepts} },
			v4:      "open", within: 2 * time.Millisecond,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{rtt: tt.rtt, answers: tt.answers()}
				touched := []Touch{{Port: 59000, Took: tt.rtt}}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				start := time.Now()
				got := (&Visitor{Dial: n.dial}).Wait(ctx, []Attempt{
					{Address: gate4, Touches: touched}, {Address: gate6, Touches: touched}}, 22, tt.keep)
				if d := time.Since(start); d > tt.within {
					t.Errorf("took %v, want at most %v", d, tt.within)
				}
				for i, want := range []string{tt.v4, tt.v6} {
					if s := state(got[i]); want != "" && s != want {
						t.Errorf("%s is %q, want %q", got[i].Address, s, want)
					}
				}
				if held := got[0].Conn != nil; held != tt.keep {
					t.Errorf("connection held: %v, want %v", held, tt.keep)
				}
				if got[0].Conn != nil {
					got[0].Conn.Close()
				}
			})
		})
	}
}

func state(o Opened) string {
	if o.Err == nil {
		return "open"
	}
	return o.WhyShut()
}

// TestWaitIsSoonAfterTheGrant: a silent port that opens at some moment is found
// within the length of a try, not at the kernel's next retransmission.
func TestWaitIsSoonAfterTheGrant(t *testing.T) {
	for _, d := range []time.Duration{time.Millisecond, 30 * time.Millisecond, 400 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			n := &network{answers: map[string]func() error{"192.0.2.2:22": accepts}}
			dark := &network{}
			v := &Visitor{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				// What is sent before the grant is lost for good.
				if time.Since(start) < d {
					return dark.dial(ctx, network, addr)
				}
				return n.dial(ctx, network, addr)
			}}
			got := v.Wait(t.Context(), []Attempt{{Address: gate4}}, 22, false)
			if late := time.Since(start) - d; got[0].Err != nil || late > max(firstTry, d) {
				t.Errorf("opened at %v and found %v later (%v)", d, late, got[0].Err)
			}
		})
	}
}

// TestASlowAnswerIsTaken: if the grant is for one connection only, the try that made it
// is the one that gets in, however long this machine takes to see that.
func TestASlowAnswerIsTaken(t *testing.T) {
	const slow = 500 * time.Millisecond
	for _, keep := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var tries atomic.Int32
			silent := &network{}
			v := &Visitor{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if tries.Add(1) > 1 {
					return silent.dial(ctx, network, addr)
				}
				select {
				case <-time.After(slow):
					c, _ := net.Pipe()
					return c, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			got := v.Wait(ctx, []Attempt{{Address: gate4}}, 22, keep)[0]
			if got.Err != nil || got.After != slow || (got.Conn != nil) != keep {
				t.Errorf("keep %v: after %v: %v, connection %v; want it open after %v", keep, got.After, got.Err, got.Conn, slow)
			}
		})
	}
}
