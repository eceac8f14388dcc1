//go:build linux

package sealed

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/nstest"
)

// A client that others could have written, from docs/PROTOCOL.md, opens a door over both
// families with one signature.
func TestAnotherClientOpens(t *testing.T) {
	nstest.Need(t, "/usr/bin/python3")
	s := newSite(t, "")
	s.start()
	block, err := ssh.MarshalPrivateKey(s.alice.sign, "alice")
	s.must(err)
	s.write("id_ed25519", string(pem.EncodeToMemory(block)))
	s.write("gate.toml", fmt.Sprintf("hosts = [%q, %q]\nport = %d\ncarriers = [\"udp\"]\ndoors = [\"web\"]\n[gateway]\nfingerprint = %q\nsecret = %q\n[key]\nfile = %q\n",
		gate4, gate6, port, s.peer.Fingerprint, base64.StdEncoding.EncodeToString(s.peer.Profile[:]), s.lab.Path("id_ed25519")))
	program, err := filepath.Abs("../../contrib/python/knock.py")
	s.must(err)
	knock := func(args ...string) (string, error) {
		return s.visitor.Run(t.Context(), "/usr/bin/python3", append([]string{"-B", program, "--profile", s.lab.Path("gate.toml")}, args...)...)
	}
	s.refuses(s.visitor, gate4, "8080")
	out, err := knock()
	if err != nil || !strings.Contains(out, gate4+": open for "+visitor4) || !strings.Contains(out, gate6+": open for "+visitor6) {
		t.Fatalf("%v:\n%s", err, out)
	}
	s.admits(s.visitor, gate4, "8080")
	s.admits(s.visitor, gate6, "8080")
	s.refuses(s.stranger, gate4, "8080")
	s.refuses(s.visitor, gate4, "8443")
	if out, err := knock("--action", "close"); err != nil || !strings.Contains(out, gate4+": taken back") {
		t.Fatalf("%v:\n%s", err, out)
	}
	s.refuses(s.visitor, gate4, "8080")
	if out, err := knock("--door", "nonesuch"); err == nil || !strings.Contains(out, ": refused: there is no such door") {
		t.Errorf("%v:\n%s", err, out)
	}
}
