//go:build linux

package sealed

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
)

// What somebody has recorded of a knock opens nothing for anybody: packet by packet, from the
// same address and from another, altered, cut short, and after a restart.
func TestARecordingIsWorthNothing(t *testing.T) {
	s := newSite(t, "")
	s.start()
	first := s.begin(s.visitor, gate4, seal.X25519)
	if a := first.ask(web, s.alice); a.Status != seal.Opened {
		t.Fatalf("answer: %+v", a)
	}
	hello, request := first.sent[0], first.sent[1]

	again := s.dialled(s.visitor, "udp", gate4, seal.X25519) // another port of the same address
	again.send(request)
	b, err := again.read(time.Now().Add(soon))
	s.must(err)
	if e, a := first.v.Read(b); e != seal.Answered || a.Status != seal.Opened {
		t.Errorf("the request again is answered: %v %+v", e, a)
	}
	other := s.dialled(s.stranger, "udp", gate4, seal.X25519)
	other.send(request)
	other.silent("the request from another address")
	other.send(hello)
	b, err = other.read(time.Now().Add(soon))
	s.must(err)
	if e, _ := first.v.Read(b); e != seal.Nothing || len(b) > len(hello) {
		t.Errorf("the hello from another address: the visitor takes its answer of %d bytes for %v", len(b), e)
	}
	other.send(request)
	other.silent("the request after that hello")

	s.has("web", visitor4+" sealed alice") // on disk, and so in the log
	said := len(s.gate.Output())
	altered := s.dialled(s.visitor, "udp", gate4, seal.X25519)
	for _, d := range first.sent {
		for bit := range 8 * len(d) {
			flipped := bytes.Clone(d)
			flipped[bit/8] ^= 1 << (bit % 8)
			_, err := altered.conn.Write(flipped)
			s.must(err)
		}
		for n := range d {
			_, err := altered.conn.Write(d[:n])
			s.must(err)
		}
	}
	for b, err := altered.read(time.Now().Add(dark)); err == nil; b, err = altered.read(time.Now().Add(dark)) {
		if e, _ := altered.v.Read(b); e != seal.Nothing || len(b) != 64 { // the gateway is busy with hellos that are altered behind their tag
			t.Errorf("to what was altered or cut short, %d bytes came back: %v", len(b), e)
		}
	}

	s.has("web", visitor4+" sealed alice")
	if more := s.gate.Output()[said:]; more != "" {
		t.Errorf("of what was altered or cut short the log says:\n%s", more)
	}
	if d := s.status().Doors[0]; d.PenaltiesTotal != 0 {
		t.Errorf("it cost %d penalties", d.PenaltiesTotal)
	}
	if n := s.trail(audit.EventGranted, ""); n != 1 {
		t.Errorf("the trail has %d grants, want 1", n)
	}
	if n := s.trail(audit.EventRefused, ""); n != 0 {
		t.Errorf("the trail has %d refusals of what came from nobody", n)
	}
	s.refuses(s.stranger, gate4, "8080")

	if a := s.begin(s.visitor, gate4, seal.X25519).ask(seal.Request{Action: seal.Close, Door: "web"}, s.alice); a.Status != seal.Closed {
		t.Fatalf("closing: %+v", a)
	}
	for _, when := range []string{"after the visitor has closed", "after a restart"} {
		for _, d := range first.sent {
			again.send(d)
		}
		again.read(time.Now().Add(dark)) // of the hello, or of the request as it was answered
		again.read(time.Now().Add(dark))
		s.has("web")
		s.refuses(s.visitor, gate4, "8080")
		if n := s.trail(audit.EventGranted, ""); n != 1 {
			t.Errorf("%s, the trail has %d grants, want 1", when, n)
		}
		s.restart()
	}
}

// However many send the same request at once, it is one knock.
func TestOneRequestFromAThousandSockets(t *testing.T) {
	s := newSite(t, "")
	s.start()
	k := s.begin(s.visitor, gate4, seal.X25519)
	d := k.request(web, s.alice)
	var all []net.Conn
	s.must(s.visitor.Do(func() error {
		for range 1000 {
			c, err := net.Dial("udp", net.JoinHostPort(gate4, strconv.Itoa(port)))
			if err != nil {
				return err
			}
			all = append(all, c)
		}
		return nil
	}))
	for _, c := range all {
		defer c.Close()
		_, err := c.Write(d)
		s.must(err)
	}
	s.has("web", visitor4+" sealed alice")
	s.until("an answer to who asks again", func() error { // nobody gets more than a few a second
		k.send(d)
		b, err := k.read(time.Now().Add(dark))
		if e, a := k.v.Read(b); err != nil || e != seal.Answered || a.Status != seal.Opened {
			return fmt.Errorf("%d bytes, %v, %+v", len(b), e, a)
		}
		return nil
	})
	if n := s.trail(audit.EventGranted, ""); n != 1 {
		t.Errorf("the trail has %d grants, want 1", n)
	}
}

// single is a single packet of the key's.
func (s *site) single(k *key, at time.Time, source string) []byte {
	s.t.Helper()
	id := k.fingerprint()
	p, err := seal.NewSinglePacket(s.peer, seal.Hybrid, web, uint64(at.UnixMicro()), [8]byte(id[:]), parse(source))
	s.must(err)
	proof, _ := credential.SingleProof(k.proof(p.Message()))
	d, err := p.Datagram(proof)
	s.must(err)
	return d
}

// A single packet opens once, for where it says; and whatever comes back is nothing.
func TestASinglePacketOpensOnce(t *testing.T) {
	s := newSite(t, "one_way = true")
	s.start()
	now := time.Now()
	good := s.single(s.alice, now, visitor4)
	k, other := s.dialled(s.visitor, "udp", gate4, seal.Hybrid), s.dialled(s.stranger, "udp", gate4, seal.Hybrid)
	k.send(s.single(s.alice, now.Add(10*time.Minute), visitor4)) // and it spoils nothing
	k.send(s.single(newKey(t, "mallory"), now, visitor4))
	other.send(good)
	other.silent("a single packet from where it was not sent")
	s.refuses(s.visitor, gate4, "8080")
	s.refuses(s.stranger, gate4, "8080")
	k.send(good)
	k.silent("a single packet")
	s.admits(s.visitor, gate4, "8080")
	s.has("web", visitor4+" sealed alice")
	_, err := s.client().Close(t.Context(), closeAll("web"))
	s.must(err)
	again := func(when string) {
		t.Helper()
		k.send(good)
		other.send(good)
		other.silent(when + "a single packet that was used")
		s.has("web")
		s.refuses(s.visitor, gate4, "8080")
	}
	again("")
	s.must(s.gate.Stop())
	s.start()
	again("after a restart ")
	k.send(s.single(s.alice, time.Now(), visitor4))
	s.admits(s.visitor, gate4, "8080")
	_, err = s.client().Close(t.Context(), closeAll("web"))
	s.must(err)
	s.restart()
	again("after a crash ")
	// The disk may lack the latest: what could be one of those is refused for a while.
	k.send(s.single(s.alice, time.Now(), visitor4))
	s.refuses(s.visitor, gate4, "8080")
	k.send(s.single(s.alice, time.Now().Add(31*time.Second), visitor4))
	s.admits(s.visitor, gate4, "8080")
	if n := s.trail(audit.EventGranted, ""); n != 3 {
		t.Errorf("the trail has %d grants, want 3", n)
	}
}

// Killed at any step of a knock, the gateway has either heard it or not.
func TestKilledAtEveryStep(t *testing.T) {
	s := newSite(t, "")
	s.start()
	for step, kill := range []func(k *talk){
		func(k *talk) { k.send(k.v.Hello()) },
		func(k *talk) { k.hello() },
		func(k *talk) { k.hello(); k.send(k.request(web, s.alice)) },
		func(k *talk) { k.hello(); k.ask(web, s.alice) },
	} {
		t.Run(fmt.Sprint("step ", step), func(t *testing.T) {
			k := s.dialled(s.visitor, "udp", gate4, seal.X25519)
			kill(k)
			s.restart()
			open := s.dial(s.visitor, gate4, "8080", dark) == nil
			s.until("what the status says of the grant", func() error { // what the kernel alone has is found when all is guarded
				if all := s.grants("web"); (len(all) == 1) != open {
					return fmt.Errorf("it is %q, and the visitor comes in: %v", all, open)
				}
				return nil
			})
			if step < 2 && open || step > 2 && !open {
				t.Errorf("the grant stands: %v", open)
			}
			if s.dial(s.stranger, gate4, "8080", dark) == nil {
				t.Error("a stranger gets in")
			}
			for _, d := range k.sent { // a recording of before
				k.send(d)
			}
			s.opens(s.visitor, gate4, s.alice)
			if a := s.begin(s.visitor, gate4, seal.X25519).ask(seal.Request{Action: seal.Close, Door: "web"}, s.alice); a.Status != seal.Closed {
				t.Errorf("closing: %+v", a)
			}
			// What the store had not learnt of the first grant is nobody's: an operator ends it.
			_, err := s.client().Close(t.Context(), control.CloseRequest{Door: "web", Source: visitor4})
			s.must(err)
			s.has("web")
		})
	}
}
