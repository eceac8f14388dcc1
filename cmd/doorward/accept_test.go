//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/client/clienttest"
	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/signer"
	"github.com/doorward/doorward/internal/visit"
)

// traveller is a visitor with a home of their own and an ssh-agent, and a gateway on this
// machine's loopback that knows nobody yet.
type traveller struct {
	t       *testing.T
	home    string
	vars    map[string]string
	answers []string // to what is asked
	asked   []string
	gateway *clienttest.Gateway
	invite  profile.Invite
	now     time.Time
	ctx     context.Context
	printed func() // called after each print to standard output; may be nil
	visits  *visit.Visitor
	network *client.Client
}

var inviteCode = [16]byte{7, 7}

func newTraveller(t *testing.T) *traveller {
	t.Helper()
	home := t.TempDir()
	v := &traveller{t: t, home: home, vars: map[string]string{"HOME": home}, ctx: t.Context(),
		now: time.Date(2026, 11, 27, 14, 0, 0, 0, time.UTC)}
	v.gateway = clienttest.New(t, nil)
	v.invited()
	port := v.gateway.Serve(t, "127.0.0.1", true, false)
	v.invite = profile.Invite{Expires: v.now.Add(time.Hour), Secret: clienttest.Secret, Code: inviteCode,
		Fingerprint: v.gateway.Identity.Fingerprint(), Port: port, Door: "ssh", Name: "gate", Hosts: []string{"127.0.0.1"}}
	return v
}

// invited has the gateway know an invite, and the keys of lines.
func (v *traveller) invited(lines ...string) {
	v.t.Helper()
	keys, problems := credential.Parse([]byte(strings.Join(lines, "\n")), "keys")
	if len(problems) > 0 {
		v.t.Fatal(problems)
	}
	code := credential.Code{Hash: credential.HashCode(inviteCode), Name: "alice"}
	rescue := credential.Code{Hash: credential.HashCode([16]byte{3}), Name: "rescue"}
	v.gateway.Ring(credential.NewRing(credential.Origins{File: credential.NewKeys(keys), Invites: []credential.Code{code}, Rescues: []credential.Code{rescue}}))
}

// key makes one in ~/.ssh and returns its public line.
func (v *traveller) key(name string, args ...string) string {
	v.t.Helper()
	path := filepath.Join(v.home, ".ssh", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		v.t.Fatal(err)
	}
	args = append([]string{"-q", "-t", "ed25519", "-N", "", "-C", "alice@laptop", "-f", path}, args...)
	if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
		v.t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil {
		v.t.Fatal(err)
	}
	return string(public)
}

// run runs a command; what differs each time is in capitals.
func (v *traveller) run(args ...string) (code int, stdout, stderr string) {
	v.t.Helper()
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(""), stdout: &watched{&out, v.printed}, stderr: &errs, getenv: func(name string) string { return v.vars[name] },
		now: func() time.Time { return v.now }, profiles: profile.Directory(filepath.Join(v.home, "profiles")), visits: v.visits, knocks: v.network,
		ask: func(_ context.Context, prompt string, _ bool) ([]byte, error) {
			v.asked = append(v.asked, prompt)
			if len(v.answers) == 0 {
				return nil, signer.ErrNobody
			}
			answer := v.answers[0]
			v.answers = v.answers[1:]
			return []byte(answer), nil
		}}
	code = run(v.ctx, e, args)
	port := regexp.MustCompile(`\b` + strconv.Itoa(int(v.invite.Port)) + `\b`)
	plain := func(b *bytes.Buffer) string {
		text := strings.ReplaceAll(b.String(), v.home, "HOME")
		text = port.ReplaceAllString(text, "PORT")
		text = regexp.MustCompile(`SHA256:[A-Za-z0-9+/]{43}`).ReplaceAllString(text, "SHA256:KEY")
		return text
	}
	return code, plain(&out), plain(&errs)
}

// want runs a command and compares all that it does.
func (v *traveller) want(code int, stdout, stderr string, args ...string) {
	v.t.Helper()
	gotCode, gotOut, gotErr := v.run(args...)
	if gotCode != code {
		v.t.Errorf("%q: exit status %d, want %d", args, gotCode, code)
	}
	if d := cmp.Diff(stdout, gotOut); d != "" {
		v.t.Errorf("%q: standard output (-want +got):\n%s", args, d)
	}
	if d := cmp.Diff(stderr, gotErr); d != "" {
		v.t.Errorf("%q: standard error (-want +got):\n%s", args, d)
	}
}

const acceptedText = `127.0.0.1 knows your key: SHA256:KEY (HOME/.ssh/id_ed25519)
open until 14:01:00 for 127.0.0.1
profile gate is written: HOME/profiles/gate.toml

From now on: doorward knock gate
or, with these lines in ~/.ssh/config: ssh gate

Host gate 127.0.0.1
    HostName 127.0.0.1
    Port 22
    ProxyCommand doorward connect %h %p --profile gate --door ssh

doorward ssh-config gate --install puts them there.
`

// From the invite to knocks, and all that can be done with a profile.
func TestAccept(t *testing.T) {
	v := newTraveller(t)
	line := v.key("id_ed25519")
	v.want(0, acceptedText, "", "accept", v.invite.String())
	if k := v.gateway.Knocks(); len(k) != 1 || k[0].Kind != seal.Invite || k[0].Party == nil || k[0].Request.Door != "ssh" {
		t.Errorf("the gateway has seen %+v", k)
	}
	info, err := os.Stat(filepath.Join(v.home, "profiles", "gate.toml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the profile: %v, %v", info, err)
	}

	v.want(6, "", "doorward: error: the gateway does not accept this key\n"+
		"doorward: hint: it is not known there, or no longer: ask the gateway's operator, who finds out with doorward keys list and doorward log; the gateway was shown SHA256:KEY (HOME/.ssh/id_ed25519), and sees you at 127.0.0.1\n", "knock", "gate")
	v.invited(line)
	v.want(0, "open until 14:01:00 for 127.0.0.1\n", "", "knock", "gate")
	v.want(0, "open until 16:00:00 for 127.0.0.1\n", "", "knock", "gate", "web", "--open-for", "2h")
	v.want(0, "open until 14:01:00 for 203.0.113.7\n", "", "knock", "gate", "--address", "203.0.113.7")
	v.want(0, "open until 14:01:00 for 127.0.0.1\n", "", "knock", "gate", "--extend")
	v.want(0, "closed for 127.0.0.1\n", "", "knock", "gate", "--close")
	var asked []string
	for _, k := range v.gateway.Knocks()[2:] {
		asked = append(asked, strings.TrimSpace(k.Request.Door+" "+actionWords[k.Request.Action]+" "+k.Request.OpenFor.String()))
	}
	if d := cmp.Diff([]string{"ssh open 0s", "web open 2h0m0s", "ssh open 0s", "ssh extend 0s", "ssh close 0s"}, asked); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
	v.want(0, "PROFILE  HOSTS      DOORS  KEY\ngate     127.0.0.1  ssh    HOME/.ssh/id_ed25519\n", "", "profiles")
	v.want(0, "profile  gate\nfile     HOME/profiles/gate.toml\nhosts    127.0.0.1\nport     PORT/udp\ndoors    ssh\n"+
		"key      HOME/.ssh/id_ed25519\ngateway  SHA256:KEY\nsuite    MLKEM768-X25519\n", "", "profiles", "show", "gate")
	v.want(1, "", "doorward: error: there is no such profile: \"gat\" (HOME/profiles/gat.toml)\ndoorward: hint: there are: gate\n", "profiles", "show", "gat")
	v.want(0, "removed gate; the gateway still knows your key, until its operator removes it\n"+
		"lines for ssh, if it has any: doorward ssh-config gate --remove\n", "", "profiles", "remove", "gate")
	v.want(0, "no profiles: doorward accept makes one of an invite\n", "", "profiles")
}

// Whatever the invite is in.
func TestAcceptFrom(t *testing.T) {
	v := newTraveller(t)
	v.key("id_ed25519")
	path := filepath.Join(v.home, "invite.txt")
	if err := os.WriteFile(path, []byte("\n  "+v.invite.String()[:40]+"\n"+v.invite.String()[40:]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v.want(0, acceptedText, "", "accept", path)
	v.want(1, "", "doorward: error: read the invite: open HOME/none: no such file or directory\n", "accept", v.home+"/none")
	bad := v.invite.String()
	code, _, stderr := v.run("accept", bad[:len(bad)-5])
	if code != 1 || !strings.Contains(stderr, "this is no invite that this doorward can read") {
		t.Errorf("half an invite: %d, %s", code, stderr)
	}
	v.now = v.now.Add(2 * time.Hour)
	if _, _, stderr := v.run("accept", path); stderr != "doorward: note: by this machine's clock the invite has expired on 15:00:00\n" {
		t.Errorf("late by the clock, which may be wrong: %s", stderr)
	}
}

// Which key is enrolled.
func TestAcceptKeys(t *testing.T) {
	v := newTraveller(t)
	v.want(1, "", "doorward: error: there is no SSH key: none in ssh-agent, and no ~/.ssh/id_*.pub\n"+
		"doorward: hint: ssh-keygen -t ed25519; or --key FILE names one\n", "accept", v.invite.String())
	v.key("id_ed25519")
	v.key("id_second")
	v.want(2, "", "doorward: error: there are several keys, and --key is missing:\n"+
		"  SHA256:KEY ssh-ed25519 alice@laptop (HOME/.ssh/id_ed25519)\n  SHA256:KEY ssh-ed25519 alice@laptop (HOME/.ssh/id_second)\n"+
		"doorward: hint: --key SHA256:KEY, or --yes for the first\n", "accept", v.invite.String())
	v.want(0, acceptedText, "", "accept", v.invite.String(), "--yes")
	v.want(0, strings.ReplaceAll(acceptedText, "id_ed25519", "id_second"), "", "accept", v.invite.String(), "--key", v.home+"/.ssh/id_second")
	v.want(1, "", "doorward: error: --key \"nothing\": no such file, and no fingerprint, which is \"SHA256:\" and 43 characters\n"+
		"doorward: hint: ssh-add -l lists the keys of ssh-agent\n", "accept", v.invite.String(), "--key", "nothing")
	if k := v.gateway.Knocks(); len(k) != 2 || k[0].Party.ID == k[1].Party.ID {
		t.Errorf("the gateway has seen %+v", k)
	}
}

// The key is encrypted: its passphrase is asked for, as often as ssh asks.
func TestEncryptedKey(t *testing.T) {
	v := newTraveller(t)
	v.key("id_ed25519", "-N", "secret", "-a", "1")
	v.answers = []string{"wrong", "secret"}
	v.want(0, acceptedText, "", "accept", v.invite.String())
	want := []string{"Passphrase of HOME/.ssh/id_ed25519: ", "That was not it. Passphrase of HOME/.ssh/id_ed25519: "}
	if d := cmp.Diff(want, strings.Split(strings.ReplaceAll(strings.Join(v.asked, "\n"), v.home, "HOME"), "\n")); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
	v.want(1, "", "doorward: error: \"HOME/.ssh/id_ed25519\" is encrypted: there is no terminal to ask on, and no SSH_ASKPASS; "+
		"or give it to ssh-agent: ssh-add HOME/.ssh/id_ed25519\n", "knock", "gate")
	v.answers = []string{"a", "b", "c", "d"}
	v.want(1, "", "doorward: error: \"HOME/.ssh/id_ed25519\" is encrypted, and none of 3 passphrases was right\n", "knock", "gate")
}

// An invite whose answer was lost is accepted again; another's spent one is not. A name is
// one gateway's.
func TestAcceptAgain(t *testing.T) {
	v := newTraveller(t)
	line := v.key("id_ed25519")
	spent := func(k clienttest.Knock) []seal.Answer {
		if k.Kind == seal.Invite {
			return []seal.Answer{{Status: seal.Refused, Reason: seal.Spent, Source: k.From}}
		}
		return v.gateway.Open(k)
	}
	v.gateway.Answer(spent)
	v.want(6, "", "doorward: error: this invite was used before, and counts once: ask the gateway's operator for another\n", "accept", v.invite.String())
	if _, err := os.Stat(filepath.Join(v.home, "profiles")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written for an invite that was refused: %v", err)
	}
	v.invited(line)
	v.want(0, acceptedText, "", "accept", v.invite.String())
	other := v.invite
	other.Fingerprint[0]++
	other.Port++
	code, _, stderr := v.run("accept", other.String())
	if code != 1 || stderr != "doorward: error: there is a profile of this name already, of another gateway: HOME/profiles/gate.toml\n"+
		"doorward: hint: doorward accept --name OTHER, or doorward profiles remove gate\n" {
		t.Errorf("another gateway's: %d, %s", code, stderr)
	}
}

// A rescue code is asked for.
func TestRescue(t *testing.T) {
	v := newTraveller(t)
	v.key("id_ed25519")
	v.want(0, acceptedText, "", "accept", v.invite.String())
	v.answers = []string{"0000", strings.ToLower(seal.FormatCode([16]byte{3}))}
	v.want(0, "open until 14:01:00 for 127.0.0.1\n",
		"doorward: this is no code, or it was mistyped: allowed are the 28 letters and digits on the sheet; dashes and spaces do not matter\n", "knock", "gate", "--rescue")
	v.want(1, "", "doorward: error: the rescue code is asked for, and is on no command line: there is no terminal to ask on, and no SSH_ASKPASS\n", "knock", "gate", "--rescue")
	v.answers = []string{seal.FormatCode([16]byte{4})}
	v.want(6, "", "doorward: error: the gateway does not accept this rescue code\ndoorward: hint: is it of this gateway's sheet, and was it not crossed out?\n", "knock", "gate", "--rescue")
}

// What a visitor waits for, and what the gateway refuses, is said.
func TestKnockSays(t *testing.T) {
	v := newTraveller(t)
	line := v.key("id_ed25519")
	v.want(0, acceptedText, "", "accept", v.invite.String())
	v.invited(line)
	for _, tt := range []struct {
		answers []seal.Answer
		code    int
		stdout  string
		stderr  string
	}{
		{[]seal.Answer{{Status: seal.Refused, Reason: seal.NoDoor}}, 5, "", "doorward: error: the gateway has no such door: name another, or none for its first\ndoorward: hint: it was asked for \"ssh\"\n"},
		{[]seal.Answer{{Status: seal.Refused, Reason: seal.NotStarted}}, 6, "", "doorward: error: the service behind the door did not start; the gateway's operator sees why in doorward log\n"},
		{[]seal.Answer{{Status: seal.Refused, Reason: seal.Reason(credential.Locked)}}, 6, "", "doorward: error: your key is locked: ask the gateway's operator, who locked it and can unlock it\ndoorward: hint: the gateway was shown SHA256:KEY (HOME/.ssh/id_ed25519)\n"},
	} {
		v.gateway.Answer(func(clienttest.Knock) []seal.Answer { return tt.answers })
		v.want(tt.code, tt.stdout, tt.stderr, "knock", "gate")
	}
	v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
		return append([]seal.Answer{{Status: seal.Starting}}, v.gateway.Open(k)...)
	})
	v.want(0, "open until 14:01:00 for 127.0.0.1\n", "doorward: the service behind the door is being started\n", "knock", "gate")
}

// --wait, a command and --json go with a profile as with touches.
func TestKnockWaits(t *testing.T) {
	v := newTraveller(t)
	v.invited(v.key("id_ed25519"))
	v.want(0, acceptedText, "", "accept", v.invite.String())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	code, stdout, stderr := v.run("knock", "gate", "--wait", port)
	if code != 0 || !regexp.MustCompile(`^open until 14:01:00 for 127.0.0.1\nopen: `+port+`/tcp on 127.0.0.1 after [0-9.µms]+\n$`).MatchString(stdout) || stderr != "" {
		t.Errorf("--wait: %d\n%s\n%s", code, stdout, stderr)
	}
	code, stdout, stderr = v.run("knock", "gate", "--wait", port, "--", "sh", "-c", "echo in; exit 3")
	if code != 3 || stdout != "in\n" || !strings.HasPrefix(stderr, "open until ") {
		t.Errorf("a command: %d\n%s\n%s", code, stdout, stderr)
	}
	l.Close()
	code, _, stderr = v.run("knock", "gate", "--wait", port, "--timeout", "10ms")
	want := regexp.MustCompile("^doorward: error: " + port + "/tcp on 127.0.0.1 did not open within 10ms: it (refuses connections|does not answer)\n" +
		"doorward: hint: the door is open, and its ports are 22/tcp: --wait one of those\n$")
	if code != 7 || !want.MatchString(stderr) {
		t.Errorf("a port that is shut: %d\n%s\nwant\n%s", code, stderr, want)
	}
	code, stdout, _ = v.run("knock", "gate", "--json")
	stdout = regexp.MustCompile(`"took_ms": [0-9.]+`).ReplaceAllString(stdout, `"took_ms": MS`)
	object := `{
  "api": 1,
  "profile": "gate",
  "door": "ssh",
  "action": "open",
  "ok": true,
  "answers": [
    {
      "gateway": "127.0.0.1",
      "port": "PORT/udp",
      "status": "open",
      "source": "127.0.0.1",
      "until": "2026-11-27T14:01:00Z",
      "reason": "",
      "message": "",
      "ports": [
        "22/tcp"
      ],
      "took_ms": MS
    }
  ],
  "wait": []
}
`
	if d := cmp.Diff(object, stdout); code != 0 || d != "" {
		t.Errorf("--json: %d (-want +got):\n%s", code, d)
	}
}

// watched is a writer that somebody listens to.
type watched struct {
	*bytes.Buffer
	printed func()
}

func (w *watched) Write(b []byte) (int, error) {
	n, err := w.Buffer.Write(b)
	if w.printed != nil {
		w.printed()
	}
	return n, err
}

// hold says when the door opens, and closes it behind whoever stops it.
func TestHold(t *testing.T) {
	v := newTraveller(t)
	v.invited(v.key("id_ed25519"))
	v.want(0, acceptedText, "", "accept", v.invite.String())
	until := func() {
		ctx, stop := context.WithCancel(t.Context())
		t.Cleanup(stop)
		v.ctx, v.printed = ctx, stop
	}
	until()
	v.want(0, "open until 14:01:00 for 127.0.0.1\nclosed for 127.0.0.1\n", "", "hold", "gate")
	k := v.gateway.Knocks()
	if last := k[len(k)-1]; last.Request.Action != seal.Close {
		t.Errorf("the last knock is %+v", last)
	}
	until()
	_, stdout, _ := v.run("hold", "gate", "--json")
	if n := strings.Count(stdout, "\n"); n != 2 || !strings.Contains(stdout, `"action":"close","ok":true`) {
		t.Errorf("--json: %s", stdout)
	}
	until()
	v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
		return []seal.Answer{{Status: seal.Refused, Reason: seal.Reason(credential.Revoked), Source: k.From}}
	})
	v.want(6, "", "doorward: error: your key or certificate is revoked: ask the gateway's operator for a new invite, or get a new certificate\ndoorward: hint: the gateway was shown SHA256:KEY (HOME/.ssh/id_ed25519), and sees you at 127.0.0.1\n", "hold", "gate")
}

// A machine without a profile, and without a key, gets one with the invite of a sheet.
func TestAcceptRescue(t *testing.T) {
	v := newTraveller(t)
	v.want(2, "", "doorward: error: --rescue goes with the invite of a sheet of rescue codes: this one enrols a key\n", "accept", v.invite.String(), "--rescue")
	v.invite.Bound, v.invite.Code = true, [16]byte{}
	v.answers = []string{seal.FormatCode([16]byte{3})}
	v.want(0, `127.0.0.1 has accepted the code, which is used up
open until 14:01:00 for 127.0.0.1
profile gate is written: HOME/profiles/gate.toml

From now on: doorward knock gate --rescue
`, "", "accept", v.invite.String(), "--rescue")
	v.want(1, "", "doorward: error: profile gate has no key\ndoorward: hint: doorward knock gate --rescue asks for a rescue code; "+
		"doorward accept of another invite gives it a key\n", "knock", "gate")
	v.want(2, "", "doorward: error: profile gate is there already\ndoorward: hint: doorward knock gate --rescue\n", "accept", v.invite.String(), "--rescue")
}
