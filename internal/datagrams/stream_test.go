//go:build linux

package datagrams

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/listen"
)

// wire is the gateway's end of a connection in memory, and what it has sent.
type wire struct {
	net.Conn
	mu   sync.Mutex
	sent bytes.Buffer
	full bool // the visitor takes nothing
}

func (w *wire) send(b []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.full {
		w.sent.Write(b)
	}
	return !w.full
}

// got are the datagrams that were sent since it was last asked.
func (w *wire) got(t testing.TB) (all []string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.sent.Len() > 0 {
		text, err := unframed(&w.sent)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	return all
}

func framed(text string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(text)))) + text
}

func unframed(r io.Reader) (string, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return "", err
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, b)
	return string(b), err
}

// hall is a Listener of streams at a port, in a bubble with a clock of its own.
type hall struct {
	*Listener
	t    *testing.T
	by   *words
	told *record
}

const hallPort = 59000

// inHall runs a test in a bubble of its own.
func inHall(t *testing.T, test func(h *hall)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &hall{t: t, by: &words{}, told: newRecord()}
		h.Listener = New(slog.New(slog.DiscardHandler), h.told.add)
		h.put(h.by)
		test(h)
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		if n := h.there(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
}

func (h *hall) put(by knock.Opener) {
	h.t.Helper()
	if err := h.Set(map[knock.Place]knock.Opener{{Medium: knock.Streams, Port: hallPort}: by}); err != nil {
		h.t.Fatal(err)
	}
}

// connect is a visitor's connection: their end, and the gateway's.
func (h *hall) connect(from string) (net.Conn, *wire) {
	visitor, gateway := net.Pipe()
	h.t.Cleanup(func() { visitor.Close() })
	w := &wire{Conn: gateway}
	h.accept(hallPort, w, knock.Path{From: netip.MustParseAddrPort(from), To: netip.MustParseAddrPort("192.0.2.1:59000")})
	return visitor, w
}

func (h *hall) there() int {
	h.streams.mu.Lock()
	defer h.streams.mu.Unlock()
	return len(h.streams.all)
}

func (h *hall) say(c net.Conn, texts ...string) {
	h.t.Helper()
	for _, text := range texts {
		if _, err := c.Write([]byte(text)); err != nil {
			h.t.Fatalf("say %q: %v", text, err)
		}
		synctest.Wait()
	}
}

// ended says how long a connection lasts from now.
func ended(c net.Conn) time.Duration {
	begun := time.Now()
	_, _ = io.Copy(io.Discard, c)
	return time.Since(begun)
}

// Datagrams over a connection are heard as proven, however they are cut, one after
// another; what Open, a glance and the gateway answer goes back on it.
func TestStreamsHearAndAnswer(t *testing.T) {
	whole := framed("knock:ok")
	for cut := range len(whole) {
		inHall(t, func(h *hall) {
			c, w := h.connect("192.0.2.2:4444")
			h.say(c, framed("ask:who"), whole[:cut]) // nothing, where cut is 0
			time.Sleep(strangerLasts - time.Second)
			h.say(c, whole[cut:], framed("knock:again"))
			all := h.told.heard()
			if d := cmp.Diff([]any{"knock:ok", "knock:again"}, said(all)); d != "" {
				h.t.Fatalf("cut after %d bytes, heard (-want +got):\n%s", cut, d)
			}
			want := knock.Heard{Source: netip.MustParseAddr(visitor4), Place: knock.Place{Medium: knock.Streams, Port: hallPort},
				Time: all[0].Time, Proven: true, Said: "knock:ok",
				Path: knock.Path{From: netip.MustParseAddrPort("192.0.2.2:4444"), To: netip.MustParseAddrPort("192.0.2.1:59000"), Stream: 1}}
			if all[0] != want || all[1].Path != want.Path {
				h.t.Errorf("heard %+v\nwant  %+v", all[0], want)
			}
			if err := h.Answer(all[0].Path, []byte("come in")); err != nil {
				h.t.Error(err)
			}
			if d := cmp.Diff([]string{"who", "ok", "again", "come in"}, w.got(h.t)); d != "" {
				h.t.Errorf("answers (-want +got):\n%s", d)
			}
			if got := h.Counts(); got != (Counts{Replied: 1}) {
				h.t.Errorf("counts %+v, want one reply", got)
			}
		})
	}
}

// Whatever is sent that is no knock is read to the same amount, gets no answer, and ends
// the connection at the same time, as if nothing had been sent.
func TestStreamsTellNothing(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		want       Counts
	}{
		{"nothing", "", Counts{}},
		{"half a length", "\x00", Counts{}},
		{"half a datagram", framed("knock")[:4], Counts{}},
		{"no datagram", "\x00\x00", Counts{Strange: 1}},
		{"too long a datagram", "\x10\x01", Counts{Strange: 1}},
		{"half of the longest", "\x10\x00" + strings.Repeat("x", 100), Counts{}},
		{"another protocol", "GET / HTTP/1.1\r\n\r\n", Counts{Strange: 1}},
		{"nothing of a knock", framed("what is this"), Counts{Foreign: 1}},
		{"a knock after that", framed("what is this") + framed("knock"), Counts{Foreign: 1}},
		{"as much as is read", strings.Repeat("x", mostRead), Counts{Strange: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inHall(t, func(h *hall) {
				c, w := h.connect("192.0.2.2:4444")
				h.say(c, tt.sent)
				if got := h.Counts(); got != tt.want {
					h.t.Errorf("counts %+v, want %+v", got, tt.want)
				}
				if got := ended(c); got != strangerLasts {
					h.t.Errorf("it lasts %v, want %v", got, strangerLasts)
				}
				if got := len(h.told.heard()); got != 0 || w.sent.Len() != 0 {
					h.t.Errorf("%d were heard, %d bytes sent; want none", got, w.sent.Len())
				}
			})
		})
	}
}

// Of what is sent without end so much is read and no more.
func TestStreamsReadNoMore(t *testing.T) {
	inHall(t, func(h *hall) {
		c, _ := h.connect("192.0.2.2:4444")
		begun := time.Now()
		n, err := c.Write(make([]byte, 2*mostRead))
		if n != mostRead || err == nil || time.Since(begun) != strangerLasts {
			h.t.Errorf("%d bytes were read within %v (%v), want %d within %v", n, time.Since(begun), err, mostRead, strangerLasts)
		}
	})
}

// A visitor may leave after any byte, and nothing is left of them; what was complete is
// heard.
func TestStreamsEndAfterAnyByte(t *testing.T) {
	whole := framed("knock:ok")
	for n := range len(whole) + 1 {
		inHall(t, func(h *hall) {
			c, _ := h.connect("192.0.2.2:4444")
			h.say(c, whole[:n])
			c.Close()
			synctest.Wait()
			want := 0
			if n == len(whole) {
				want = 1
			}
			if got := len(h.told.heard()); got != want || h.there() != 0 || len(h.streams.of) != 0 {
				h.t.Errorf("after %d bytes %d were heard, %d connections of %d prefixes left; want %d, none of none",
					n, got, h.there(), len(h.streams.of), want)
			}
		})
	}
}

// Who was heard may wait longer, since what they asked for may take long; the answer
// goes nowhere when they have gone.
func TestStreamsOfWhoWasHeardLastLonger(t *testing.T) {
	inHall(t, func(h *hall) {
		c, w := h.connect("192.0.2.2:4444")
		time.Sleep(time.Second)
		h.say(c, framed("knock nothing")) // which Open makes nothing of
		asking, a := h.connect("192.0.2.3:4444")
		h.say(asking, framed("knock nothing:prove it")) // which it answers
		time.Sleep(strangerLasts - 2*time.Second)
		h.say(c, framed("knock"))
		path := h.told.heard()[0].Path
		time.Sleep(heardLasts - time.Second)
		if err := h.Answer(path, []byte("late")); err != nil || !slices.Equal(w.got(h.t), []string{"late"}) {
			h.t.Errorf("a late answer: %v, or it was not sent", err)
		}
		if got := ended(asking); got != 0 || !slices.Equal(a.got(h.t), []string{"prove it"}) {
			h.t.Errorf("who was only answered lasts %v more, want until %v after the answer", got, heardLasts)
		}
		if got := ended(c); got != time.Second {
			h.t.Errorf("it lasts %v more, want %v", got, time.Second)
		}
		synctest.Wait()
		if err := h.Answer(path, []byte("too late")); err != nil || w.sent.Len() != 0 {
			h.t.Errorf("an answer when it has ended: %v, %d bytes sent; want nil and none", err, w.sent.Len())
		}
		want := fmt.Sprintf("an answer of %d bytes: allowed are %d", LongestFrame+1, LongestFrame)
		if err := h.Answer(path, make([]byte, LongestFrame+1)); err == nil || err.Error() != want {
			h.t.Errorf("a long answer: %v, want %s", err, want)
		}
	})
}

// One who takes no answer is given up, and an answer that is longer than what it answers
// is not sent.
func TestStreamsAnswersAreBounded(t *testing.T) {
	inHall(t, func(h *hall) {
		c, w := h.connect("192.0.2.2:4444")
		w.full = true
		h.say(c, framed("knock:ok"))
		if got := ended(c); got != 0 {
			h.t.Errorf("it lasts %v, though it takes no answer", got)
		}
		h.put(&words{fixed: []byte("more than"), more: 100})
		for _, text := range []string{"knock", "ask:who"} {
			c, w = h.connect("192.0.2.2:4444")
			h.say(c, framed(text))
			if w.sent.Len() != 0 {
				h.t.Errorf("%q is answered with %q", text, w.got(h.t))
			}
		}
		if got := h.Counts().Withheld; got != 2 {
			h.t.Errorf("%d answers were withheld, want 2", got)
		}
	})
}

// However many connect, so many connections stay and no more. Those of one prefix push
// out their own; those of others push out no one who was heard; and a visitor who comes
// last is heard.
func TestTooManyStreams(t *testing.T) {
	known := netip.MustParseAddrPort("203.0.113.7:4444")
	for _, tt := range []struct {
		name string
		from []netip.Addr
		stay int // at most, of them
	}{
		{"of one prefix", prefixes(1), maxOfPrefix},
		{"of three prefixes", prefixes(3), 3 * maxOfPrefix},
		{"of many prefixes", prefixes(200), maxStreams - 1},
		{"of the prefix of who was heard", []netip.Addr{known.Addr()}, maxOfPrefix - 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inHall(t, func(h *hall) {
				h.streams.most = maxStreams
				first, w := h.connect(known.String())
				h.say(first, framed("knock"))
				const each = 3000
				for i := range each {
					h.connect(netip.AddrPortFrom(tt.from[i%len(tt.from)], uint16(i+1)).String())
					if n := h.there(); n > tt.stay+1 {
						h.t.Fatalf("%d connections after %d, want %d at most", n, i+1, tt.stay+1)
					}
				}
				late, _ := h.connect("192.0.2.7:4444")
				h.say(late, framed("knock late"))
				if err := h.Answer(h.told.heard()[0].Path, []byte("still there")); err != nil || !slices.Equal(w.got(h.t), []string{"still there"}) {
					h.t.Errorf("who was heard first got no answer (%v)", err)
				}
				if got := said(h.told.heard()); !slices.Equal(got, []any{"knock", "knock late"}) {
					h.t.Errorf("heard %v, want both knocks", got)
				}
				if got, least := h.Counts().Crowded, uint64(each-tt.stay); got < least {
					h.t.Errorf("%d had to go, want %d at least", got, least)
				}
			})
		})
	}
}

// Whoever has a profile can have what they say over a connection answered, and so hold it
// for a minute: from however many prefixes they do, others can still connect, and be heard.
func TestStreamsLeaveRoomForNewcomers(t *testing.T) {
	all := prefixes(maxStreams + 2)
	for _, tt := range []struct {
		name     string
		from     []netip.Addr
		newcomer netip.Addr
	}{
		{"of one prefix, to a neighbour", all[:1], all[0].Next()},
		{"of as many as there is room for", all[:maxStreams], all[maxStreams+1]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inHall(t, func(h *hall) {
				h.streams.most = maxStreams
				for i := range maxStreams {
					c, _ := h.connect(netip.AddrPortFrom(tt.from[i%len(tt.from)], uint16(i+1)).String())
					h.say(c, framed("knock nothing:prove it"))
				}
				for i := range 20 {
					late, w := h.connect(netip.AddrPortFrom(tt.newcomer, uint16(i+1)).String())
					h.say(late, framed("knock:yes"))
					if got := w.got(h.t); !slices.Equal(got, []string{"yes"}) {
						h.t.Fatalf("newcomer %d is answered %q, want \"yes\"", i, got)
					}
					late.Close()
					synctest.Wait()
				}
			})
		})
	}
}

// A port where nothing is heard ends its connections, and what waits is not opened; one
// that gets another opener keeps them.
func TestStreamsOfAnotherRule(t *testing.T) {
	inHall(t, func(h *hall) {
		c, w := h.connect("192.0.2.2:4444")
		h.say(c, framed("knock:first"))
		other := &words{fixed: []byte("then")}
		h.put(other)
		h.say(c, framed("knock"))
		if got := w.got(h.t); !slices.Equal(got, []string{"first", "then"}) {
			h.t.Errorf("answers %q, want one of each rule", got)
		}
		other.hold = make(chan struct{})
		h.say(c, framed("knock held"))
		h.put(nil)
		if got := ended(c); got != 0 || h.there() != 0 {
			h.t.Errorf("it lasts %v at a port that is not heard", got)
		}
		close(other.hold)
		late, _ := h.connect("192.0.2.2:4444")
		if got := ended(late); got != 0 {
			h.t.Errorf("a connection to a port that is not heard lasts %v", got)
		}
		synctest.Wait()
		if got := said(h.told.heard()); !slices.Equal(got, []any{"knock:first", "knock"}) {
			h.t.Errorf("heard %v, want what came while it was heard", got)
		}
	})
}

// Over a network, from either family and to any address of the machine.
func TestStreamsOverTheNetwork(t *testing.T) {
	s := newScene(t)
	s.gateway.Run("ip", "addr", "add", "fe80::1/64", "dev", s.gatewayIf, "nodad")
	s.visitor.Run("ip", "addr", "add", "fe80::2/64", "dev", s.visitorIf, "nodad")
	at := knock.Place{Medium: knock.Streams, Port: hallPort}
	touches := listen.New(slog.New(slog.DiscardHandler), nil, s.record.add)
	touches.HandOver(s.listener.Accept)
	t.Cleanup(func() {
		if err := touches.Close(); err != nil {
			t.Error(err)
		}
	})
	s.gateway.Do(func() error { return touches.Set(listen.Ports{Streams: []uint16{hallPort}}) })
	if err := s.listener.Set(map[knock.Place]knock.Opener{at: &words{}}); err != nil {
		t.Fatal(err)
	}
	long := "knock:" + strings.Repeat("x", LongestFrame-len("knock:"))
	for i, tt := range []struct{ from, to string }{
		{visitor4, gateway4}, {visitor4, second4}, {visitor6, second6}, {"fe80::2%" + s.visitorIf, "fe80::1%" + s.visitorIf},
	} {
		to := netip.AddrPortFrom(netip.MustParseAddr(tt.to), hallPort)
		c := s.visitor.Dial("tcp", to.String())
		if _, err := io.WriteString(c, framed(long)); err != nil {
			t.Fatal(err)
		}
		got := s.record.await(t, i+1)[i]
		if got.Source != netip.MustParseAddr(tt.from).WithZone("") || got.Place != at || !got.Proven ||
			got.Path.From.Port() != uint16(c.LocalAddr().(*net.TCPAddr).Port) ||
			got.Path.To.Addr().WithZone("") != to.Addr().WithZone("") || got.Path.To.Port() != hallPort {
			t.Errorf("heard %+v, want it from %v to %v", got, c.LocalAddr(), to)
		}
		if err := s.listener.Answer(got.Path, []byte("come in")); err != nil {
			t.Error(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(patience))
		for _, want := range []string{long[len("knock:"):], "come in"} {
			if text, err := unframed(c); text != want {
				t.Errorf("%d bytes of an answer (%v), want %d", len(text), err, len(want))
			}
		}
		c.Close()
	}
	eventually(t, "all have gone", func() bool {
		s.listener.streams.mu.Lock()
		defer s.listener.streams.mu.Unlock()
		return len(s.listener.streams.all) == 0
	})
	// Where nothing is heard the connection is reset, and is no touch.
	if err := s.listener.Set(nil); err != nil {
		t.Fatal(err)
	}
	s.visitor.Do(func() error {
		c, err := net.DialTimeout("tcp", gateway4+":59000", patience)
		if err == nil {
			_ = c.SetReadDeadline(time.Now().Add(patience))
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, unix.ECONNRESET) { // connect(2) may see it already
			t.Errorf("a connection to a port that is not heard: %v, want %v", err, unix.ECONNRESET)
		}
		return nil
	})
	if got := len(s.record.heard()); got != 4 {
		t.Errorf("heard %d, want 4", got)
	}
}
