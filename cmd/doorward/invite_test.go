//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"rsc.io/qr"

	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/control/controltest"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/sealed"
	"github.com/doorward/doorward/internal/share"
)

// office is a daemon of which the sealed knock is the real one.
type office struct {
	t    *testing.T
	kept knock.Kept
	vars map[string]string
	key  string // alice's, in a file
	id   string // its fingerprint
	dir  string
}

// newOffice has a door "ssh" with a sealed knock over UDP and TCP. Nobody may knock. The
// daemon's configuration says where the gateway is.
func newOffice(t *testing.T) *office {
	t.Helper()
	b := controltest.New(control.Status{Time: noon})
	o := &office{t: t, dir: t.TempDir()}
	o.key = filepath.Join(o.dir, "alice.pub")
	line := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINq6kpRSHpckj7CVZnQe2YsZHClKOyJDUdaJ6DJUyNp/ alice@laptop\n"
	file := filepath.Join(o.dir, "doorward.toml")
	for path, text := range map[string]string{o.key: line, file: "[gateway]\nhost = \"gate.example.org\"\n" +
		"[door.ssh]\nports = [\"22/tcp\"]\n[[door.ssh.knock]]\nkind = \"sealed\"\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if o.id, err = boundTo(o.key, false); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{1})
	rule := sealed.Rule{Port: 28511, TCP: true, Identity: "/i", Keys: "/k", MaxOpenFor: time.Hour}
	o.kept = sealed.Kind{}.Keep(random, nil)
	o.kept.Use(noon, []knock.Use{{Door: "ssh", Rule: rule}})
	identity, err := sealed.NewIdentity(random)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range rule.Uses() {
		var text []byte
		if f.Path == "/i" {
			text = identity
		}
		d, err := sealed.Kind{}.Digest(f, text)
		o.kept.Feed(noon, f.Path, d, err)
	}
	b.Change(func(s *control.Status) { s.Config = file })
	b.OnDo(func(_ context.Context, g controltest.Given) (control.Reply, error) {
		r := g.Order.(control.KindRequest)
		if r.Kind != "sealed" {
			t.Errorf("an order to %q", r.Kind)
		}
		change, result, err := o.kept.Order(noon, "operator root (uid 0)", r.What, r.Args)
		var told *knock.OrderError
		if errors.As(err, &told) {
			return control.Reply{}, &control.Error{Code: control.CodeRefused, Message: told.Message, Hint: told.Hint}
		}
		if err == nil && change.Reply != nil {
			result, err = change.Reply()
		}
		reply := control.Reply{Message: "done", Result: result}
		if change.Recheck {
			reply.Ended = 2
		}
		return reply, err
	})
	path, _ := controltest.Serve(t, b)
	o.vars = map[string]string{"DOORWARD_CONTROL": path}
	return o
}

// does runs a command that has to succeed.
func (o *office) does(args ...string) (stdout, stderr string) {
	o.t.Helper()
	code, stdout, stderr := operate(o.t, o.vars, args...)
	if code != 0 {
		o.t.Fatalf("%q: exit status %d\n%s", args, code, stderr)
	}
	return stdout, stderr
}

func (o *office) list() (all sealed.Keys) {
	o.t.Helper()
	stdout, _ := o.does("keys", "--json")
	if err := json.Unmarshal([]byte(stdout), &all); err != nil {
		o.t.Fatal(err)
	}
	return all
}

// The line alone is on standard output, and says where the gateway is and what it has.
func TestInvite(t *testing.T) {
	o := newOffice(t)
	stdout, stderr := o.does("invite", "--for", "alice", "--door", "ssh", "--expires", "2d")
	v, err := profile.ParseInvite(stdout)
	if err != nil || strings.Count(stdout, "\n") != 1 {
		t.Fatalf("%v; standard output is not one line with an invite: %q", err, stdout)
	}
	if v.Code == [16]byte{} || v.Secret == (seal.Profile{}) || v.Fingerprint == (seal.Fingerprint{}) {
		t.Error("the invite lacks a secret")
	}
	v.Code, v.Secret, v.Fingerprint = [16]byte{}, seal.Profile{}, seal.Fingerprint{}
	want := profile.Invite{Expires: noon.Add(48 * time.Hour), Port: 28511, TCP: true, Door: "ssh", Name: "gate", Hosts: []string{"gate.example.org"}}
	if d := cmp.Diff(want, v); d != "" {
		t.Errorf("the invite (-want +got):\n%s", d)
	}
	const words = `An invite for alice to door ssh. It enrols one key, once, until 2026-11-26 12:00
UTC. Until then it is a secret: whoever reads it first can use it.
Send it by a way that only alice reads, or encrypt it: --to KEY.pub


What alice types, on any system with doorward:

  doorward accept LINE

To take it back before that: doorward keys withdraw alice
`
	if d := cmp.Diff(words, stderr); d != "" {
		t.Errorf("what is said (-want +got):\n%s", d)
	}
	if i := o.list().Invites; len(i) != 1 || i[0].Name != "alice" || i[0].Options != `doors="ssh"` {
		t.Errorf("the invites: %+v", i)
	}

	stdout, _ = o.does("invite", "--for", "bob", "--host", "192.0.2.1", "--host", "2001:db8::1", "--json")
	var j inviteJSON
	if err := json.Unmarshal([]byte(stdout), &j); err != nil {
		t.Fatal(err)
	}
	if v, err = profile.ParseInvite(j.Invite); err != nil || v.Name != "gateway" || !cmp.Equal(v.Hosts, []string{"192.0.2.1", "2001:db8::1"}) {
		t.Errorf("%v: %+v, want both addresses, and the name gateway", err, v)
	}
	if !j.Expires.Equal(noon.Add(7*24*time.Hour)) || j.For != "bob" || j.Bound || j.Encrypted || !cmp.Equal(j.Hosts, v.Hosts) {
		t.Errorf("with --json: %+v", j)
	}
}

// A key that is known already needs nothing to enrol with; another one alone can use an
// invite that is bound to it.
func TestInviteBound(t *testing.T) {
	o := newOffice(t)
	for _, bind := range []string{o.key, o.id} {
		stdout, _ := o.does("invite", "--for", "alice", "--bind", bind)
		if v, err := profile.ParseInvite(stdout); err != nil || v.Bound || v.Code == [16]byte{} {
			t.Errorf("%v: %+v, want one that enrols", err, v)
		}
	}
	if i := o.list().Invites; len(i) != 2 || i[0].Key != o.id {
		t.Errorf("the invites are for another key than %s: %+v", o.id, i)
	}
	o.does("keys", "add", o.key)
	stdout, stderr := o.does("invite", "--for", "alice", "--bind", o.key)
	if v, err := profile.ParseInvite(stdout); err != nil || !v.Bound || v.Code != [16]byte{} {
		t.Errorf("%v: %+v, want one that enrols nobody", err, v)
	}
	if !strings.HasPrefix(stderr, "The key of alice is known already.") || strings.Contains(stderr, "withdraw") {
		t.Errorf("it says:\n%s", stderr)
	}
	if n := len(o.list().Invites); n != 2 {
		t.Errorf("%d invites are outstanding, want the 2 from before", n)
	}
}

// An invite for single packets makes a profile that knocks with them, where the door takes
// them.
func TestInviteOneWay(t *testing.T) {
	o := newOffice(t)
	code, _, stderr := operate(o.t, o.vars, "invite", "--for", "alice", "--one-way")
	const refused = `doorward: error: door "ssh" takes no single packets
doorward: hint: one_way = true at the knock in the configuration, and doorward apply; or an invite without --one-way
`
	if code == 0 || stderr != refused {
		t.Errorf("at a door that takes none: exit status %d, and\n%s", code, stderr)
	}
	for _, any := range []bool{false, true} {
		p := profileOf(profile.Invite{Hosts: []string{"192.0.2.1"}, OneWay: true, AnySource: any}, "gate")
		if !p.OneWay || p.AnySource != any {
			t.Errorf("the profile is %+v, want single packets, from any source: %v", p, any)
		}
	}
	line, err := lineOf(sealed.Invite{Code: make([]byte, 16), Profile: make([]byte, 16), Fingerprint: o.id, Port: 1, OneWay: true, AnySource: true,
		Expires: noon}, []string{"192.0.2.1"})
	if v, wrong := profile.ParseInvite(line); err != nil || wrong != nil || !v.OneWay || !v.AnySource {
		t.Errorf("%v, %v: the line says %+v, want single packets from any source", err, wrong, v)
	}
}

// An invite can be encrypted to an SSH key, and is nowhere in clear then.
func TestInviteEncrypted(t *testing.T) {
	o := newOffice(t)
	identity := filepath.Join(o.dir, "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", identity).CombinedOutput(); err != nil {
		t.Skipf("needs the program ssh-keygen: %v %s", err, out)
	}
	stdout, stderr := o.does("invite", "--for", "alice", "--to", identity+".pub")
	private, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := share.ParseIdentity(private)
	if err != nil {
		t.Fatal(err)
	}
	line, err := share.Decrypt([]byte(stdout), mine)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := profile.ParseInvite(string(line)); err != nil {
		t.Error(err)
	}
	if strings.Contains(stdout+stderr, strings.TrimSpace(string(line))) || !strings.Contains(stderr, "\n  age -d -i ~/.ssh/id_ed25519 FILE | doorward accept -\n") {
		t.Errorf("it says:\n%s%s", stdout, stderr)
	}
}

// A sheet has codes that the gateway knows, and what a machine without a profile needs.
func TestRescueSheet(t *testing.T) {
	o := newOffice(t)
	sheet, stderr := o.does("invite", "--rescue", "2", "--door", "ssh")
	if stderr != "" || !strings.HasPrefix(sheet, "RESCUE CODES for door ssh at gate.example.org\nmade 24 November 2026; the knock is at port 28511 (udp and tcp)\n\n    1  [ ]  ") ||
		!strings.Contains(sheet, "\n  doorward knock gate ssh --rescue\n") {
		t.Errorf("the sheet:\n%s%s", sheet, stderr)
	}
	n := 0
	for line := range strings.Lines(sheet) {
		if _, code, ok := strings.Cut(line, "[ ]  "); ok {
			if _, err := seal.ParseCode(code); err != nil {
				t.Error(err)
			}
			n++
		}
		if len(strings.TrimRight(line, "\n")) > 80 {
			t.Errorf("too long for paper: %q", line)
		}
	}
	_, rest, _ := strings.Cut(sheet, "doorward-invite:")
	line, _, _ := strings.Cut(rest, "\nIf the sheet")
	v, err := profile.ParseInvite("doorward-invite:" + line)
	if err != nil || !v.Bound || v.Expires.Year() != 2046 {
		t.Errorf("%v: %+v, want an invite that enrols nobody, and does not expire soon", err, v)
	}
	all := o.list()
	if n != 2 || len(all.Rescues) != 2 || all.Rescues[0].Options != `doors="ssh"` || len(all.Invites) != 0 {
		t.Errorf("%d codes on the sheet, and with the gateway: %+v", n, all)
	}
	if stdout, _ := o.does("keys", "withdraw", "--rescues"); stdout != "withdrew all 2 rescue codes\n" || len(o.list().Rescues) != 0 {
		t.Errorf("%s, and left are %+v", stdout, o.list().Rescues)
	}
}

func TestInviteUsage(t *testing.T) {
	o := newOffice(t)
	token := filepath.Join(t.TempDir(), "token.pub")
	if err := os.WriteFile(token, []byte(touchedKey), 0o600); err != nil {
		t.Fatal(err)
	}
	const tokenFingerprint = "SHA256:/p0CbeE3dk2SyW1OXXsThGc12ezDVD8eGw2/vtztDfk"
	const help = "doorward: hint: doorward invite --help\n"
	for args, want := range map[string]string{
		"invite":                                                   "2 --for is missing: whom the invite is for, such as --for alice\n" + help,
		"invite --for x -q":                                        "2 --quiet would make secrets that nobody sees: 2>/dev/null leaves them alone on standard output\n" + help,
		"invite --for x --expires 9":                               "2 --expires \"9\": allowed is a time such as 12h, 7d or 4w\n" + help,
		"invite --for x --expires -1d":                             "2 --expires \"-1d\": allowed is a time such as 12h, 7d or 4w\n" + help,
		"invite --for x --expires 53w":                             "6 an invite that lasts 32054400 seconds: allowed are 60 to 31622400 (366 days)\n",
		"invite --for x --host gate:22":                            "2 --host: host \"gate:22\": allowed are names such as gate.example.org and IP addresses\n" + help,
		"invite --for x --bind none.pub":                           "2 --bind: neither a fingerprint (SHA256:...) nor a public key nor a file of one: open none.pub: no such file or directory\n" + help,
		"invite --for x --one-way --bind " + token:                 "2 --bind: the key " + tokenFingerprint + " is of type sk-ssh-ed25519@openssh.com, and with --one-way a single packet has room for Ed25519 keys, ECDSA keys of P-256 and machines' secrets alone: ask for another key\n" + help,
		"invite --for x --qr --json":                               "2 --qr goes with neither --json nor --to\n" + help,
		"invite --rescue 3 --for x":                                "2 --rescue and --for exclude one another\n" + help,
		"invite --rescue 0":                                        "2 --rescue 0: allowed are 1 to 100 codes\n" + help,
		"invite --for x --door web":                                "6 door \"web\" has no sealed knock: allowed are ssh\n",
		"invite --for x --options cert-authority,principals=\"x\"": "6 options: cert-authority and principals are options of authorities, which have a line in the file of keys: remove them here\n",
	} {
		code, stdout, stderr := operate(t, o.vars, strings.Fields(args)...)
		number, text, _ := strings.Cut(want, " ")
		if strings.HasPrefix(stdout, "doorward") || stderr != "doorward: error: "+text || string(rune('0'+code)) != number {
			t.Errorf("%s: got %d, %q and %s\nwant %s", args, code, stdout, stderr, want)
		}
	}
	if n := len(o.list().Invites); n != 0 {
		t.Errorf("%d invites were made all the same", n)
	}
}

// What has no host anywhere is asked for before there is an invite.
func TestInviteWithoutHost(t *testing.T) {
	o := newOffice(t)
	file := filepath.Join(o.dir, "doorward.toml")
	if err := os.WriteFile(file, []byte("[door.ssh]\nports = [\"22/tcp\"]\n[[door.ssh.knock]]\nkind = \"sealed\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := operate(t, o.vars, "invite", "--for", "alice")
	want := "doorward: error: --host is missing: the name or address by which visitors reach this gateway\n" +
		"doorward: hint: doorward invite --for alice --host gate.example.org; or, once for all, in " + file + ": [gateway] host = \"gate.example.org\"\n"
	if code != 2 || stderr != want {
		t.Errorf("got %d, %s\nwant 2, %s", code, stderr, want)
	}
	if n := len(o.list().Invites); n != 0 {
		t.Errorf("%d invites were made all the same", n)
	}
}

// A code has its three marks and its margin, in plain characters where no terminal is.
func TestDrawQR(t *testing.T) {
	drawn, err := drawQR("doorward", false)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(drawn, "\n"), "\n")
	const mark = "    █▀▀▀▀▀█"
	if len(lines) != 15 || strings.TrimSpace(lines[0]+lines[1]) != "" || !strings.HasPrefix(lines[2], mark) ||
		!strings.HasSuffix(lines[2], "█▀▀▀▀▀█    ") || !strings.HasPrefix(lines[9], mark) {
		t.Errorf("it is:\n%s", drawn)
	}
	if onTerminal, _ := drawQR("doorward", true); !strings.HasPrefix(onTerminal, "\x1b[30;107m") || !strings.HasSuffix(onTerminal, "\x1b[0m\n") {
		t.Errorf("on a terminal: %q", onTerminal)
	}
}

// What --qr draws below the line is the code of that line, module by module, in a margin
// that is light.
func TestInviteQR(t *testing.T) {
	o := newOffice(t)
	stdout, _ := o.does("invite", "--for", "alice", "--qr")
	line, drawn, _ := strings.Cut(stdout, "\n\n")
	if _, err := profile.ParseInvite(line); err != nil {
		t.Fatal(err)
	}
	code, err := qr.Encode(line, qr.L)
	if err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSuffix(drawn, "\n"), "\n")
	if want := (code.Size + 2*4 + 1) / 2; len(rows) != want {
		t.Fatalf("%d lines, want %d:\n%s", len(rows), want, drawn)
	}
	for y, row := range rows {
		for x, r := range []rune(row) {
			upper, lower := r == '█' || r == '▀', r == '█' || r == '▄'
			if upper != code.Black(x-4, 2*y-4) || lower != code.Black(x-4, 2*y-3) || len([]rune(row)) != code.Size+2*4 {
				t.Fatalf("line %d, character %d is %q:\n%s", y, x, r, drawn)
			}
		}
	}
}

// What these commands print follows its schema.
func TestInvitesAndKeysFollowTheirSchemas(t *testing.T) {
	o := newOffice(t)
	for _, tt := range []struct{ args, object string }{
		{"invite --for alice --json", "invite"},
		{"invite --rescue 2 --json", "rescue"},
		{"keys add " + o.key + " --json", "keys-done"},
		{"keys lock alice@laptop --json", "keys-done"},
		{"keys list --json", "keys"},
	} {
		stdout, _ := o.does(strings.Fields(tt.args)...)
		var v any
		if err := json.Unmarshal([]byte(stdout), &v); err != nil {
			t.Fatal(err)
		}
		if err := schemaOf(t, tt.object).Validate(v); err != nil {
			t.Errorf("%s: %v\n%s", tt.args, err, stdout)
		}
	}
}
