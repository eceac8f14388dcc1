package sealed

import (
	"testing"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/seal"
)

// What opens handshakes is forgotten in time, also if nothing is heard any more.
func TestKeysAreForgotten(t *testing.T) {
	alice := newKey("alice")
	s := newSite(t, alice.line(""))
	d := s.request(s.begin(visitor), web, alice.who())
	f, ok := knock.Kept(s.kept).(knock.Forgetter)
	if !ok {
		t.Fatal("what is kept is no Forgetter: nobody calls it")
	}
	f.Forget(start.Add(seal.HandshakeLife))
	if _, _, ok := s.opens(visitor, d); !ok {
		t.Fatal("after a minute the key of states is forgotten, which may be needed for another")
	}
	f.Forget(start.Add(2 * seal.HandshakeLife))
	if _, _, ok := s.opens(visitor, d); ok { // by a clock that stands still: it is not too old
		t.Error("after two minutes a request is opened: its key was not forgotten")
	}
}
