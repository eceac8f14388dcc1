package share

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/nstest"
)

// ears are listeners in a namespace that record which of them is touched.
type ears struct{ touched chan uint16 }

func listen(t *testing.T, n *nstest.NS, addr string, ports ...uint16) *ears {
	t.Helper()
	e := &ears{make(chan uint16, 64)}
	for _, p := range ports {
		var l *net.TCPListener
		n.Do(func() (err error) {
			l, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(addr), Port: int(p)})
			return
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				e.touched <- p
				c.Close()
			}
		}()
		t.Cleanup(func() { l.Close(); <-done })
	}
	return e
}

// order empties the list of touches: all that were made, in their order.
func (e *ears) order() []uint16 {
	var all []uint16
	for {
		select {
		case p := <-e.touched:
			all = append(all, p)
		case <-time.After(100 * time.Millisecond):
			return all
		}
	}
}

// toolbox makes a directory with just these programs and returns it for PATH.
func toolbox(t *testing.T, programs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range programs {
		real, err := exec.LookPath(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, filepath.Join(dir, p)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestShellScript runs the script with each shell and each program that it can
// knock with.
func TestShellScript(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "ip", "nsenter", "dash", "bash", "nc", "telnet")
	visitor, gate := nstest.New(t), nstest.New(t)
	nstest.Link(visitor, gate, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64"})
	ports := []uint16{59000, 59001, 59002}
	four, six := listen(t, gate, "192.0.2.2", ports...), listen(t, gate, "2001:db8::2", ports...)
	// Neighbours on a new link may need a second to find each other.
	visitor.Do(func() error {
		c, err := net.DialTimeout("tcp", "[2001:db8::2]:59000", 10*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	six.order()

	tests := []struct {
		name  string
		shell string
		tools []string
		host  string
		touch []uint16
		want  []uint16 // touched, in order
		code  int
		words string // what it says
	}{
		{name: "dash, nc", shell: "dash", tools: []string{"nc"}, host: "192.0.2.2"},
		{name: "bash, nc", shell: "bash", tools: []string{"nc"}, host: "192.0.2.2"},
		{name: "dash, nc, IPv6", shell: "dash", tools: []string{"nc"}, host: "2001:db8::2"},
		{name: "dash, bash", shell: "dash", tools: []string{"bash"}, host: "192.0.2.2"},
		{name: "dash, bash, IPv6", shell: "dash", tools: []string{"bash"}, host: "2001:db8::2"},
		{name: "bash, bash", shell: "bash", tools: []string{"bash"}, host: "192.0.2.2"},
		{name: "dash, telnet", shell: "dash", tools: []string{"telnet"}, host: "192.0.2.2"},
		{name: "bash, telnet, IPv6", shell: "bash", tools: []string{"telnet"}, host: "2001:db8::2"},
		{
			name: "in the order given", shell: "dash", tools: []string{"nc"}, host: "192.0.2.2",
			touch: []uint16{59002, 59000, 59001}, want: []uint16{59002, 59000, 59001},
		},
		{
			name: "nothing to knock with", shell: "dash", host: "192.0.2.2", want: []uint16{}, code: 1,
			words: "knock: none of doorward, nc, bash and telnet is here\n",
		},
		{
			name: "refused, nc", shell: "dash", tools: []string{"nc"}, host: "192.0.2.2",
			touch: []uint16{59000, 59009, 59002}, want: []uint16{59000}, code: 1,
			words: "knock: 59009/tcp on 192.0.2.2 does not answer (tried with nc): is the network up? is this the newest knock?\n",
		},
		{
			name: "refused, bash", shell: "bash", tools: []string{"bash"}, host: "192.0.2.2",
			touch: []uint16{59000, 59009}, want: []uint16{59000}, code: 1,
			words: "knock: 59009/tcp on 192.0.2.2 does not answer (tried with bash): is the network up? is this the newest knock?\n",
		},
		{
			name: "refused, telnet", shell: "bash", tools: []string{"telnet"}, host: "192.0.2.2",
			touch: []uint16{59000, 59009}, want: []uint16{59000}, code: 1,
			words: "knock: 59009/tcp on 192.0.2.2 does not answer (tried with telnet): is the network up? is this the newest knock?\n",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := example
			s.Host = tt.host
			if tt.touch != nil {
				s.Touch = tt.touch
			}
			want := tt.want
			if want == nil {
				want = s.Touch
			}
			if tt.words == "" {
				tt.words = "knocked on " + tt.host + ". Connect within 30s.\n"
			}
			e := four
			if strings.Contains(tt.host, ":") {
				e = six
			}
			// The ears wait for a processor each, and may hear in another order what
			// comes quickly; a script that knocks wrong does so every time.
			var got []uint16
			for try := 0; try < 3 && !slices.Equal(got, want) || try == 0; try++ {
				out, code := runWith(t, visitor, tt.shell, s.Shell(), toolbox(t, append(tt.tools, "sleep", "grep")...))
				if out != tt.words || code != tt.code {
					t.Errorf("it said %q with status %d, want %q with %d", out, code, tt.words, tt.code)
				}
				got = e.order()
			}
			if !slices.Equal(got, want) {
				t.Errorf("touched %v, want %v", got, want)
			}
		})
	}
}

// TestShellScriptOverBothFamilies: a gateway with addresses of both families is knocked
// on over both, and one that is swallowed on the way does not keep the other from
// opening, whatever shell, resolver and program there is.
func TestShellScriptOverBothFamilies(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "ip", "nsenter", "unshare", "nft", "dash", "bash", "busybox", "nc", "telnet", "getent")
	const four, six = "192.0.2.2", "2001:db8::2"
	for _, tt := range []struct {
		shell, tool, resolver string
		lost                  string // the families that are swallowed
		words                 string // what it says about them
	}{
		{shell: "dash", tool: "nc", resolver: "getent"},
		{shell: "busybox", tool: "telnet", resolver: "getent"},
		{shell: "busybox", tool: "bash", resolver: "getent", lost: "6",
			words: "knock: not over both IPv4 and IPv6: 59000/tcp on 2001:db8::2 does not answer (tried with bash)\n"},
		{shell: "bash", tool: "nc", resolver: "dscacheutil", lost: "4",
			words: "knock: not over both IPv4 and IPv6: 59000/tcp on 192.0.2.2 does not answer (tried with nc)\n"},
		{shell: "dash", tool: "nc", resolver: "none", lost: "6"},
		{shell: "dash", tool: "nc", resolver: "dscacheutil", lost: "46",
			words: "knock: 59000/tcp on 2001:db8::2 does not answer (tried with nc); 59000/tcp on 192.0.2.2 does not answer (tried with nc): " +
				"is the network up? is this the newest knock?\n"},
	} {
		t.Run(strings.Join([]string{tt.shell, tt.tool, tt.resolver, tt.lost}, ","), func(t *testing.T) {
			t.Parallel()
			visitor, gate := nstest.New(t), nstest.New(t)
			nstest.Link(visitor, gate, []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{four + "/24", six + "/64"})
			k := example
			k.Host, k.Each, k.Touch = "gate.test", 2*time.Second, []uint16{59000, 59002}
			heard := map[string]*ears{four: listen(t, gate, four, k.Touch...), six: listen(t, gate, six, k.Touch...)}
			for family, name := range map[string]string{"4": "ipv4", "6": "ipv6"} {
				if strings.Contains(tt.lost, family) {
					gate.Run("nft", "add table inet t"+family+"; add chain inet t"+family+" in { type filter hook input priority 0; };"+
						"add rule inet t"+family+" in meta nfproto "+name+" tcp dport 59000-59002 drop")
				}
			}
			visitor.Do(func() error { // neighbours on a new link may need a second to find each other
				for _, addr := range []string{four, six} {
					c, err := net.DialTimeout("tcp", net.JoinHostPort(addr, "9"), 10*time.Second)
					if err == nil {
						c.Close()
					}
				}
				return nil
			})
			tools := toolbox(t, tt.tool, "sleep", "grep")
			switch tt.resolver {
			case "getent":
				tools = toolbox(t, tt.tool, "sleep", "grep", "getent")
			case "dscacheutil": // as macOS has it
				program := "#!/bin/sh\n[ \"$*\" = '-q host -a name gate.test' ] && " +
					"printf 'name: gate.test\\nipv6_address: " + six + "\\n\\nname: gate.test\\nip_address: " + four + "\\n'\n"
				if err := os.WriteFile(filepath.Join(tools, "dscacheutil"), []byte(program), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			hosts := filepath.Join(t.TempDir(), "hosts")
			if err := os.WriteFile(hosts, []byte(six+" gate.test\n"+four+" gate.test\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			out, code := runWith(t, visitor, tt.shell, k.Shell(), tools, hosts)
			words, want := tt.words+"knocked on gate.test. Connect within 30s.\n", 0
			if tt.lost == "46" {
				words, want = tt.words, 1
			}
			if out != words || code != want {
				t.Errorf("it said %q with status %d, want %q with %d", out, code, words, want)
			}
			for addr, family := range map[string]string{four: "4", six: "6"} {
				var touched []uint16
				if !strings.Contains(tt.lost, family) {
					touched = k.Touch
				}
				got := heard[addr].order()
				slices.Sort(got) // two ears at once may not hear in order what comes quickly
				if !slices.Equal(got, touched) {
					t.Errorf("%s was touched at %v, want %v", addr, got, touched)
				}
			}
		})
	}
}

// runWith runs a shell with the script in a file, and, if one is given, a file in place
// of /etc/hosts. The standard input must not change what the script does.
func runWith(t *testing.T, n *nstest.NS, shell, script, path string, hosts ...string) (out string, code int) {
	t.Helper()
	real, err := exec.LookPath(shell)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	env, err := exec.LookPath("env")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "knock.sh")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{env, "-i", "PATH=" + path, real, file}
	if shell == "busybox" {
		args = slices.Insert(args, 4, "sh")
	}
	for _, h := range hosts {
		args = append([]string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, h}, args...)
	}
	c := n.Command(ctx, args[0], args[1:]...)
	c.Stdin = strings.NewReader("of somebody else\n")
	b, err := c.CombinedOutput()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	return string(b), c.ProcessState.ExitCode()
}

// TestKnockByHand: the lines of the knock's file that people may paste into a shell
// touch its ports.
func TestKnockByHand(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "ip", "nsenter", "dash", "bash", "nc")
	n := nstest.New(t)
	k := example
	k.Host = "127.0.0.1"
	e := listen(t, n, k.Host, k.Touch...)
	lines := 0
	for line := range strings.Lines(k.Text()) {
		command, ok := strings.CutPrefix(line, "#   for ")
		if !ok {
			continue
		}
		lines++
		for _, shell := range []string{"dash", "bash"} {
			out, code := runWith(t, n, shell, "for "+command, toolbox(t, "nc", "bash", "sleep"))
			// Two ears may not hear in order what comes quickly.
			got := e.order()
			slices.Sort(got)
			if out != "" || code != 0 || !slices.Equal(got, k.Touch) {
				t.Errorf("%s: %s: touched %v, want %v; it said %q with status %d", shell, line, got, k.Touch, out, code)
			}
		}
	}
	if lines != 2 {
		t.Errorf("%d lines for a shell, want 2", lines)
	}
}

// TestShellScriptGivesUp: a port that does not answer at all ends the script
// after its time, with every program.
func TestShellScriptGivesUp(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "ip", "nsenter", "nft", "dash", "bash", "nc", "telnet")
	n := nstest.New(t)
	n.Run("nft", "add table inet t; add chain inet t in { type filter hook input priority 0; };"+
		"add rule inet t in tcp dport 59000 drop")
	for _, tool := range []string{"nc", "bash", "telnet"} {
		for _, shell := range []string{"dash", "bash"} {
			t.Run(shell+", "+tool, func(t *testing.T) {
				t.Parallel()
				s := example
				s.Host, s.Touch, s.Each = "127.0.0.1", []uint16{59000}, time.Second
				out, code := runWith(t, n, shell, s.Shell(), toolbox(t, tool, "sleep", "grep"))
				want := "knock: 59000/tcp on 127.0.0.1 does not answer (tried with " + tool +
					"): is the network up? is this the newest knock?\n"
				if out != want || code != 1 {
					t.Errorf("it said %q with status %d, want %q with 1", out, code, want)
				}
			})
		}
	}
}

// TestShellScriptUsesDoorward: where doorward is installed, it knocks.
func TestShellScriptUsesDoorward(t *testing.T) {
	nstest.Need(t, "ip", "nsenter", "dash")
	dir := toolbox(t, "sleep", "grep")
	fake := "#!" + "/bin/sh\necho \"$@\"\nread line && echo \"read $line\"\nexit 3\n"
	if err := os.WriteFile(filepath.Join(dir, "doorward"), []byte(fake), 0o700); err != nil {
		t.Fatal(err)
	}
	out, code := runWith(t, nstest.New(t), "dash", example.Shell(), dir)
	if want := "knock gate.example.org --touch 59000,59002 --wait 22\n"; out != want || code != 3 {
		t.Errorf("it said %q with status %d, want %q with 3", out, code, want)
	}
	s := example
	s.Wait = 0
	out, _ = runWith(t, nstest.New(t), "dash", s.Shell(), dir)
	if want := "knock gate.example.org --touch 59000,59002\n"; out != want {
		t.Errorf("it said %q, want %q", out, want)
	}
}

// TestLetters: the real age decrypts with real keys of ssh-keygen and age-keygen,
// each user's file with each of their keys, and nobody else's.
func TestLetters(t *testing.T) {
	t.Parallel()
	nstest.Need(t, "age", "age-keygen", "ssh-keygen")
	dir := t.TempDir()
	run := func(name string, args ...string) (string, error) {
		c := exec.CommandContext(t.Context(), name, args...)
		c.Dir = dir
		out, err := c.Output()
		return string(out), err
	}
	must := func(name string, args ...string) string {
		out, err := run(name, args...)
		if err != nil {
			t.Fatalf("%s %v: %v", name, args, err)
		}
		return out
	}
	must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", "alice")
	must("ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-C", "Bob & <Co>", "-f", "bob")
	must("age-keygen", "-o", "alice2")
	text := read(t, dir, "alice.pub") + read(t, dir, "bob.pub") +
		strings.TrimSpace(must("age-keygen", "-y", "alice2")) + " alice\n"
	r, err := ParseRecipients("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := Letters(&example, r.Users(), true)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range sealed {
		for _, f := range s.Files {
			names = append(names, f.Path)
			if f.Mode != 0o600 {
				t.Errorf("%s has mode %v", f.Path, f.Mode)
			}
			if err := os.WriteFile(filepath.Join(dir, f.Path), f.Text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []string{"knock-ssh-alice.age", "knock-ssh-alice.sh.age", "knock-ssh-alice.ps1.age",
		"knock-ssh-Bob----Co.age", "knock-ssh-Bob----Co.sh.age", "knock-ssh-Bob----Co.ps1.age"}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
	for _, key := range []string{"alice", "alice2"} {
		for i, text := range []string{example.Text(), example.Shell(), example.PowerShell()} {
			if got := must("age", "-d", "-i", key, names[i]); got != text {
				t.Errorf("%s decrypts %s to %q", key, names[i], got)
			}
		}
	}
	if got := must("age", "-d", "-i", "bob", names[4]); got != example.Shell() {
		t.Errorf("bob decrypts to %q", got)
	}
	if out, err := run("age", "-d", "-i", "bob", names[0]); err == nil {
		t.Errorf("bob can read what is alice's: %q", out)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLettersPostQuantum: age's hybrid keys are accepted, too.
func TestLettersPostQuantum(t *testing.T) {
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseKey(id.Recipient().String() + " dave")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Letters(&example, []User{{Name: "dave", Keys: []Key{k}}}, false); err != nil {
		t.Error(err)
	}
}

// TestLetterNames: files of users whose names differ only in what is not safe have
// different names.
func TestLetterNames(t *testing.T) {
	k, err := ParseKey(ageKey)
	if err != nil {
		t.Fatal(err)
	}
	var users []User
	for _, name := range []string{"a/b", "a b", "../../etc/passwd", "\u00fc", strings.Repeat("x", 300)} {
		users = append(users, User{name, []Key{k}})
	}
	sealed, err := Letters(&example, users, false)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range sealed {
		p := s.Files[0].Path
		if seen[p] || filepath.Base(p) != p || strings.HasPrefix(p, ".") || len(p) > 100 {
			t.Errorf("%q becomes %q", s.User.Name, p)
		}
		seen[p] = true
	}
}
