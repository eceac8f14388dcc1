//go:build linux

package conntrack

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nfnetlink"
	"github.com/doorward/doorward/internal/nstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tracking returns a network namespace that tracks its connections.
func tracking(t *testing.T) *nstest.NS {
	nstest.Need(t, "nft", "conntrack")
	n := nstest.New(t)
	n.Run("nft", "add table inet t; add chain inet t out { type filter hook output priority 0; }; add rule inet t out ct state new accept")
	return n
}

// enter adds entries, given as arguments of conntrack(8).
func enter(n *nstest.NS, entries ...string) {
	for _, e := range entries {
		n.Run("conntrack", append([]string{"-I", "--timeout", "100"}, strings.Fields(e)...)...)
	}
}

const (
	visitors  = "-p udp -s 192.0.2.2 -d 192.0.2.1 --orig-port-src 4000 --orig-port-dst 53 --status SEEN_REPLY"
	forged    = "-p udp -s 192.0.2.3 -d 192.0.2.1 --orig-port-src 4000 --orig-port-dst 53"
	servers   = "-p udp -s 2001:db8::1 -d 2001:db8::2 --orig-port-src 53 --orig-port-dst 4000 --status SEEN_REPLY,ASSURED"
	published = "-p tcp -s 192.0.2.2 -d 192.0.2.1 --orig-port-src 4000 --orig-port-dst 8080 --state ESTABLISHED --dst-nat 198.51.100.2:80 --status ASSURED,SEEN_REPLY"
	closing   = "-p tcp -s 192.0.2.2 -d 192.0.2.1 --orig-port-src 4001 --orig-port-dst 22 --state TIME_WAIT"
)

// list returns the entries that match f, and how many entries the kernel sent.
func list(n *nstest.NS, f Filter) (found []Entry, sent int) {
	n.Do(func() error {
		c, err := Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.List(f, func(e Entry) { found = append(found, e) }); err != nil {
			return err
		}
		data, err := f.attributes()
		if err != nil {
			return err
		}
		return c.nl.Ask(message(msgGet, netlink.Dump, f.Family, data), func(netlink.Message) error { sent++; return nil })
	})
	slices.SortFunc(found, func(a, b Entry) int { return a.Original.From.Compare(b.Original.From) })
	return found, sent
}

func ends(from, to string) Tuple {
	return Tuple{netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)}
}

func TestEntriesOfTheKernel(t *testing.T) {
	n := tracking(t)
	enter(n, visitors, forged, servers, published, closing)
	const confirmed, translated = 1 << 3, 1<<7 | 1<<8 // translated: IPS_SRC_NAT_DONE and IPS_DST_NAT_DONE
	dns := Entry{Proto: unix.IPPROTO_UDP, Status: confirmed | SeenReply,
		Original: ends("192.0.2.2:4000", "192.0.2.1:53"), Reply: ends("192.0.2.1:53", "192.0.2.2:4000")}
	unanswered := Entry{Proto: unix.IPPROTO_UDP, Status: confirmed,
		Original: ends("192.0.2.3:4000", "192.0.2.1:53"), Reply: ends("192.0.2.1:53", "192.0.2.3:4000")}
	reversed := Entry{Proto: unix.IPPROTO_UDP, Status: confirmed | SeenReply | Assured,
		Original: ends("[2001:db8::1]:53", "[2001:db8::2]:4000"), Reply: ends("[2001:db8::2]:4000", "[2001:db8::1]:53")}
	// conntrack(8) makes TCP entries as if they had been picked up in mid-stream.
	web := Entry{Proto: unix.IPPROTO_TCP, State: Established, PickedUp: true, Status: confirmed | SeenReply | Assured | DstNAT | translated,
		Original: ends("192.0.2.2:4000", "192.0.2.1:8080"), Reply: ends("198.51.100.2:80", "192.0.2.2:4000")}
	ssh := Entry{Proto: unix.IPPROTO_TCP, State: 7, PickedUp: true, Status: confirmed,
		Original: ends("192.0.2.2:4001", "192.0.2.1:22"), Reply: ends("192.0.2.1:22", "192.0.2.2:4001")}
	four, six := uint8(unix.AF_INET), uint8(unix.AF_INET6)
	const udp, tcp = unix.IPPROTO_UDP, unix.IPPROTO_TCP
	for _, test := range []struct {
		f    Filter
		want []Entry
	}{
		{Filter{Family: four, Proto: udp}, []Entry{dns, unanswered}},
		{Filter{Family: four, Proto: udp, Status: SeenReply}, []Entry{dns}},
		{Filter{Family: four, Proto: udp, ToPort: 53}, []Entry{dns, unanswered}},
		{Filter{Family: four, Proto: udp, ToPort: 54}, nil},
		{Filter{Family: four, Proto: udp, FromPort: 53}, nil},
		{Filter{Family: four, Proto: udp, FromPort: 4000, ToPort: 53, Status: SeenReply}, []Entry{dns}},
		{Filter{Family: four, Proto: udp, ReplyToPort: 53}, nil},
		{Filter{Family: six, Proto: udp, ReplyToPort: 53, Status: SeenReply}, []Entry{reversed}},
		{Filter{Family: six, Proto: udp, FromPort: 53}, []Entry{reversed}},
		{Filter{Family: four, Proto: tcp, Status: DstNAT | Assured}, []Entry{web}},
		{Filter{Family: four, Proto: tcp, ToPort: 22}, []Entry{ssh}},
		{Filter{Family: six, Proto: tcp}, nil},
	} {
		got, sent := list(n, test.f)
		if d := cmp.Diff(test.want, got, cmpopts.IgnoreUnexported(Entry{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
			t.Errorf("%+v (-want +got):\n%s", test.f, d)
		}
		if sent != len(test.want) {
			t.Errorf("%+v: the kernel sent %d entries, want %d", test.f, sent, len(test.want))
		}
	}
}

// The kernel sends only what matches, however many entries there are.
func TestWhatMatchesIsSent(t *testing.T) {
	n := tracking(t)
	n.Do(func() error {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 7})
		if err != nil {
			return err
		}
		defer c.Close()
		for i := range 10_000 {
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(i >> 8), byte(i)}), 9)
			if _, err := c.WriteToUDPAddrPort([]byte("x"), to); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				return err
			}
		}
		return nil
	})
	enter(n, visitors)
	if all, sent := list(n, Filter{Family: unix.AF_INET, Proto: unix.IPPROTO_UDP}); len(all) < 10_000 || sent != len(all) {
		t.Fatalf("%d entries match, and %d were sent, want at least 10,000, all of them", len(all), sent)
	}
	for _, f := range []Filter{{ToPort: 53}, {ReplyToPort: 4000}, {Status: SeenReply}} {
		f.Family, f.Proto = unix.AF_INET, unix.IPPROTO_UDP
		if got, sent := list(n, f); len(got) != 1 || sent != 1 {
			t.Errorf("%+v: %d entries match of %d that were sent, want 1 of 1", f, len(got), sent)
		}
	}
}

// A connection that was picked up in mid-stream, in either direction, is distinguished
// from one whose beginning was tracked, and a connection that the fence labelled from
// one that it did not.
func TestHowAConnectionWasSeenToBegin(t *testing.T) {
	n := tracking(t)
	n.Run("nft", fmt.Sprintf("add rule inet t out tcp dport 23 ct label set %d", 127))
	var conns []net.Conn
	n.Do(func() error {
		for _, port := range []int{22, 23} {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				return err
			}
			defer l.Close()
			out, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			in, err := l.Accept()
			if err != nil {
				return err
			}
			conns = append(conns, out, in)
		}
		return nil
	})
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	got := func(f Filter) string {
		f.Family, f.Proto = unix.AF_INET, unix.IPPROTO_TCP
		found, _ := list(n, f)
		if len(found) != 1 {
			return fmt.Sprintf("%d entries", len(found))
		}
		return fmt.Sprintf("state %d, picked up %v, let in %v", found[0].State, found[0].PickedUp, found[0].LetIn)
	}
	if got, want := got(Filter{ToPort: 22}), "state 3, picked up false, let in false"; got != want {
		t.Errorf("tracked from its beginning: %s, want %s", got, want)
	}
	if got, want := got(Filter{ToPort: 23}), "state 3, picked up false, let in true"; got != want {
		t.Errorf("labelled: %s, want %s", got, want)
	}
	for i, f := range []Filter{{ToPort: 22}, {FromPort: 22}} {
		n.Run("conntrack", "-F")
		if _, err := conns[i].Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if got, want := got(f), "state 3, picked up true, let in false"; got != want {
			t.Errorf("forgotten, and picked up from %s: %s, want %s", conns[i].LocalAddr(), got, want)
		}
	}
}

func TestDelete(t *testing.T) {
	n := tracking(t)
	enter(n, visitors, forged, servers, published)
	for _, f := range []Filter{
		{Family: unix.AF_INET, Proto: unix.IPPROTO_UDP, Status: SeenReply},
		{Family: unix.AF_INET6, Proto: unix.IPPROTO_UDP},
		{Family: unix.AF_INET, Proto: unix.IPPROTO_TCP},
	} {
		found, _ := list(n, f)
		if len(found) != 1 {
			t.Fatalf("%+v: %v, want one", f, found)
		}
		n.Do(func() error {
			c, err := Dial()
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.Delete(found[0]); err != nil {
				return err
			}
			if err := c.Delete(found[0]); !errors.Is(err, unix.ENOENT) || errors.Is(err, nfnetlink.ErrBroken) {
				t.Errorf("deleted twice: %v, want ENOENT", err)
			}
			return nil
		})
		if left, _ := list(n, f); len(left) != 0 {
			t.Errorf("%+v: %v is left", f, left)
		}
	}
}

func TestVisible(t *testing.T) {
	nstest.New(t).Do(func() error {
		c, err := Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Visible()
	})
}

// The answer to an earlier request is skipped. A message that cannot be read is an
// error, but the answer is read to its end.
func TestStrangeAnswers(t *testing.T) {
	entry := netlink.Message{Data: []byte{2, 0, 0, 0}}
	for name, test := range map[string]struct {
		answers [][]netlink.Message
		entries int
		want    string
	}{
		"left over":     {[][]netlink.Message{{{Header: netlink.Header{Sequence: 7}, Data: entry.Data}}, {entry}}, 1, ""},
		"empty":         {[][]netlink.Message{nil}, 0, ""},
		"cut":           {[][]netlink.Message{{{Data: []byte{2}}, entry}}, 1, "list the entries of connection tracking: netfilter sent a message of 1 bytes"},
		"no attributes": {[][]netlink.Message{{{Data: []byte{2, 0, 0, 0, 1}}}}, 0, "list the entries of connection tracking: decode netfilter's answer: "},
	} {
		s := &script{answers: test.answers}
		entries := 0
		err := Over(&nfnetlink.Conn{Conn: netlink.NewConn(s, 1)}).List(Filter{}, func(Entry) { entries++ })
		if got := fmt.Sprint(err); entries != test.entries || !strings.HasPrefix(got, test.want) || test.want == "" && err != nil {
			t.Errorf("%s: %d entries, %v, want %d, %q", name, entries, err, test.entries, test.want)
		}
		if len(s.answers) != 0 {
			t.Errorf("%s: %d answers are left", name, len(s.answers))
		}
	}
	if err := Over(&nfnetlink.Conn{Conn: netlink.NewConn(&script{}, 1)}).List(Filter{}, nil); !errors.Is(err, nfnetlink.ErrBroken) {
		t.Errorf("no answer: %v, want ErrBroken", err)
	}
}

// script is a fake kernel that gives these answers, in turn.
type script struct {
	answers [][]netlink.Message
	asked   netlink.Message
}

func (s *script) Send(m netlink.Message) error { s.asked = m; return nil }

func (s *script) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		if len(s.answers) == 0 {
			yield(netlink.Message{}, os.ErrDeadlineExceeded)
			return
		}
		answer := s.answers[0]
		s.answers = s.answers[1:]
		for _, m := range answer {
			m.Header.Flags = netlink.Multi
			if m.Header.Sequence == 0 {
				m.Header.Sequence = s.asked.Header.Sequence
			}
			if !yield(m, nil) {
				return
			}
		}
		yield(netlink.Message{Header: netlink.Header{Type: netlink.Done, Flags: netlink.Multi}, Data: make([]byte, 4)}, nil)
	}
}

// The other methods of netlink.Socket.

func (s *script) Close() error                         { return nil }
func (s *script) SendMessages([]netlink.Message) error { return unix.EOPNOTSUPP }
func (s *script) Receive() ([]netlink.Message, error)  { return nil, unix.EOPNOTSUPP }
func (s *script) SetDeadline(time.Time) error          { return nil }
func (s *script) SetReadDeadline(time.Time) error      { return nil }
func (s *script) SetWriteDeadline(time.Time) error     { return nil }
