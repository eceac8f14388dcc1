package seal

import (
	"bytes"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// No salt comes twice, however alike the handshakes are; what is sent again is the same
// datagram.
func TestSaltsDiffer(t *testing.T) {
	g, peer := pairOf(t)
	type salt struct {
		toGateway bool
		bytes     [saltSize]byte
	}
	seen := map[salt]string{}
	meet := func(name string, d []byte) {
		t.Helper()
		s := salt{name == "hello" || name == "request" || name == "single packet" || name == "question", [saltSize]byte(d[tagSize:])}
		if before, again := seen[s]; again {
			t.Errorf("%s has the salt of a %s before", name, before)
		}
		seen[s] = name
	}
	for range 200 {
		for name, d := range converse(t, g, peer, X25519) {
			meet(name, d)
		}
	}
	v := visitor(t, peer, Hybrid)
	first, key := v.Hello(), v.ephemeral
	meet("hello", first)
	if !bytes.Equal(first, v.Hello()) {
		t.Error("the hello that is sent again is another one")
	}
	room := make([]byte, 64)
	g.Glance(testPlace, first, true, room)
	if e, _ := v.Read(room); e != Busy {
		t.Fatalf("event %d", e)
	}
	meet("hello", v.Hello())
	if v.ephemeral.Equal(key) {
		t.Error("the hello with a cookie has the key pair of the one before")
	}
}

// extent counts all that can be reached from a value.
func extent(v reflect.Value, seen map[uintptr]bool) (n int) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() || seen[v.Pointer()] {
			return 0
		}
		seen[v.Pointer()] = true
		return 1 + extent(v.Elem(), seen)
	case reflect.Interface:
		return extent(v.Elem(), seen)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "pool" { // scratch memory
				n += extent(v.Field(i), seen)
			}
		}
	case reflect.Slice, reflect.Array:
		n = v.Len()
		for i := range v.Len() {
			n += extent(v.Index(i), seen)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			n += 1 + extent(it.Key(), seen) + extent(it.Value(), seen)
		}
	}
	return n
}

// A gateway remembers nothing of what comes, be it right or not.
func TestNothingIsRemembered(t *testing.T) {
	g, peer := pairOf(t)
	keys := g.keys.Load()
	c := converse(t, g, peer, X25519)
	before := extent(reflect.ValueOf(g), map[uintptr]bool{}) + extent(reflect.ValueOf(g.keys.Load()), map[uintptr]bool{})
	if before < bundleSize {
		t.Fatalf("%d values are reached: the test sees too little", before)
	}
	for range 50 {
		c = converse(t, g, peer, X25519)
		silent(t, g, "an altered hello", append(bytes.Clone(c["hello"]), 0))
	}
	if after := extent(reflect.ValueOf(g), map[uintptr]bool{}) + extent(reflect.ValueOf(g.keys.Load()), map[uintptr]bool{}); after != before {
		t.Errorf("after 50 conversations it has %d values, before %d", after, before)
	}
	if g.keys.Load() != keys {
		t.Error("conversations have changed its keys")
	}
	a, _ := g.Open(testPlace, testStart, c["hello"])
	b, _ := g.Open(testPlace, testStart, c["hello"])
	if a == nil || b == nil || bytes.Equal(a, b) {
		t.Error("a hello that comes again is not answered with a challenge of its own")
	}
}

// requested goes as far as the request.
func requested(t testing.TB, g *Gateway, peer Peer, at time.Time) []byte {
	t.Helper()
	v := visitor(t, peer, X25519)
	reply, _ := g.Open(testPlace, at, v.Hello())
	if e, _ := v.Read(reply); e != Challenged {
		t.Fatalf("event %d", e)
	}
	q, who := Request{Action: Open}, Credential{Kind: Key, Proof: make([]byte, 83)}
	own := v.Transcript(q, who)
	d, err := v.Request(q, who, own, own, false)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestStateIsForOneSource(t *testing.T) {
	g, peer := pairOf(t)
	d := requested(t, g, peer, testStart)
	for _, other := range []string{"192.0.2.8", "192.0.3.7", "2001:db8::7", "::c000:207"} {
		from := netip.MustParseAddr(other)
		if rank, _ := g.Glance(from, d, true, make([]byte, 64)); rank != Junk {
			t.Errorf("from %s: rank %d", other, rank)
		}
		if _, k := g.Open(from, testStart, d); k != nil {
			t.Errorf("from %s: %+v", other, k)
		}
	}
	if _, k := g.Open(netip.MustParseAddr("::ffff:192.0.2.7"), testStart, d); k == nil {
		t.Error("the same address, as a socket of both families has it, is another")
	}
}

func TestStateEnds(t *testing.T) {
	id := identity(t, 1)
	peer := Peer{testDoor, id.Fingerprint(), id.Bundle()}
	fresh := func(from *Gateway, now time.Time) *Gateway {
		return NewGateway([]*Identity{id}, []Profile{testDoor}, true, from, now)
	}
	for _, begun := range []time.Duration{0, 59 * time.Second, 60 * time.Second, 61 * time.Second, time.Hour} {
		for after, want := range map[time.Duration]bool{
			0: true, 30 * time.Second: true, HandshakeLife: true, HandshakeLife + time.Second: false, 2 * HandshakeLife: false, 24 * time.Hour: false,
		} {
			g := fresh(nil, testStart)
			at := testStart.Add(begun)
			d := requested(t, g, peer, at)
			if _, k := g.Open(testPlace, at.Add(after), d); (k != nil) != want {
				t.Errorf("a handshake that was begun at %v is accepted after %v: %t", begun, after, k != nil)
			}
			g = fresh(nil, testStart)
			d = requested(t, g, peer, at)
			if _, k := fresh(g, at).Open(testPlace, at.Add(after), d); (k != nil) != want {
				t.Errorf("a handshake that was begun at %v is accepted by what takes over after %v: %t", begun, after, k != nil)
			}
		}
	}
	// Other datagrams, which turn the keys, change nothing of that.
	g := fresh(nil, testStart)
	d := requested(t, g, peer, testStart.Add(59*time.Second))
	for i := range 60 {
		requested(t, g, peer, testStart.Add(time.Duration(59+i)*time.Second))
	}
	if _, k := g.Open(testPlace, testStart.Add(119*time.Second), d); k == nil {
		t.Error("a handshake is not accepted after a minute of others")
	}
	if _, k := fresh(nil, testStart).Open(testPlace, testStart, requested(t, g, peer, testStart)); k != nil {
		t.Error("a handshake is accepted that was begun before a restart")
	}
}

// What can open recordings is forgotten: the ephemeral key after a minute, the key of
// states after two, also if no datagram comes.
func TestKeysAreForgotten(t *testing.T) {
	g, _ := pairOf(t)
	first := g.keys.Load()
	held := func(now time.Time) (ephemeral, state bool) {
		g.Rotate(now)
		for e := g.keys.Load(); e != nil; e = e.before {
			ephemeral = ephemeral || e.ephemeral == first.ephemeral
			state = state || e.state == first.state
		}
		return ephemeral, state
	}
	for _, c := range []struct {
		after            time.Duration
		ephemeral, state bool
	}{{59 * time.Second, true, true}, {60 * time.Second, false, true}, {119 * time.Second, false, true}, {120 * time.Second, false, false}} {
		if ephemeral, state := held(testStart.Add(c.after)); ephemeral != c.ephemeral || state != c.state {
			t.Errorf("after %v the ephemeral key is held: %t, the key of states: %t; want %t, %t", c.after, ephemeral, state, c.ephemeral, c.state)
		}
	}
	g, _ = pairOf(t)
	first = g.keys.Load()
	if ephemeral, state := held(testStart.Add(2 * HandshakeLife)); ephemeral || state {
		t.Errorf("after two minutes without a datagram the ephemeral key is held: %t, the key of states: %t", ephemeral, state)
	}
}

func TestOneRequest(t *testing.T) {
	g, peer := pairOf(t)
	v := visitor(t, peer, X25519)
	challenged(t, g, v)
	q, who := Request{Action: Open}, Credential{Kind: Key, Proof: make([]byte, 83)}
	own := v.Transcript(q, who)
	if _, err := v.Request(q, who, own, own, false); err != nil {
		t.Fatal(err)
	}
	if d, err := v.Request(q, who, own, own, false); d != nil || err == nil || err.Error() != "a handshake is for one request" {
		t.Errorf("a second request: %d bytes, %v", len(d), err)
	}
	v = visitor(t, peer, X25519)
	challenged(t, g, v)
	if d, err := v.Request(q, who, Transcript{1}, Transcript{2}, false); d != nil || err == nil || err.Error() != "the proof is for other handshakes" {
		t.Errorf("with the proof of others: %d bytes, %v", len(d), err)
	}
	mapped := Request{Action: Open, Address: netip.MustParseAddr("::ffff:192.0.2.9")}
	if d, err := v.Request(mapped, who, own, own, false); d != nil || err == nil || !strings.HasPrefix(err.Error(), "a request that cannot be sent: ") {
		t.Errorf("for an IPv4-mapped address: %d bytes, %v", len(d), err)
	}
}

// Whatever text a request has: it is taken only if it is the one text for what it says.
func TestRequestsAreExact(t *testing.T) {
	v := readVectors(t)
	var good [][]byte
	for _, h := range v.Handshakes {
		text := slices.Concat(h.Request, []byte{h.Place}, h.Other, h.Credential)
		good = append(good, text)
		for at := range 40 { // a byte anywhere in the padding
			r := reader{rest: append(slices.Concat(text, make([]byte, at)), 1)}
			r.request()
			r.pair()
			r.credential()
			if r.ended() {
				t.Errorf("%s: a byte that is %d behind its end is taken", h.Name, at)
			}
		}
	}
	taken := 0
	rapid.Check(t, func(t *rapid.T) {
		text := bytes.Clone(rapid.SampledFrom(good).Draw(t, "text"))
		for range rapid.IntRange(0, 3).Draw(t, "changes") {
			at := rapid.IntRange(0, min(len(text)-1, 200)).Draw(t, "at")
			switch rapid.IntRange(0, 2).Draw(t, "how") {
			case 0:
				text[at] = rapid.SampledFrom([]byte{0, 1, 2, 3, 4, 5, 16, 32, 64, 65, 255}).Draw(t, "to")
			case 1:
				text = slices.Delete(text, at, at+1)
			case 2:
				text = slices.Insert(text, at, rapid.Byte().Draw(t, "new"))
			}
		}
		r := reader{rest: text}
		q, p, who := r.request(), r.pair(), r.credential()
		if !r.ended() {
			return
		}
		taken++
		again := slices.Concat(q.encode(), p.encode(), who.encode())
		if !bytes.Equal(bytes.TrimRight(text, "\x00"), bytes.TrimRight(again, "\x00")) {
			t.Fatalf("%x is taken, and would be written as %x", text, again)
		}
	})
	if taken == 0 {
		t.Error("nothing was taken: the test sees nothing")
	}
}

func TestBusyIsForOneHello(t *testing.T) {
	g, peer := pairOf(t)
	v, other := visitor(t, peer, X25519), visitor(t, peer, X25519)
	room := make([]byte, 64)
	if _, n := g.Glance(testPlace, other.Hello(), true, room); n != 64 {
		t.Fatalf("%d bytes", n)
	}
	hello := v.Hello()
	if e, _ := v.Read(room); e != Nothing || !bytes.Equal(hello, v.Hello()) {
		t.Errorf("the answer to another's hello is event %d, and the hello changed: %t", e, !bytes.Equal(hello, v.Hello()))
	}
	own := make([]byte, 64)
	g.Glance(testPlace, hello, true, own)
	if e, _ := v.Read(own); e != Busy {
		t.Fatalf("event %d", e)
	}
	if e, _ := v.Read(own); e != Nothing {
		t.Errorf("the answer to the hello before the latest is event %d", e)
	}
	challenged(t, g, v)
	g.Glance(testPlace, v.Hello(), true, own)
	if e, _ := v.Read(own); e != Nothing {
		t.Errorf("after the challenge it is event %d", e)
	}
}

// A bundle counts if it has the fingerprint, whatever parts it was put together from.
func TestBundleHasTheFingerprint(t *testing.T) {
	g, peer := pairOf(t)
	other := identity(t, 2)
	for name, bundle := range map[string][]byte{
		"none": nil, "short": peer.Bundle[:bundleSize-1], "long": append(bytes.Clone(peer.Bundle), 0), "another": other.Bundle(),
		"half of another": slices.Concat(peer.Bundle[:partSize], other.Bundle()[partSize:]),
		"another X25519":  slices.Concat(other.Bundle()[:keySize], peer.Bundle[keySize:]),
	} {
		for _, s := range []Suite{Hybrid, X25519} {
			bad := Peer{peer.Profile, peer.Fingerprint, bundle}
			want := "the gateway's keys do not have the fingerprint " + peer.Fingerprint.String()
			if _, err := NewVisitor(bad, s); err == nil || err.Error() != want {
				t.Errorf("%s, %s: a handshake: %v", name, s, err)
			}
			if _, err := NewSinglePacket(bad, s, Request{Action: Open}, 1, [8]byte{}, testPlace); err == nil || err.Error() != want {
				t.Errorf("%s, %s: a single packet: %v", name, s, err)
			}
		}
	}
	silent(t, g, "the question for another's bundle", AskPart(Peer{peer.Profile, other.Fingerprint(), nil}, 0))
	silent(t, g, "the question for part 2", AskPart(peer, 2))
}

// A credential that is too long for UDP is sent over TCP alone.
func TestLongest(t *testing.T) {
	g, peer := pairOf(t)
	for _, c := range []struct {
		proof  int
		stream bool
		size   int
		err    string
	}{
		{83, false, 512, ""}, {83, true, 512, ""}, {1000, false, 1232, ""}, {1100, true, 2048, ""}, {3000, true, 4096, ""},
		{1100, false, 0, "the credential is too long for a datagram: 1146 bytes"}, {4000, true, 0, "the credential is too long for a datagram: 4046 bytes"},
	} {
		v := visitor(t, peer, X25519)
		challenged(t, g, v)
		q, who := Request{Action: Open, Door: "doo"}, Credential{Kind: Key, Proof: make([]byte, c.proof)}
		own := v.Transcript(q, who)
		d, err := v.Request(q, who, own, own, c.stream)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if len(d) != c.size || got != c.err || c.size > 0 && !c.stream && c.size > Longest {
			t.Errorf("a proof of %d bytes, over TCP: %t: %d bytes, %q, want %d, %q", c.proof, c.stream, len(d), got, c.size, c.err)
		}
	}
}
