//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/client"
	"github.com/doorward/doorward/internal/client/clienttest"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/files"
	"github.com/doorward/doorward/internal/profile"
	"github.com/doorward/doorward/internal/seal"
	"github.com/doorward/doorward/internal/share"
	"github.com/doorward/doorward/internal/socks"
)

// Whoever makes an invite writes no lines of their own into ~/.ssh/config, and nothing into
// the commands there: whatever can be read as an invite comes to the lines that are meant.
func TestInvitesWriteNoLinesOfTheirOwn(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z:]{1,6}[-.%: '"\n$a-z]{0,9}`),
		rapid.Map(rapid.String(), func(zone string) string { return "fe80::1%" + zone }), rapid.Just("gate.example.org"))
	lines := regexp.MustCompile(`^# doorward: [\w.-]+ begins\n` +
		`Host [\w.-]+( [\w.:%-]+)?\n    HostName [\w.:%-]+\n` +
		`(Host [\w.:% -]+\n)?    Port 22\n` +
		`    ProxyCommand doorward connect %h %p --profile [\w.-]+( --door [\w.-]+)?\n` +
		`Host \*\n# doorward: [\w.-]+ ends\n$`)
	home := t.TempDir()
	e := &env{getenv: func(name string) string { return map[string]string{"HOME": home}[name] }}
	config := filepath.Join(home, ".ssh", "config")
	rapid.Check(t, func(t *rapid.T) {
		v := profile.Invite{Port: 1, Name: text.Draw(t, "name"), Door: text.Draw(t, "door"), Hosts: rapid.SliceOfN(text, 1, 3).Draw(t, "hosts")}
		if v.Check() != nil {
			v.Name, v.Door = "gate", ""
		}
		v, err := profile.ParseInvite(v.String())
		if err != nil {
			return
		}
		p := &passage{e: e, profile: profileOf(v, v.Name), request: seal.Request{Door: v.Door}}
		p.profile.Ports = map[string][]string{v.Door: {"22/tcp"}}
		if err := (&sshConfigOptions{install: true, quiet: true}).run(p); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(config)
		if !lines.Match(regexp.MustCompile(`ProxyCommand \S+`).ReplaceAll(got, []byte("ProxyCommand doorward"))) {
			t.Errorf("an invite to %q as %q, door %q, writes\n%s", v.Hosts, v.Name, v.Door, got)
		}
	})
}

// What an invite calls its gateway is not another host's name: ssh would go to the gateway
// where that is typed.
func TestInvitesTakeNobodysName(t *testing.T) {
	v := newTraveller(t)
	v.key("id_ed25519")
	v.invite.Name = "git.example.org"
	v.want(1, "", `doorward: error: the invite calls the gateway git.example.org, as a host that it is not: it is at 127.0.0.1
doorward: hint: --name gateway, or another name without dots
`, "accept", v.invite.String(), "--install")
	if n := v.knocks(); n > 0 {
		t.Errorf("%d knocks, want none", n)
	}
	if code, _, errs := v.run("accept", v.invite.String(), "--name", "gate"); code != 0 {
		t.Errorf("with a name: status %d, %s", code, errs)
	}
}

// A gateway's key that has changed is not changed without a word, and a profile that cannot
// be read is not said to be another gateway's.
func TestAcceptInPlaceOfAProfile(t *testing.T) {
	v, _ := enrolled(t)
	path := filepath.Join(v.home, "profiles", "gate.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := v.gateway.Identity.Fingerprint().String()
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.Replace(string(text), fingerprint, "SHA256:"+strings.Repeat("A", 43), 1), 0o600)
	const changed = "doorward: note: the gateway of profile gate has another key by this invite, SHA256:KEY, than before, SHA256:KEY\n"
	if code, _, errs := v.run("accept", v.invite.String()); code != 0 || errs != changed {
		t.Errorf("status %d, %q, want 0 and %q", code, errs, changed)
	}
	write("hosts = 1\n", 0o600)
	code, _, errs := v.run("accept", v.invite.String())
	if code != 1 || !strings.Contains(errs, "gate.toml: ") || !strings.Contains(errs, "hint: mend that; or doorward profiles remove gate, and accept the invite then; or --name OTHER\n") {
		t.Errorf("a profile that is damaged: status %d, %q", code, errs)
	}
}

// What another call has failed in counts for those that have waited for it. It does not
// once the clock was set back, as after a wrong start: that record is of the future.
func TestAFailureOfTheFuture(t *testing.T) {
	v, s := enrolled(t)
	port := fmt.Sprint(s.port)
	line := v.key("other")
	allowed, err := os.ReadFile(filepath.Join(v.home, ".ssh", "id_ed25519.pub"))
	if err != nil {
		t.Fatal(err)
	}
	v.now = v.now.Add(time.Hour) // the grant of accept is over
	v.invited(line)
	if code, _, errs := v.connect("", nil, "gate", port); code != 6 {
		t.Fatalf("a key that nobody knows: status %d, %q, want 6", code, errs)
	}
	v.invited(string(allowed))
	v.now = v.now.Add(-2 * time.Hour)
	if code, out, errs := v.connect("abc", nil, "gate", port); code != 0 || out != "hello\nabc" {
		t.Errorf("with the clock set back: status %d, %q, %q; want a knock of its own", code, out, errs)
	}
}

// A door is closed behind hold when its terminal is closed.
func TestHoldWithoutATerminal(t *testing.T) {
	alive := make(chan os.Signal, 1) // whatever hold does, the test outlives the signal
	signal.Notify(alive, syscall.SIGHUP)
	defer signal.Stop(alive)
	v, _ := enrolled(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	v.ctx = ctx
	var once sync.Once
	v.printed = func() {
		once.Do(func() { syscall.Kill(os.Getpid(), syscall.SIGHUP); <-alive })
	}
	code, _, errs := v.run("hold", "gate")
	if last := v.gateway.Knocks()[v.knocks()-1]; code != 0 || errs != "" || last.Request.Action != seal.Close || ctx.Err() != nil {
		t.Errorf("status %d, %q, the last knock is %+v, %v; want 0, and the door closed", code, errs, last.Request, ctx.Err())
	}
}

// What hold could not close it does not say that it has.
func TestHoldThatDoesNotClose(t *testing.T) {
	v, _ := enrolled(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	v.ctx = ctx
	v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
		if k.Request.Action == seal.Close {
			return []seal.Answer{{Status: seal.Refused, Reason: seal.Unavailable, Source: k.From}}
		}
		return v.gateway.Open(k)
	})
	v.printed = cancel
	v.want(6, "open until 14:01:00 for 127.0.0.1\n",
		"doorward: error: the door is not closed, and its grant ends by itself: the gateway cannot open the door now; its operator sees why in doorward status\n", "hold", "gate")
}

// The lines for ssh of a profile that is gone can be taken out.
func TestSSHConfigOutlivesItsProfile(t *testing.T) {
	v, _ := enrolled(t)
	for _, args := range [][]string{{"gate", "--install"}, {"gate", "web", "--install"}} {
		if code, _, errs := v.run(append([]string{"ssh-config"}, args...)...); code != 0 {
			t.Fatal(errs)
		}
	}
	if code, _, errs := v.run("profiles", "remove", "gate"); code != 0 {
		t.Fatal(errs)
	}
	const file = "HOME/.ssh/config"
	v.want(0, file+": the lines for gate are removed\n", "", "ssh-config", "gate", "--remove")
	v.want(0, file+": the lines for gate-web are removed\n", "", "ssh-config", "gate", "web", "--remove")
	v.want(0, file+" has no lines for gate: nothing is changed\n", "", "ssh-config", "gate", "--remove")
	if code, _, errs := v.run("ssh-config", "../gate", "--remove"); code == 0 || !strings.Contains(errs, "cannot be a name") {
		t.Errorf("no name: status %d, %s", code, errs)
	}
}

// An invite that is encrypted to the visitor's SSH key is decrypted with it.
func TestAcceptAnEncryptedInvite(t *testing.T) {
	v := newTraveller(t)
	key, err := share.ParseKey(v.key("id_ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	cipher, err := share.Encrypt(v.invite.String()+"\n", []share.Key{key})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(v.home, "invite.age")
	if err := os.WriteFile(path, cipher, 0o600); err != nil {
		t.Fatal(err)
	}
	locked := newTraveller(t)
	locked.key("id_ed25519", "-N", "secret")
	other, damaged := newTraveller(t), newTraveller(t)
	other.key("id_ed25519")
	for who, text := range map[*traveller]string{other: "", damaged: "-----BEGIN OPENSSH PRIVATE KEY-----\n"} {
		name := "id_ed25519"
		if text == "" {
			name = "id_rsa/in the way"
		}
		path := filepath.Join(who.home, ".ssh", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, who := range []struct {
		v    *traveller
		want string // on standard error
	}{
		{v, ""},
		{newTraveller(t), `doorward: error: the invite: encrypted, and no key can be used to decrypt it: open HOME/.ssh/id_ed25519: no such file or directory; open HOME/.ssh/id_rsa: no such file or directory
doorward: hint: age -d -i KEY FILE | doorward accept -
`},
		{other, `doorward: error: the invite: encrypted, and none of the keys decrypts it: HOME/.ssh/id_ed25519; passed over: "HOME/.ssh/id_rsa" is not a regular file
doorward: hint: age -d -i KEY FILE | doorward accept -
`},
		{damaged, `doorward: error: the invite: encrypted, and no key can be used to decrypt it: "HOME/.ssh/id_ed25519" is damaged, or no private key of ssh or age; open HOME/.ssh/id_rsa: no such file or directory
doorward: hint: age -d -i KEY FILE | doorward accept -
`},
		{locked, `doorward: error: the invite: the key "HOME/.ssh/id_ed25519" has a passphrase, which age asks for
doorward: hint: age -d -i HOME/.ssh/id_ed25519 FILE | doorward accept -
`},
	} {
		code, _, errs := who.v.run("accept", path)
		if (code == 0) != (who.want == "") || errs != who.want {
			t.Errorf("status %d, %q, want %q", code, errs, who.want)
		}
	}
}

// A text of age's has many lines, and a terminal gives one.
func TestAcceptTheFirstLineOfAnEncryptedInvite(t *testing.T) {
	_, err := readInvite(t.Context(), &env{stdin: strings.NewReader("-----BEGIN AGE ENCRYPTED FILE-----")}, "-")
	const want, hint = "the invite is encrypted, and has more than this line", "save it in a FILE: doorward accept FILE"
	if err == nil || err.Error() != want || hintOf(err) != hint {
		t.Errorf("%v, %q; want %q, %q", err, hintOf(err), want, hint)
	}
}

// What a knock learns of a gateway goes into the profile as it is then: what somebody has
// changed in it meanwhile stays, and one that was removed does not come back.
func TestLearnChangesNothingElse(t *testing.T) {
	v, _ := enrolled(t)
	in := profile.Directory(filepath.Join(v.home, "profiles"))
	e := &env{stderr: io.Discard, profiles: in}
	ports := func(n uint16) client.Result {
		return client.Result{Answers: []client.Answer{{Answer: seal.Answer{Ports: []seal.Port{{First: n, Last: n}}}}}}
	}
	p, err := loadPassage(e, "gate", "")
	if err != nil {
		t.Fatal(err)
	}
	edited, err := in.Load("gate")
	if err != nil {
		t.Fatal(err)
	}
	edited.Doors, edited.Ports = []string{"ssh", "web"}, map[string][]string{"web": {"443/tcp"}}
	if err := in.Save(edited, true); err != nil {
		t.Fatal(err)
	}
	p.learn(ports(2222))
	edited.Ports["ssh"] = []string{"2222/tcp"}
	if got, err := in.Load("gate"); err != nil || !reflect.DeepEqual(got, edited) {
		t.Errorf("%+v, %v; want %+v", got, err, edited)
	}
	anew := edited
	anew.Gateway.Profile[0]++
	if err := in.Save(anew, true); err != nil {
		t.Fatal(err)
	}
	p.learn(ports(23))
	if got, err := in.Load("gate"); err != nil || !reflect.DeepEqual(got, anew) {
		t.Errorf("one that was made anew: %+v, %v; want %+v", got, err, anew)
	}
	if err := in.Remove("gate"); err != nil {
		t.Fatal(err)
	}
	p.learn(ports(24))
	if got, err := in.Load("gate"); !errors.Is(err, profile.ErrNone) {
		t.Errorf("one that was removed: %+v, %v", got, err)
	}
}

// The proxy leads to no port of which nobody says that it is a door's: not by single
// packets, which are not answered, nor by an answer without ports.
func TestProxyLeadsToDoorsAlone(t *testing.T) {
	v, s := enrolled(t)
	in := profile.Directory(filepath.Join(v.home, "profiles"))
	e := &env{stderr: io.Discard, profiles: in, getenv: func(name string) string { return v.vars[name] }}
	p, err := in.Load("gate")
	if err != nil {
		t.Fatal(err)
	}
	p.Ports = nil
	v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
		all := v.gateway.Open(k)
		all[0].Ports = nil
		return all
	})
	for _, p.OneWay = range []bool{false, true} {
		if err := in.Save(p, true); err != nil {
			t.Fatal(err)
		}
		l, err := newLocal(t.Context(), e, "gate", "")
		if err != nil {
			t.Fatal(err)
		}
		l.strict = true
		before := v.knocks()
		conn, err := l.connectFor(t.Context(), socks.Request{Host: "gate", Port: s.port})
		if conn != nil {
			conn.Close()
		}
		if conn != nil || codeOf(err) != control.CodeRefused {
			t.Errorf("one_way %v: %v, %v, want refused", p.OneWay, conn, err)
		}
		if n := v.knocks() - before; p.OneWay && n > 0 {
			t.Errorf("%d single packets, want none", n)
		}
	}
}

// A door is closed behind hold when nobody reads any more what it prints.
func TestHoldWithoutAReader(t *testing.T) {
	v, _ := enrolled(t)
	v.gateway.Answer(func(k clienttest.Knock) []seal.Answer {
		all := v.gateway.Open(k)
		all[0].Left = min(all[0].Left, time.Second) // so that the next knock, which is told, is soon
		return all
	})
	in := filepath.Join(v.home, "doorward")
	if err := errors.Join(os.Mkdir(in, 0o700), os.Rename(filepath.Join(v.home, "profiles"), filepath.Join(in, "profiles"))); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "doorward", "hold", "gate", "--json")
	c.Env = append(os.Environ(), "HOME="+v.home, "XDG_CONFIG_HOME="+v.home, "XDG_RUNTIME_DIR="+v.vars["XDG_RUNTIME_DIR"], "SSH_AUTH_SOCK=")
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout = write
	err = c.Start()
	write.Close()
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(read).ReadString('\n'); err != nil {
		t.Errorf("%q, %v", line, err)
	}
	read.Close()
	err = c.Wait()
	if all := v.gateway.Knocks(); all[len(all)-1].Request.Action != seal.Close || c.ProcessState.Success() {
		t.Errorf("%v, %v: the last of %d knocks is %+v; want the door closed, and no success", c.ProcessState, err, len(all), all[len(all)-1].Request)
	}
}

// Of two places to listen, only one would be listened at.
func TestForwardListensOnce(t *testing.T) {
	v := newTraveller(t)
	v.want(2, "", `doorward: error: invalid argument "2" for "-L, --listen" flag: it was "1" before, and can be given once
doorward: hint: doorward forward --help
`, "forward", "gate", "-L", "1", "-L", "2")
}

// What ssh would read in another way than it is meant does not get into a Match.
func TestInMatch(t *testing.T) {
	for path, want := range map[string]string{"/usr/local/bin/doorward": "/usr/local/bin/doorward", "/opt/a b/doorward": "'/opt/a b/doorward'",
		"/opt/it's/doorward": "doorward", `/opt/"a"/doorward`: "doorward", `/opt/a\b/doorward`: "doorward"} {
		if got := inMatch(files.Quoted(path)); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// Nobody else can read or change what a visitor's commands write, whatever the umask.
func TestModes(t *testing.T) {
	v, s := enrolled(t)
	for _, made := range []string{"profiles", "run"} {
		if err := os.RemoveAll(filepath.Join(v.home, made)); err != nil {
			t.Fatal(err)
		}
	}
	defer syscall.Umask(syscall.Umask(0))
	for _, args := range [][]string{{"accept", v.invite.String()}, {"ssh-config", "gate", "--install"}, {"knock", "gate"}, {"probe", "gate"}} {
		v.run(args...)
	}
	if code, _, errs := v.connect("", nil, "gate", fmt.Sprint(s.port)); code != 0 {
		t.Error(errs)
	}
	if _, err := profile.Directory(filepath.Join(v.home, "profiles")).Counter("gate", v.now); err != nil {
		t.Error(err)
	}
	seen := 0
	err := filepath.WalkDir(v.home, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == v.home || strings.HasSuffix(path, ".pub") { // ssh-keygen's
			return err
		}
		seen++
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil || seen < 10 {
		t.Errorf("%d files, %v; want those of a profile, of ssh and of calls that meet", seen, err)
	}
}

// What two calls need is closed by the last of them.
func TestRunLeavesADoorThatIsNeeded(t *testing.T) {
	v, _ := enrolled(t)
	closed := func() bool { return v.gateway.Knocks()[v.knocks()-1].Request.Action == seal.Close }
	other := v.place().Stay(t.Context())
	if code, _, errs := v.run("run", "gate", "--", "true"); code != 0 || closed() {
		t.Errorf("status %d, %s; the door is closed: %v, and another call needs it", code, errs, closed())
	}
	other.End()
	if code, _, errs := v.run("run", "gate", "--", "true"); code != 0 || !closed() {
		t.Errorf("status %d, %s; the door is closed: %v, want it closed by the last", code, errs, closed())
	}
}
