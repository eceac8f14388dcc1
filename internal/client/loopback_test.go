package client

import (
	"testing"

	"github.com/doorward/doorward/internal/client/clienttest"
	"github.com/doorward/doorward/internal/seal"
)

// Over real sockets.
func TestLoopback(t *testing.T) {
	for _, tt := range []struct {
		carriers []string
		udp, tcp bool
		stream   bool
	}{
		{[]string{"udp"}, true, false, false},
		{[]string{"udp", "tcp"}, true, true, false},
		{[]string{"udp", "tcp"}, false, true, true},
		{[]string{"tcp"}, false, true, true},
	} {
		p := newProver(t)
		g := clienttest.New(t, p.ring(t))
		at := g.Profile(g.Serve(t, "127.0.0.1", tt.udp, tt.tcp), "127.0.0.1")
		at.Carriers, at.Suite = tt.carriers, seal.Hybrid
		r, err := new(Client).Knock(t.Context(), Knock{Profile: at, Prover: p, Request: seal.Request{Action: seal.Open}})
		if err != nil || len(r.Answers) != 1 || r.Answers[0].Stream != tt.stream || r.Answers[0].Status != seal.Opened {
			t.Errorf("%v with UDP %v and TCP %v: %+v, %v", tt.carriers, tt.udp, tt.tcp, r.Answers, err)
		}
	}
}
