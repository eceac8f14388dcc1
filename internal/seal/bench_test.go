package seal

import (
	"testing"
)

func BenchmarkOpen(b *testing.B) {
	for _, s := range []Suite{Hybrid, X25519} {
		g, peer := pairOf(b)
		v := visitor(b, peer, s)
		b.Run("hello "+s.String(), func(b *testing.B) {
			for b.Loop() {
				g.Open(testPlace, testStart, v.Hello())
			}
		})
		challenged(b, g, v)
		q, who := Request{Action: Open}, Credential{Kind: Key, Proof: make([]byte, 83)}
		own := v.Transcript(q, who)
		d, err := v.Request(q, who, own, own, false)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("request "+s.String(), func(b *testing.B) {
			for b.Loop() {
				g.Open(testPlace, testStart, d)
			}
		})
	}
}

func BenchmarkGlance(b *testing.B) {
	g, peer := pairOf(b)
	v := visitor(b, peer, Hybrid)
	room := make([]byte, 64)
	for name, busy := range map[string]bool{"idle": false, "busy": true} {
		b.Run("hello "+name, func(b *testing.B) {
			for b.Loop() {
				g.Glance(testPlace, v.Hello(), busy, room)
			}
		})
	}
	junk := make([]byte, 1232)
	b.Run("junk", func(b *testing.B) {
		for b.Loop() {
			g.Glance(testPlace, junk, false, room)
		}
	})
}
