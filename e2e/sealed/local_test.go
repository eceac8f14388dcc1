//go:build linux

package sealed

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/doorward/doorward/e2e/lab"
)

// listen listens on the server.
func (v *traveller) listen(at string) net.Listener {
	v.t.Helper()
	var l net.Listener
	v.must(v.server.Do(func() (err error) { l, err = net.Listen("tcp", at); return }))
	v.t.Cleanup(func() { l.Close() })
	return l
}

// shop serves HTTP behind its door.
func (v *traveller) shop() {
	v.t.Helper()
	s := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello from the shop") })}
	l := v.listen(":8000")
	go s.Serve(l)
	v.t.Cleanup(func() { s.Close() })
}

// db serves as much of PostgreSQL behind its door as one query of psql's takes
// (PostgreSQL's documentation, "Message Formats").
func (v *traveller) db() {
	v.t.Helper()
	l := v.listen(":5432")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = answerQueries(c) // psql says what is wrong
			}()
		}
	}()
}

func answerQueries(c net.Conn) error {
	r := bufio.NewReader(c)
	for { // the startup message, perhaps after questions for encryption, which are answered no
		var head [8]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		if _, err := r.Discard(int(binary.BigEndian.Uint32(head[:4])) - len(head)); err != nil {
			return err
		}
		if binary.BigEndian.Uint32(head[4:]) == 3<<16 {
			break
		}
		if _, err := c.Write([]byte("N")); err != nil {
			return err
		}
	}
	message := func(kind byte, body string) string {
		return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))) + body
	}
	ready := message('Z', "I")
	_, err := io.WriteString(c, message('R', "\x00\x00\x00\x00")+message('S', "server_version\x0015.0\x00")+message('S', "client_encoding\x00UTF8\x00")+ready)
	for err == nil {
		var head [5]byte
		if _, err = io.ReadFull(r, head[:]); err != nil {
			break
		}
		if _, err = r.Discard(int(binary.BigEndian.Uint32(head[1:])) - 4); err == nil && head[0] == 'Q' {
			_, err = io.WriteString(c, message('T', "\x00\x01greeting\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x19\xff\xff\xff\xff\xff\xff\x00\x00")+
				message('D', "\x00\x01\x00\x00\x00\x05hello")+message('C', "SELECT 1\x00")+ready)
		}
	}
	return err
}

// Programs that know nothing of knocks, by run.
func TestRun(t *testing.T) {
	v := newTraveller(t, "curl", "psql")
	v.shop()
	v.db()
	v.refuses(v.visitor, gate4, "8000")
	v.works("hello from the shop", "doorward", "run", "gate", "shop", "--", "curl", "-sS", "--max-time", "5", "http://"+gate4+":8000/", "http://["+gate6+"]:8000/")
	v.refuses(v.visitor, gate4, "8000")
	v.works("hello", "doorward", "run", "gate", "db", "--open-for", "10s", "--", "psql", "-X", "-t", "-h", gate6, "-U", "alice", "-d", "x", "-c", "SELECT greeting")
	v.refuses(v.visitor, gate6, "5432")

	// The exit status and the signals are the command's; the last of two closes the door.
	for _, tt := range []struct {
		command string
		status  int
	}{{"exit 7", 7}, {"kill -9 $$", 128 + 9}} {
		_, stderr, err := v.run("doorward", "run", "gate", "shop", "--", "sh", "-c", tt.command)
		x, ok := errors.AsType[*exec.ExitError](err)
		if !ok || x.ExitCode() != tt.status || stderr != "" {
			t.Errorf("%s: %v, %q, want status %d", tt.command, err, stderr, tt.status)
		}
	}
	_, stderr, err := v.run("doorward", "run", "gate", "none", "--", "true")
	if x, ok := errors.AsType[*exec.ExitError](err); !ok || x.ExitCode() != 125 || !strings.HasPrefix(stderr, "doorward: error: the gateway has no such door") {
		t.Errorf("no such door: %v, %q", err, stderr)
	}
	long := v.started("ready", "doorward", "run", "gate", "shop", "--", "sh", "-c", "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
	v.works("", "doorward", "run", "gate", "shop", "--", "true")
	v.admits(v.visitor, gate4, "8000")
	v.must(signalChild(v, long))
	v.must(long.Says(t.Context(), "caught", soon))
	<-long.Ended()
	v.refuses(v.visitor, gate4, "8000")
}

// signalChild asks a program that env has become to end.
func signalChild(_ *traveller, p *lab.Process) error { return p.Signal(syscall.SIGTERM) }

var listening = regexp.MustCompile(`on (127\.0\.0\.1:\d+), for every user of this machine`)

// local is where a program says that it listens.
func (v *traveller) local(args ...string) (p *lab.Process, at string) {
	v.t.Helper()
	p = v.started("for every user", args...)
	m := listening.FindStringSubmatch(p.Output())
	if m == nil {
		v.t.Fatalf("it says %q", p.Output())
	}
	return p, m[1]
}

// A port of this machine's that leads through the door.
func TestForward(t *testing.T) {
	v := newTraveller(t, "curl")
	v.shop()
	p, at := v.local("doorward", "forward", "gate", "shop", "-L", "0")
	v.refuses(v.visitor, gate4, "8000")
	v.costs(2, func() { // one for each family
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() { v.works("hello from the shop", "curl", "-sS", "--max-time", "10", "http://"+at+"/") })
		}
		all.Wait()
	})
	if out := p.Output(); strings.Contains(out, "error") {
		t.Errorf("it says %q", out)
	}
	v.keys(newKey(t, "bob").line(""))
	v.must(lab.Until(t.Context(), soon, "the new keys", func() error {
		v.must(v.gate.Signal(syscall.SIGHUP))
		if out, _, err := v.run("doorward", "knock", "gate", "shop"); err == nil {
			return errors.New(out)
		}
		return nil
	}))
	v.closed("shop")
	if _, _, err := v.run("curl", "-sS", "--max-time", "10", "http://"+at+"/"); err == nil {
		t.Error("a key that is not known lets in")
	}
	v.must(p.Says(t.Context(), "doorward: error: the gateway does not accept this key", soon))
	v.must(p.Stop())
}

// closed has what the visitor knows of a door be forgotten.
func (v *traveller) closed(string) {
	v.t.Helper()
	files, err := filepath.Glob(filepath.Join(v.home, "doorward", "*.door"))
	v.must(err)
	for _, f := range files {
		v.must(os.Remove(f))
	}
}

// A proxy that leads to the gateway's doors, and nowhere else.
func TestProxy(t *testing.T) {
	v := newTraveller(t, "curl")
	v.shop()
	p, at := v.local("doorward", "proxy", "gate", "--listen", "127.0.0.1:0")
	curl := func(url string) []string {
		return []string{"curl", "-sS", "--max-time", "10", "--proxy", "socks5h://" + at, url}
	}
	for _, host := range []string{"gate", gate4, "[" + gate6 + "]"} {
		v.works("hello from the shop", curl("http://"+host+":8000/")...)
	}
	for url, why := range map[string]string{
		"http://example.org:8000/":     "example.org:8000: not allowed: the proxy leads to the hosts of profile gate",
		"http://" + gate4 + ":9/":      "9/tcp is none of the door's ports",
		"http://" + stranger4 + ":22/": stranger4 + ":22: not allowed: the proxy leads to the hosts of profile gate",
	} {
		if out, stderr, err := v.run(curl(url)...); err == nil {
			t.Errorf("%s: %s%s", url, out, stderr)
		}
		v.must(p.Says(t.Context(), why, soon))
	}
	v.must(p.Stop())
}

// probed is what probe says, and its exit status.
func (v *traveller) probed(args ...string) (ok bool, failed string, states map[string]string, status int) {
	v.t.Helper()
	stdout, stderr, err := v.run(append([]string{"doorward", "probe", "gate", "--json", "--quiet-for", "300ms", "--timeout", "2s"}, args...)...)
	if x, exited := errors.AsType[*exec.ExitError](err); exited {
		status = x.ExitCode()
	}
	var j struct {
		OK     bool
		Failed string
		Steps  []struct{ Step, State, Message string }
	}
	if err := json.Unmarshal([]byte(stdout), &j); err != nil {
		v.t.Fatalf("%v: %s%s", err, stdout, stderr)
	}
	states = map[string]string{}
	for _, s := range j.Steps {
		states[s.Step] = s.State + " " + s.Message
	}
	return j.OK, j.Failed, states, status
}

// A door that does what it is for, and each step that can fail.
func TestProbe(t *testing.T) {
	v := newTraveller(t)
	want := func(wantFailed string, wantStatus int, wantSaid string, args ...string) {
		t.Helper()
		ok, failed, states, status := v.probed(args...)
		said := states[failed]
		if ok != (wantFailed == "") || failed != wantFailed || status != wantStatus || !strings.Contains(said, wantSaid) || len(states) != 5 {
			t.Errorf("probe %q: %v, failed %q, status %d, %q; want %q, %d, %q", args, ok, failed, status, states, wantFailed, wantStatus, wantSaid)
		}
	}
	want("", 0, "", "web", "--port", "8080")
	v.refuses(v.visitor, gate4, "8080")
	want("open", 7, "8000/tcp did not open within 2s", "shop", "--port", "8000")
	want("open", 7, "the door is open", "ssh", "--port", "8443")
	v.refuses(v.visitor, gate4, "22")
	want("knock", 5, "no such door", "none", "--port", "22")

	// A port that nothing guards; and one that somebody has opened, who keeps it.
	v.listen(":7777")
	want("dark_before", 1, "7777/tcp accepts connections at "+gate4, "web", "--port", "7777")
	want("dark_before", 1, "7778/tcp refuses connections at "+gate4, "web", "--port", "7778")
	v.works("open until", "doorward", "knock", "gate", "web")
	want("dark_before", 1, "8080/tcp accepts connections", "web")
	v.admits(v.visitor, gate4, "8080")
	v.closeDoor("web")

	// The gateway is away, and the fence with it.
	v.must(v.gate.Kill())
	want("knock", 7, "no answer from", "web")
	if out, err := v.server.Run(t.Context(), "nft", "flush", "ruleset"); err != nil {
		t.Fatal(err, out)
	}
	want("dark_before", 1, "8080/tcp accepts connections", "web")
}
