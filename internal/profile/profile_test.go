package profile

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/seal"
)

var invite = Invite{
	Expires: time.Unix(1_800_000_000, 0).UTC(), Secret: seal.Profile{1}, Code: [16]byte{2}, Fingerprint: seal.Fingerprint{3},
	Port: 41641, TCP: true, Door: "ssh", Name: "gate", Hosts: []string{"gate.example.org", "192.0.2.1", "2001:db8::1"},
}

func TestInvite(t *testing.T) {
	bound, first := invite, invite
	bound.Bound, bound.TCP = true, false
	first.Door = ""
	single, any := invite, invite
	single.OneWay, any.OneWay, any.AnySource = true, true, true
	for _, want := range []Invite{invite, bound, first, single, any} {
		if err := want.Check(); err != nil {
			t.Fatal(err)
		}
		line := want.String()
		for _, as := range []string{line, " " + line + "\n", line[:60] + "\r\n\t" + line[60:]} {
			got, err := ParseInvite(as)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%q: %v\n%s", as, err, diff)
			}
		}
	}
}

func TestBadInvites(t *testing.T) {
	line := invite.String()
	for n := range len(line) {
		if got, err := ParseInvite(line[:n]); err == nil {
			t.Errorf("cut off after %d characters: %+v", n, got)
		}
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(line, invitePrefix))
	if err != nil {
		t.Fatal(err)
	}
	const flagsAt = 1 + 4 + 16 + 16 + 32 + 2
	for bit := range 8 {
		raw[flagsAt] = 1 << bit
		_, err := ParseInvite(invitePrefix + base64.RawURLEncoding.EncodeToString(raw))
		if known := bit < 3; (err == nil) != known {
			t.Errorf("an invite with bit %d of the flags alone: %v, want it read: %v", bit, err, known)
		}
	}
	const newer = "doorward-invite:AgAA"
	for text, want := range map[string]string{
		line + "AAAA":                          "no invite that this doorward can read",
		newer:                                  "version 2, which is newer than this doorward: install the current one",
		strings.TrimPrefix(line, invitePrefix): "see that none of it was lost",
	} {
		if _, err := ParseInvite(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for name, spoil := range map[string]func(*Invite){
		"hosts": func(v *Invite) { v.Hosts = nil }, "host": func(v *Invite) { v.Hosts = []string{"-oProxyCommand=x"} },
		"name": func(v *Invite) { v.Name = "../../x" }, "door": func(v *Invite) { v.Door = "-x" }, "port": func(v *Invite) { v.Port = 0 },
		"source": func(v *Invite) { v.AnySource = true },
	} {
		bad := invite
		spoil(&bad)
		if _, err := ParseInvite(bad.String()); err == nil {
			t.Errorf("an invite with a bad %s was read", name)
		}
	}
}

func sample(t testing.TB) Profile {
	t.Helper()
	id, err := seal.NewIdentity([32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	return Profile{Name: "gate", Hosts: invite.Hosts, Port: 41641, Carriers: []string{"udp", "tcp"}, Suite: seal.X25519, Doors: []string{"ssh", "web"},
		Gateway: seal.Peer{Profile: seal.Profile{5}, Fingerprint: id.Fingerprint(), Bundle: id.Bundle()},
		Key:     Key{File: `/home/al"ice/.ssh/id_ed25519`, Certificate: `C:\keys\cert.pub`}}
}

func TestSaveAndLoad(t *testing.T) {
	dir, want := Directory(filepath.Join(t.TempDir(), "profiles")), sample(t)
	if names, err := dir.Names(); len(names) > 0 || err != nil {
		t.Errorf("before: %q, %v", names, err)
	}
	if _, err := dir.Load("gate"); !errors.Is(err, ErrNone) {
		t.Errorf("before: %v", err)
	}
	if err := dir.Save(want, false); err != nil {
		t.Fatal(err)
	}
	got, err := dir.Load("gate")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if err := dir.Save(want, false); !errors.Is(err, ErrExists) {
		t.Errorf("again: %v", err)
	}
	want.Doors = nil
	if err := dir.Save(want, true); err != nil {
		t.Error(err)
	}
	if names, err := dir.Names(); err != nil || !cmp.Equal(names, []string{"gate"}) {
		t.Errorf("after: %q, %v", names, err)
	}
}

func TestBadProfiles(t *testing.T) {
	dir, p := Directory(t.TempDir()), sample(t)
	if err := dir.Save(p, false); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(dir.Path("gate"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{"port = 41641", "port = 0", "port: allowed are 1 to 65535"},
		{"port = 41641", "prot = 41641", `line 5: there is no key "prot"`},
		{`"192.0.2.1"`, `"192.0.2.1:22"`, "allowed are a host's name and an IP address, without a port"},
		{`"tcp"]`, `"quic"]`, `carriers: "quic": allowed are "udp" and "tcp"`},
		{`"X25519"`, `"RSA"`, `suite: "RSA": allowed are "MLKEM768-X25519" and "X25519"`},
		{`"SHA256:`, `"MD5:`, "gateway.fingerprint: "},
		{"[key]", "[key]\nsecret = \"/x\"", `one of "agent", "file" and "secret"`},
		{`"ssh"`, `"../x"`, "cannot be a name"},
	} {
		text := strings.Replace(string(good), tt.old, tt.new, 1)
		if text == string(good) {
			t.Fatalf("%q is not in the file", tt.old)
		}
		if err := os.WriteFile(dir.Path("gate"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := dir.Load("gate"); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q", tt.new, err, tt.want)
		}
	}
}

func TestTheCounterGrows(t *testing.T) {
	dir := Directory(t.TempDir())
	var last uint64
	for _, at := range []int64{5000, 5000, 9000, 20, 9002, 9001} { // the clock is set back, twice
		n, err := dir.Counter("gate", time.UnixMicro(at))
		if err != nil || n <= last || n < uint64(at) {
			t.Errorf("at %d: %d after %d, %v", at, n, last, err)
		}
		last = n
	}
	if err := os.WriteFile(filepath.Join(string(dir), "gate.counter"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dir.Counter("gate", time.UnixMicro(1)); err == nil || !strings.Contains(err.Error(), "has no number") {
		t.Error(err)
	}
}

func TestNameFor(t *testing.T) {
	for want, hosts := range map[string][]string{
		"gate": {"192.0.2.1", "gate.example.org"}, "gateway": {"192.0.2.1", "2001:db8::1"}, "alone": {"alone"},
	} {
		if got := NameFor(hosts); got != want {
			t.Errorf("%q: %q, want %q", hosts, got, want)
		}
	}
}

// The doors' ports survive being written, and others than ports are refused.
func TestPorts(t *testing.T) {
	d := Directory(t.TempDir())
	p := Profile{Name: "gate", Hosts: []string{"192.0.2.1"}, Port: 1, Carriers: []string{"udp"}, Suite: seal.Hybrid, Key: Key{File: "/key"},
		Ports: map[string][]string{"": {"53/udp"}, "ssh": {"22/tcp", "8000-8010/tcp"}, "a.b": {"1/tcp"}}}
	if err := d.Save(p, false); err != nil {
		t.Fatal(err)
	}
	got, err := d.Load("gate")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p.Ports, got.Ports); diff != "" {
		t.Errorf("(-saved +loaded):\n%s", diff)
	}
	for door, ports := range map[string]string{"ssh": "22", "web": "0/tcp", "x y": "22/tcp"} {
		p.Ports = map[string][]string{door: {ports}}
		if err := d.Save(p, true); err == nil {
			t.Errorf("%q with %q is saved", door, ports)
		}
	}
}
