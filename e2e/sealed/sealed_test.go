//go:build linux

package sealed

import (
	"testing"
	"time"

	"github.com/doorward/doorward/internal/seal"
)

// A key opens its door, over both families and with both suites, and nothing else.
func TestAKeyOpens(t *testing.T) {
	s := newSite(t, "")
	s.start()
	s.refuses(s.visitor, gate4, "8080")
	for address, suite := range map[string]seal.Suite{gate4: seal.Hybrid, gate6: seal.X25519} {
		a := s.begin(s.visitor, address, suite).ask(seal.Request{Action: seal.Open, Door: "web"}, s.alice)
		if a.Status != seal.Opened || a.Left < 50*time.Second || a.Left > time.Minute {
			t.Errorf("answer: %+v", a)
		}
		s.admits(s.visitor, address, "8080")
		s.refuses(s.visitor, address, "8443")
		s.refuses(s.stranger, address, "8080")
	}
	if a := s.begin(s.stranger, gate4, seal.X25519).ask(seal.Request{Action: seal.Open}, newKey(t, "mallory")); a.Status != seal.Refused || a.Reason != seal.NotAccepted {
		t.Errorf("a key that is not known: %+v", a)
	}
	s.refuses(s.stranger, gate4, "8080")
	if a := s.begin(s.visitor, gate4, seal.X25519).ask(seal.Request{Action: seal.Close, Door: "web"}, s.alice); a.Status != seal.Closed {
		t.Errorf("closing: %+v", a)
	}
	s.refuses(s.visitor, gate4, "8080")
}
