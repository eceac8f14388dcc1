//go:build linux

package sealed

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/nstest"
	kind "github.com/doorward/doorward/internal/sealed"
)

// A client that others could have written, from docs/PROTOCOL.md, opens a door over both
// families with one signature.
func TestAnotherClientOpens(t *testing.T) {
	nstest.Need(t, "/usr/bin/python3", "ssh-keygen", "setsid")
	s := newSite(t, "carriers = [\"udp\", \"tcp\"]\n")
	s.start()
	block, err := ssh.MarshalPrivateKey(s.alice.sign, "alice")
	s.must(err)
	s.write("id_ed25519", string(pem.EncodeToMemory(block)))
	s.write("gate.toml", fmt.Sprintf("hosts = [%q, %q]\nport = %d\ncarriers = [\"udp\", \"tcp\"]\ndoors = [\"web\"]\n[gateway]\nfingerprint = %q\nsecret = %q\n[key]\nfile = %q\n",
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
	s.rescues("panel", "/usr/bin/python3", "-B", program, "--profile", s.lab.Path("gate.toml"), "--door", "panel", "--rescue")
	s.certifies("id_ed25519")
	if out, err := knock("--certificate", s.lab.Path("id_ed25519-cert.pub")); err != nil || !strings.Contains(out, gate6+": open for "+visitor6) {
		t.Errorf("with a certificate: %v:\n%s", err, out)
	}
	s.has("web", visitor4+" sealed traveller", visitor6+" sealed traveller")
	s.keys(s.alice.line(""))
	s.reload()
	if out, err := knock("--action", "close"); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}

	// Where UDP does not get through, TCP does.
	_, err = s.visitor.Run(t.Context(), "nft", "add table inet t; add chain inet t o { type filter hook output priority 0; }; add rule inet t o udp dport 41641 drop")
	s.must(err)
	if out, err := knock("--tries", "1"); err != nil || !strings.Contains(out, gate4+": open for "+visitor4) || !strings.Contains(out, gate6+": open for "+visitor6) {
		t.Fatalf("over TCP: %v:\n%s", err, out)
	}
	s.admits(s.visitor, gate4, "8080")
	s.admits(s.visitor, gate6, "8080")
	if out, err := knock("--tries", "1", "--door", "nonesuch"); err == nil || !strings.Contains(out, ": refused: there is no such door") {
		t.Errorf("%v:\n%s", err, out)
	}
}

// rescues runs a client that asks for a rescue code, by which a door opens once.
func (s *site) rescues(door string, argv ...string) {
	s.t.Helper()
	codes, err := order[kind.Rescue](s, kind.OrderRescue, kind.RescueArgs{Count: 1})
	s.must(err)
	for _, want := range []string{gate4 + ": open for " + visitor4, "refused: the code was used before"} {
		c := s.visitor.Command(s.t.Context(), "setsid", append([]string{"--wait"}, argv...)...) // without a terminal it asks on its input
		c.Stdin = strings.NewReader(codes.Codes[0] + "\n")
		if out, _ := c.CombinedOutput(); !strings.Contains(string(out), want) || strings.Contains(string(out), codes.Codes[0]) {
			s.t.Errorf("a rescue code at %s: %s\nwant %q", door, out, want)
		}
	}
}

// certifies has an authority in place of the keys that are known, which has signed a key.
func (s *site) certifies(name string) {
	s.t.Helper()
	ca := newKey(s.t, "ca")
	block, err := ssh.MarshalPrivateKey(ca.sign, "ca")
	s.must(err)
	s.write("ca", string(pem.EncodeToMemory(block)))
	s.write(name+".pub", s.alice.line("")+"\n")
	out, err := exec.Command("ssh-keygen", "-q", "-s", s.lab.Path("ca"), "-I", "traveller", "-n", "visitor", "-V", "+1h", s.lab.Path(name+".pub")).CombinedOutput()
	if err != nil {
		s.t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	s.keys(ca.line(`cert-authority,principals="visitor"`))
	s.reload()
}
