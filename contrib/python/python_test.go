// Package python has the tests of the client that is written in Python: it is to
// understand what internal/seal says, and the other way round.
package python

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
)

// interpreter is Debian's, whose packages the client needs.
const interpreter = "/usr/bin/python3"

// installed says whether the interpreter is there, with what the client needs.
var installed = sync.OnceValue(func() error { return exec.Command(interpreter, "-c", "import cryptography").Run() })

// client runs a program of this directory and returns what it printed and its exit code.
func client(t *testing.T, args ...string) (string, int) {
	t.Helper()
	if err := installed(); err != nil {
		t.Skipf("%s with its package cryptography: %v: build/deps.sh test", interpreter, err)
	}
	return answered(t, "", args...)
}

// answered runs a program as client does, and types what it asks for. The program has no
// terminal.
func answered(t *testing.T, typed string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), interpreter, append([]string{"-B"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdin = strings.NewReader(typed)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// What the client computes is what the vectors have, good and bad ones.
func TestVectors(t *testing.T) {
	out, code := client(t, "vectors.py", filepath.Join("..", "..", "internal", "seal", "testdata", "vectors.json"))
	if code != 0 || !regexp.MustCompile(`^[1-9]\d+ vectors\n$`).MatchString(out) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

// gateway answers on 127.0.0.1 and ::1, as internal/sealed has it in the daemon.
type gateway struct {
	seal     *seal.Gateway
	busy     bool
	starting bool

	mu       sync.Mutex
	ring     *credential.Ring
	used     map[[12]byte]seal.Answer
	singles  []*seal.Knock
	enrolled int
	messages map[string]int // how often one was signed
}

func (g *gateway) serve(conn *net.UDPConn) {
	b, room := make([]byte, 4096), make([]byte, 64)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		d := bytes.Clone(b[:n])
		g.mu.Lock()
		side, busy := g.seal, g.busy
		g.mu.Unlock()
		rank, m := side.Glance(from.Addr().Unmap(), d, busy, room)
		if m > 0 {
			conn.WriteToUDPAddrPort(room[:m], from)
		}
		if rank == seal.Junk {
			continue
		}
		reply, k := side.Open(from.Addr().Unmap(), time.Now(), d)
		if reply != nil {
			conn.WriteToUDPAddrPort(reply, from)
		}
		for _, a := range g.knock(k, from.Addr().Unmap()) {
			conn.WriteToUDPAddrPort(k.Answer(a), from)
		}
	}
}

// knock judges a knock and says what is answered.
func (g *gateway) knock(k *seal.Knock, from netip.Addr) []seal.Answer {
	g.mu.Lock()
	defer g.mu.Unlock()
	if k == nil {
		return nil
	}
	if k.Single != nil {
		g.singles = append(g.singles, k)
		return nil
	}
	if a, again := g.used[k.Number]; again {
		return []seal.Answer{a}
	}
	a := seal.Answer{Status: seal.Opened, Left: 90 * time.Second, Source: from, Next: g.seal.Newest(),
		Ports: []seal.Port{{First: 22, Last: 22}, {UDP: true, First: 60000, Last: 61000}}}
	c, known := k.Credential, false
	switch c.Kind {
	case seal.Key:
		_, known = g.ring.Key(c.Fingerprint, k.Message, c.Proof)
	case seal.Code:
		_, _, known = g.ring.Rescue(c.Bearer)
	case seal.Invite:
		var key credential.Key
		if _, _, key, known = g.ring.Invite(c.Bearer, c.Public, k.Message, c.Proof); known {
			g.enrolled++
			g.ring = credential.NewRing(credential.Origins{Enrolled: credential.NewKeys([]credential.Key{key})})
		}
	}
	switch {
	case !known:
		a = seal.Answer{Status: seal.Refused, Reason: seal.NotAccepted, Source: from, Next: g.seal.Newest()}
	case k.Request.Action == seal.Close:
		a = seal.Answer{Status: seal.Closed, Source: from, Next: g.seal.Newest()}
	case k.Request.Door != "ssh":
		a = seal.Answer{Status: seal.Refused, Reason: seal.NoDoor, Source: from, Next: g.seal.Newest()}
	}
	g.used[k.Number] = a
	g.messages[string(k.Message)]++
	if g.starting {
		return []seal.Answer{{Status: seal.Starting, Source: from, Next: g.seal.Newest()}, a}
	}
	return []seal.Answer{a}
}

// lab is a gateway, and files for its visitor.
type lab struct {
	*gateway
	key, invite, profile, dir string
	ports                     int // that it listens on
}

func newLab(t *testing.T) *lab {
	t.Helper()
	identity, err := seal.NewIdentity([32]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	secret := seal.Profile{2}
	g := &gateway{used: map[[12]byte]seal.Answer{}, messages: map[string]int{},
		seal: seal.NewGateway([]*seal.Identity{identity}, []seal.Profile{secret}, true, nil, time.Now())}
	l := &lab{gateway: g, dir: t.TempDir()}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "alice@laptop")
	if err != nil {
		t.Fatal(err)
	}
	l.key = l.file(t, "id_ed25519", pem.EncodeToMemory(block))
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	blob := public.Marshal()
	code := [16]byte{3}
	known := credential.Key{Blob: blob, Fingerprint: credential.FingerprintOf(blob), Name: "alice"}
	known.Options, err = credential.ParseOptions("")
	if err != nil {
		t.Fatal(err)
	}
	g.ring = credential.NewRing(credential.Origins{File: credential.NewKeys([]credential.Key{known}),
		Invites: []credential.Code{{Hash: credential.HashCode(code), Name: "alice"}},
		Rescues: []credential.Code{{Hash: credential.HashCode(rescueCode), Name: "rescue"}}})

	v := profile.Invite{Expires: time.Now().Add(time.Hour), Secret: secret, Code: code, Fingerprint: identity.Fingerprint(),
		Door: "ssh", Name: "gate", Hosts: []string{"::1", "127.0.0.1"}}
	for network, address := range map[string]string{"udp4": "127.0.0.1", "udp6": "::1"} {
		at := &net.UDPAddr{IP: net.ParseIP(address), Port: int(v.Port)}
		conn, err := net.ListenUDP(network, at)
		if err != nil {
			t.Logf("%s: %v; the test goes on without it", address, err)
			continue
		}
		l.ports++
		v.Port = uint16(conn.LocalAddr().(*net.UDPAddr).Port)
		done := make(chan struct{})
		go func() { defer close(done); g.serve(conn) }()
		t.Cleanup(func() { conn.Close(); <-done })
	}
	l.invite = l.file(t, "invite", []byte(v.String()+"\n"))
	l.profile = l.file(t, "gate.toml", fmt.Appendf(nil, "hosts = [\"127.0.0.1\", \"::1\"]\nport = %d\ncarriers = [\"udp\"]\ndoors = [\"ssh\"]\n"+
		"[gateway]\nfingerprint = %q\nsecret = %q\n[key]\nfile = %q\n", v.Port, identity.Fingerprint(),
		base64.StdEncoding.EncodeToString(secret[:]), l.key))
	return l
}

func (l *lab) file(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The client knocks, and both sides mean the same.
func TestKnock(t *testing.T) {
	const open = `: open for \S+ for 90 s: TCP 22, UDP 60000-61000` + "\n"
	for name, c := range map[string]struct {
		args   []string
		change func(*lab)
		want   string // each line matches this
		code   int
	}{
		"key":              {want: open},
		"busy":             {change: func(l *lab) { l.busy = true }, want: open},
		"starting":         {change: func(l *lab) { l.starting = true }, want: open},
		"close":            {args: []string{"--action", "close"}, want: ": taken back\n"},
		"another door":     {args: []string{"--door", "web"}, want: ": refused: there is no such door\n", code: 1},
		"unknown key":      {change: func(l *lab) { l.ring = credential.NewRing(credential.Origins{}) }, want: ": refused: the gateway does not accept this key\n", code: 1},
		"another identity": {args: []string{"--tries", "1"}, change: func(l *lab) { l.replace([32]byte{9}, seal.Profile{2}) }, want: ": no answer: .*\n", code: 3},
		"another profile":  {args: []string{"--tries", "1"}, change: func(l *lab) { l.replace([32]byte{1}, seal.Profile{9}) }, want: ": no answer: .*\n", code: 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			if c.change != nil {
				l.mu.Lock()
				c.change(l)
				l.mu.Unlock()
			}
			out, code := client(t, append([]string{"knock.py", "--profile", l.profile}, c.args...)...)
			if code != c.code || !regexp.MustCompile(`^((127\.0\.0\.1|::1)`+c.want+`)+$`).MatchString(out) {
				t.Errorf("exit code %d, want %d:\n%s\nwant lines like %s", code, c.code, out, c.want)
			}
			if c.code == 3 {
				return
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			if len(l.messages) != 1 || len(l.used) != l.ports {
				t.Errorf("%d messages were signed for %d handshakes at %d addresses, want one for a handshake at each", len(l.messages), len(l.used), l.ports)
			}
		})
	}
}

// replace makes it another gateway.
func (l *lab) replace(seed [32]byte, p seal.Profile) {
	identity, err := seal.NewIdentity(seed)
	if err != nil {
		panic(err)
	}
	l.seal = seal.NewGateway([]*seal.Identity{identity}, []seal.Profile{p}, true, nil, time.Now())
}

// The first knock with an invite enrols the key.
func TestEnrol(t *testing.T) {
	l := newLab(t)
	out, code := client(t, "knock.py", "--invite", l.invite, "--key", l.key)
	l.mu.Lock()
	defer l.mu.Unlock()
	if code != 0 || !strings.Contains(out, "open for") || l.enrolled != 1 {
		t.Errorf("exit code %d, %d keys enrolled, want 0 and 1:\n%s", code, l.enrolled, out)
	}
}

// rescueCode is one that the gateway knows; every byte of it is another.
var rescueCode = [16]byte{0x0f, 0x1e, 0x2d, 0x3c, 0x4b, 0x5a, 0x69, 0x78, 0x87, 0x96, 0xa5, 0xb4, 0xc3, 0xd2, 0xe1, 0xf0}

// A rescue code is asked for, as it is printed or as people type it.
func TestRescue(t *testing.T) {
	l := newLab(t)
	code := seal.FormatCode(rescueCode)
	bound := strings.TrimSpace(string(mustRead(t, l.invite)))
	v, err := profile.ParseInvite(bound)
	if err != nil {
		t.Fatal(err)
	}
	v.Bound, v.Code = true, [16]byte{}
	sheet := l.file(t, "sheet", []byte(v.String()+"\n"))
	for name, c := range map[string]struct {
		typed string
		args  []string
		want  string
		code  int
	}{
		"as printed":            {code, []string{"--profile", l.profile}, "open for", 0},
		"as typed":              {strings.ToLower(strings.NewReplacer("-", " ", "0", "o", "1", "l").Replace(code)), []string{"--profile", l.profile}, "open for", 0},
		"by the sheet's invite": {code, []string{"--invite", sheet}, "open for", 0},
		"mistyped once":         {strings.Replace(code, code[:1], "Z", 1) + "\n" + code, []string{"--profile", l.profile}, "open for", 0},
		"mistyped":              {"what\nU-never\n" + code[:27] + "\n", []string{"--profile", l.profile}, "error: this is no rescue code, or it was mistyped: allowed are the 28 letters and digits on the sheet", 2},
		"unknown":               {seal.FormatCode([16]byte{9}), []string{"--profile", l.profile}, "refused: the gateway does not accept this key", 1},
		"nobody answers":        {"", []string{"--profile", l.profile}, "error: what was asked for was not given", 2},
		"an invite that enrols": {code, []string{"--invite", l.invite}, "--rescue goes with the invite of a sheet of rescue codes: this one enrols a key", 2},
		"with a key":            {code, []string{"--profile", l.profile, "--key", l.key}, "--rescue goes with none of --key, --certificate and --one-way, and opens only", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, exit := answered(t, c.typed, append([]string{"knock.py", "--rescue"}, c.args...)...)
			if exit != c.code || !strings.Contains(out, c.want) || strings.Contains(out, "Traceback") || strings.Contains(out, code) {
				t.Errorf("exit code %d, want %d:\n%s\nwant %q", exit, c.code, out, c.want)
			}
		})
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Two single packets have two counters, and a proof that is of what the gateway sees.
func TestSinglePackets(t *testing.T) {
	l := newLab(t)
	for range 2 {
		if out, code := client(t, "knock.py", "--profile", l.profile, "--one-way", "--counter", filepath.Join(l.dir, "counter")); code != 0 {
			t.Fatalf("exit code %d:\n%s", code, out)
		}
	}
	l.wait(t, 2*l.ports)
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(l.singles, func(a, b *seal.Knock) int { return int(a.Single.Counter) - int(b.Single.Counter) })
	text, err := os.ReadFile(l.key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	id := credential.FingerprintOf(key.PublicKey().Marshal())
	for i, k := range l.singles {
		if i > 0 && k.Single.Counter == l.singles[i-1].Single.Counter {
			t.Errorf("the counter %d came twice", k.Single.Counter)
		}
		if off := time.Since(time.UnixMicro(int64(k.Single.Counter))); off < 0 || off > time.Minute {
			t.Errorf("the counter is %v from the clock", off)
		}
		if err := key.PublicKey().Verify(credential.Signed(k.Single.Message), &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: k.Single.Proof[:]}); err != nil {
			t.Errorf("the proof: %v", err)
		}
		if !bytes.Equal(k.Single.ID[:], id[:8]) || k.Single.Door != seal.DoorID("ssh") || k.Request.Action != seal.Open {
			t.Errorf("%+v for %+v", k.Single, k.Request)
		}
	}
}

// wait waits for single packets, which nothing answers.
func (l *lab) wait(t *testing.T, n int) {
	t.Helper()
	for {
		l.mu.Lock()
		have := len(l.singles)
		l.mu.Unlock()
		if have >= n {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%d single packets, want %d", have, n)
		case <-time.After(time.Millisecond):
		}
	}
}

// Mistakes are told in a line that says what to do.
func TestMessages(t *testing.T) {
	l := newLab(t)
	whole, err := os.ReadFile(l.invite)
	if err != nil {
		t.Fatal(err)
	}
	other := l.file(t, "id_rsa", rsaKey(t))
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no invite":     {[]string{"--invite", l.file(t, "a", []byte("hello\n")), "--key", l.key}, "an invite begins with 'doorward-invite:': copy the whole line"},
		"not whole":     {[]string{"--invite", l.file(t, "b", whole[:100]), "--key", l.key}, "the invite is not whole, or something follows it: copy the line again"},
		"no key":        {[]string{"--invite", l.invite}, "no key to knock with: name one with --key FILE, or ask for a rescue code with --rescue"},
		"RSA":           {[]string{"--invite", l.invite, "--key", other}, "the key is not an Ed25519 key: make one with ssh-keygen -t ed25519"},
		"profile":       {[]string{"--profile", l.file(t, "c", []byte("hosts = []\n"))}, "c has no 'gateway'"},
		"no counter":    {[]string{"--profile", l.profile, "--one-way"}, "--one-way needs --counter FILE: a gateway takes each number once"},
		"both":          {[]string{"--profile", l.profile, "--invite", l.invite}, "one of --invite FILE and --profile FILE says where to knock"},
		"name too long": {[]string{"--profile", l.profile, "--door", strings.Repeat("x", 65)}, "the name of a door has at most 64 bytes, not 65"},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := client(t, append([]string{"knock.py"}, c.args...)...)
			if code != 2 || !strings.Contains(out, c.want) || strings.Contains(out, "Traceback") {
				t.Errorf("exit code %d, want 2:\n%s\nwant %q", code, out, c.want)
			}
		})
	}
}

func rsaKey(t *testing.T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block)
}
