package seal

import (
	"encoding/binary"
	"math"
	"testing"
	"testing/cryptotest"
	"time"
)

// conversation is one of each datagram that there is between a visitor and a gateway.
type conversation map[string][]byte

// converse makes a conversation.
func converse(t testing.TB, g *Gateway, peer Peer, s Suite) conversation {
	t.Helper()
	v := visitor(t, peer, s)
	c := conversation{"hello": v.Hello(), "busy": make([]byte, 64)}
	if _, n := g.Glance(testPlace, v.Hello(), true, c["busy"]); n != 64 {
		t.Fatalf("busy: an answer of %d bytes", n)
	}
	c["challenge"], _ = g.Open(testPlace, testStart, v.Hello())
	if e, _ := v.Read(c["challenge"]); e != Challenged {
		t.Fatalf("the challenge: event %d", e)
	}
	q, who := Request{Action: Open, Door: "ssh"}, Credential{Kind: Key, Proof: make([]byte, 83)}
	own := v.Transcript(q, who)
	var err error
	if c["request"], err = v.Request(q, who, own, own, false); err != nil {
		t.Fatal(err)
	}
	_, k := g.Open(testPlace, testStart, c["request"])
	if k == nil {
		t.Fatal("the request is not opened")
	}
	c["answer"] = k.Answer(Answer{Status: Opened, Left: time.Minute, Source: testPlace, Next: g.Newest()})
	single, err := NewSinglePacket(peer, s, q, 1, [8]byte{}, testPlace)
	if err != nil {
		t.Fatal(err)
	}
	if c["single packet"], err = single.Datagram([64]byte{}); err != nil {
		t.Fatal(err)
	}
	c["question"] = AskPart(peer, 0)
	c["part"], _ = g.Open(testPlace, testStart, c["question"])
	return c
}

// What an eavesdropper without the profile secret sees of many handshakes that are all
// alike is uniformly random: chi-square for each byte of each datagram.
func TestUniform(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1)
	const n = 1280
	for _, s := range []Suite{Hybrid, X25519} {
		t.Run(s.String(), func(t *testing.T) {
			g, peer := pairOf(t)
			seen := map[string][][256]int{} // by datagram, byte and value
			for range n {
				for name, d := range converse(t, g, peer, s) {
					if seen[name] == nil {
						seen[name] = make([][256]int, len(d))
					}
					for at, b := range d {
						seen[name][at][b]++
					}
				}
			}
			for name, datagram := range seen {
				for at := range datagram {
					if x := chiSquare(&datagram[at], n); x > limit {
						t.Errorf("%s, byte %d: chi-square is %.0f, want at most %d: it can be told from noise", name, at, x, limit)
					}
				}
			}
		})
	}
	var bits [256]int // as the last byte of an X25519 key would be
	for i := range n {
		bits[i%128]++
	}
	if x := chiSquare(&bits, n); x <= limit {
		t.Errorf("a byte whose highest bit is always 0 has chi-square %.0f: the test sees nothing", x)
	}
}

// limit is exceeded by one random byte in a thousand million: 255 degrees of freedom have a
// mean of 255 and a standard deviation of 23.
const limit = 420

func chiSquare(seen *[256]int, n int) (x float64) {
	want := float64(n) / 256
	for _, c := range seen {
		x += (float64(c) - want) * (float64(c) - want) / want
	}
	return x
}

// A ciphertext of ML-KEM-768 is a list of numbers below 3329 that are compressed to 10
// bits (FIPS 203, section 4.2.1), to which some of the 1024 values come more often than
// others. So none of it may be seen that is not masked: 12 numbers in each of a few hundred
// datagrams would tell that they are none of random bytes.
func TestSaltsAreNoCiphertexts(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 2)
	var preimages [1024]int
	for x := range 3329 {
		preimages[int(math.Round(float64(x)*1024/3329))%1024]++
	}
	g, peer := pairOf(t)
	often, n := map[string]int{}, map[string]int{}
	for range 800 {
		c := converse(t, g, peer, Hybrid)
		for _, name := range []string{"hello", "single packet"} {
			for i := range 12 {
				at := tagSize*8 + 10*i
				number := binary.LittleEndian.Uint32(c[name][at/8:]) >> (at % 8) & 1023
				if n[name]++; preimages[number] == 4 {
					often[name]++
				}
			}
		}
	}
	// Of random bytes 257 in 1024 are such numbers, and of a ciphertext 4 × 257 in 3329.
	const p = 257. / 1024
	for name, n := range n {
		off := (float64(often[name]) - p*float64(n)) / math.Sqrt(p*(1-p)*float64(n))
		if math.Abs(off) > 5 {
			t.Errorf("%s: %d of %d numbers are some that ML-KEM has often, %.1f standard deviations off what random bytes have", name, often[name], n, off)
		}
	}
}
