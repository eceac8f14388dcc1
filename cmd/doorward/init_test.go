package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/setup"
	"github.com/doorward/doorward/internal/touch"
)

// machineOf is a machine that has just these files, "path" or "path=content".
func machineOf(files ...string) setup.Machine {
	root := fstest.MapFS{}
	for _, f := range files {
		name, content, _ := strings.Cut(f, "=")
		root[name] = &fstest.MapFile{Data: []byte(content)}
	}
	return setup.Machine{Root: root}
}

// runInit runs init on a machine and returns what it printed and its status.
func runInit(m setup.Machine, stdin string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	e := &env{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs,
		getenv: func(string) string { return "" }}
	c := newInitWith(e, m)
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(args)
	status = report(e, c.Execute())
	return status, out.String(), errs.String()
}

// Whatever init accepts passes check, over many draws and machines.
func TestInitPassesCheck(t *testing.T) {
	files := []string{
		"etc/systemd/system/sockets.target.wants/ssh.socket", "usr/lib/systemd/system/ssh.service",
		"lib/systemd/system/sshd.service", "run/log/journal/x", "var/log/auth.log", "var/log/secure",
		"etc/services=webmin 10000/tcp\nbinkp 24554/tcp # x\nudponly 24555/udp\n",
	}
	rapid.Check(t, func(t *rapid.T) {
		m := machineOf(rapid.SliceOfDistinct(rapid.SampledFrom(files), rapid.ID).Draw(t, "files")...)
		args := []string{"-o", "-"}
		units := []string{"", "x@1.service", "sshd.socket", "none"}
		if rapid.Bool().Draw(t, "article") {
			args = append(args, "--like-the-article")
			units = units[:3]
		} else {
			args = append(args, "--door", rapid.StringMatching(`[a-z][a-z0-9_-]{0,23}`).Draw(t, "door"),
				"--ports", strings.Join(rapid.SliceOfNDistinct(rapid.SampledFrom([]string{
					"22/tcp", "22/udp", "2222/tcp", "20000-60000/tcp", "61000-65535/udp"}),
					1, 4, rapid.ID).Draw(t, "ports"), ","),
				"--order", rapid.SampledFrom([]string{"any", "given"}).Draw(t, "order"))
		}
		if unit := rapid.SampledFrom(units).Draw(t, "unit"); unit != "" {
			args = append(args, "--unit", unit)
		}
		status, text, errs := runInit(m, "", args...)
		if status != 0 {
			t.Fatalf("init %q: status %d: %s", args, status, errs)
		}
		c, err := config.Parse("-", []byte(text))
		if err != nil {
			t.Fatalf("init %q wrote mistakes: %v\n%s", args, err, text)
		}
		if !slices.Contains(args, "--like-the-article") {
			checkDrawn(t, c.Doors[0].Knocks[0].Rule.(touch.Rule))
		}
	})
}

// checkDrawn checks the promises of init's help about a random knock.
func checkDrawn(t *rapid.T, k touch.Rule) {
	want := touch.Proposed()
	if len(k.Listen) != len(want.Listen) || len(k.Touch) != len(want.Touch) || !slices.IsSorted(k.Listen) {
		t.Fatalf("listen %v, touch %v: want 6 of 12", k.Listen, k.Touch)
	}
	if k.Within != want.Within || k.Penalty != want.Penalty || k.Everybody != want.Everybody || k.Judge != 0 {
		t.Fatalf("the knock is %+v, proposed is %+v", k, want)
	}
	if !k.Given && !slices.IsSorted(k.Touch) {
		t.Fatalf("touch %v: its order is random, want none given", k.Touch)
	}
	for _, p := range k.Listen {
		if p < 20000 || p > 32767 && p < 61000 {
			t.Fatalf("listen %v: %d is not to be drawn", k.Listen, p)
		}
	}
}

func TestInitFindsTheMachine(t *testing.T) {
	tests := []struct {
		name string
		m    setup.Machine
		want []string // in the text
	}{
		{"Debian", machineOf("lib/systemd/system/ssh.service", "lib/systemd/system/ssh.socket", "run/log/journal/x"), []string{
			"# Found here: /lib/systemd/system/ssh.service.\nunit = \"ssh.service\"\n",
			"# Where logins are read: \"auto\" finds systemd's journal here.\nlogins = \"auto\"\n"}},
		{"Ubuntu", machineOf("usr/lib/systemd/system/ssh.service",
			"etc/systemd/system/sockets.target.wants/ssh.socket", "var/log/auth.log"), []string{
			"# Enabled here: /etc/systemd/system/sockets.target.wants/ssh.socket.\nunit = \"ssh.socket\"\n",
			"# Where logins are read: \"auto\" finds /var/log/auth.log here.\n"}},
		{"Red Hat", machineOf("usr/lib/systemd/system/sshd.service", "var/log/secure"), []string{
			"unit = \"sshd.service\"\n", "\"auto\" finds /var/log/secure here.\n"}},
		{"nothing", machineOf(), []string{
			"[door.ssh.presence]\nidle = \"1h\"\n# Where logins are read. There is neither a journal nor an auth log here"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, text, errs := runInit(tt.m, "", "--output", "-")
			if status != 0 {
				t.Fatalf("status %d: %s", status, errs)
			}
			for _, want := range tt.want {
				if !strings.Contains(text, want) {
					t.Errorf("the file lacks %q:\n%s", want, text)
				}
			}
		})
	}
}

// What check would refuse for this machine is not proposed; what it cannot ask,
// init cannot either, and says so.
func TestInitWhereFlowsAreNotSeen(t *testing.T) {
	const unseen = "# Flows over UDP cannot be seen here, so that nobody would be seen to be in:\n# no ctnetlink\nidle = \"never\"\n"
	const usual = "# Nobody in for this long: vpn.service is stopped.\nidle = \"1h\"\n"
	const notAsked = "warning: whether the kernel shows flows over UDP, by which door vpn would know that somebody is in, was " +
		"not checked: run as root\n"
	for _, tt := range []struct {
		name, ports string
		flows       error
		idle        string
		warned      bool
	}{
		{"seen", "51820/udp", nil, usual, false},
		{"not seen", "51820/udp", errors.New("no\nctnetlink"), unseen, false},
		{"no permission", "51820/udp", fs.ErrPermission, usual, true},
		{"TCP", "443/tcp", errors.New("no ctnetlink"), usual, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := machineOf()
			m.Flows = func() error { return tt.flows }
			args := []string{"-o", "-", "--door", "vpn", "--ports", tt.ports, "--unit", "vpn.service"}
			status, text, errs := runInit(m, "", args...)
			if status != 0 || !strings.Contains(text, tt.idle) || strings.Contains(errs, notAsked) != tt.warned {
				t.Errorf("status %d, %s\n%s\nwant %q, warned that flows were not asked for: %v", status, text, errs, tt.idle, tt.warned)
			}
			if status, out, errs := runCheck(t, m, text); status != 0 {
				t.Errorf("check refuses it: %s%s", out, errs)
			}
		})
	}
}

// The article's numbers stay; unit and log are the machine's, and the file says so.
func TestInitLikeTheArticle(t *testing.T) {
	tests := []struct {
		name   string
		m      setup.Machine
		args   []string
		edits  []string // pairs of the article's text and what stands there instead
		errors string
	}{
		{"a machine as in the article", machineOf("usr/lib/systemd/system/sshd.service", "var/log/secure"), nil, nil, ""},
		{"nothing found", machineOf(), nil, nil, ""},
		{"Debian", machineOf("lib/systemd/system/ssh.service", "var/log/auth.log", "run/log/journal/x"), nil, []string{
			`unit = "sshd.service"`, "# The article's is sshd.service; found here: /lib/systemd/system/ssh.service\nunit = \"ssh.service\"",
			"logins = [", "# The article's is /var/log/secure, which is not here; this machine has /var/log/auth.log.\nlogins = [",
			`"/var/log/secure`, `"/var/log/auth.log`}, ""},
		{"only a journal, another unit", machineOf("var/log/journal/x"), []string{"--unit", "dropbear.service"}, []string{
			`unit = "sshd.service"`, "# The article's is sshd.service; this one is your choice\nunit = \"dropbear.service\"",
			"logins = [\n    \"/var/log/secure\",\n    \"/var/log/secure.1\",\n    \"/var/log/secure.2\",\n" +
				"    \"/var/log/secure.3\",\n    \"/var/log/secure.4\",\n]",
			"# The article's is /var/log/secure, which is not here; this machine has the journal.\nlogins = \"journal\""}, ""},
		{"another number", machineOf(), []string{"--listen", "1,2", "--touch", "1"}, nil,
			"doorward: error: --like-the-article and --listen exclude one another: its numbers are the article's\n" +
				"doorward: hint: doorward init --help\n"},
		{"no unit", machineOf(), []string{"--unit", "none"}, nil,
			"doorward: error: --like-the-article starts and stops a unit: --unit none is not like it\n" +
				"doorward: hint: doorward init --help\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, text, errs := runInit(tt.m, "", append(tt.args, "--like-the-article", "-o", "-")...)
			if tt.errors != "" {
				if status != 2 || errs != tt.errors {
					t.Errorf("status %d, %s\nwant 2, %s", status, errs, tt.errors)
				}
				return
			}
			want := config.LikeTheArticle()
			for i := 0; i < len(tt.edits); i += 2 {
				if !strings.Contains(want, tt.edits[i]) {
					t.Fatalf("the article's text lacks %q", tt.edits[i])
				}
				want = strings.ReplaceAll(want, tt.edits[i], tt.edits[i+1])
			}
			if diff := cmp.Diff(want, text); diff != "" {
				t.Errorf("the file (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInitAsks(t *testing.T) {
	m := machineOf("lib/systemd/system/ssh.service", "var/log/auth.log")
	t.Run("proposals", func(t *testing.T) {
		status, text, errs := runInit(m, strings.Repeat("\n", 7), "--ask", "-o", "-")
		if status != 0 || !strings.Contains(text, "unit = \"ssh.service\"") {
			t.Errorf("status %d, %s\n%s", status, errs, text)
		}
	})
	t.Run("slips are asked again", func(t *testing.T) {
		status, text, errs := runInit(m, strings.Join([]string{"gate:22", "none",
			"Panel", "panel", "", "8443", "8443/tcp, 8443/udp", "panel", "panel.service",
			"knock", "touch", "24117 24117", "24117,25633,28904", "", "24118", "28904 24117", "never", "any", ""}, "\n"),
			"--ask", "--output", "-")
		if status != 0 {
			t.Fatalf("status %d: %s", status, errs)
		}
		for _, want := range []string{"[door.panel]\nports = [\"8443/tcp\", \"8443/udp\"]\n", "unit = \"panel.service\"\n",
			"listen = [24117, 25633, 28904]\n", "touch = [28904, 24117]\norder = \"any\"\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("the file lacks %q:\n%s", want, text)
			}
		}
		for _, want := range []string{
			`  host "gate:22": allowed are names such as gate.example.org and IP addresses`,
			`  door.Panel: a name that starts with "P": allowed are 1 to 24 characters of a-z, 0-9, - and _, a letter first`,
			`  at least one port, such as 8443/tcp`,
			`  door.panel.ports[0]: "8443": has no protocol: write "8443/tcp" or "8443/udp"`,
			`  door.panel.service.unit: "panel": ends neither in .service nor in .socket`,
			`  "knock" is no kind of knock that can be written: allowed are "sealed" and "touch"`,
			`  door.panel.knock[0].listen[1]: 24117: listed twice`,
			`  at least one port, and better two or three`,
			`  door.panel.knock[0].touch[0]: 24118: not in "listen"`,
			`  door.panel.knock[0].order: "never": not one of the allowed words`,
		} {
			if !strings.Contains(errs, want) {
				t.Errorf("the dialogue lacks %q:\n%s", want, errs)
			}
		}
	})
	t.Run("no answer", func(t *testing.T) {
		status, text, errs := runInit(m, "none\nssh\n", "--ask", "-o", "-")
		const want = "doorward: error: no answer to \"Ports that it guards, such as 22/tcp 60000-61000/udp\": EOF; nothing is written\n"
		if status != 1 || text != "" || !strings.HasSuffix(errs, want) {
			t.Errorf("status %d, %q, %s\nwant 1, nothing, %s", status, text, errs, want)
		}
	})
}

func TestInitWrites(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "etc", "doorward.toml")
	args := []string{"--listen", "24117,25633,28904", "--touch", "28904,24117", "-o", file}
	if status, _, errs := runInit(machineOf(), "", args...); status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wantModes(t, map[string]fs.FileMode{file: 0o640, filepath.Dir(file): 0o750})

	status, _, errs := runInit(machineOf(), "", append(args, "--door", "b", "--ports", "1/tcp")...)
	want := "doorward: error: \"" + file + "\" exists\n" +
		"doorward: hint: to change what it says, edit it, and then: doorward check " + file +
		"; --force writes another, and keeps this one beside it\n"
	if status != 1 || errs != want {
		t.Errorf("status %d, %s\nwant 1, %s", status, errs, want)
	}
	if now, _ := os.ReadFile(file); !bytes.Equal(now, first) {
		t.Error("the existing file has changed without --force")
	}

	blank := filepath.Join(dir, "blank.toml")
	for _, force := range []string{"--force=false", "--force"} {
		if err := os.WriteFile(blank, []byte("# nothing yet\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		status, out, errs := runInit(machineOf(), "", append(args, "-o", blank, force)...)
		if status != 0 || errs != "" || strings.Contains(out, "before") {
			t.Errorf("%s over a file of comments: status %d, %s%s\nwant 0, and nothing about the previous file", force, status, out, errs)
		}
		wantModes(t, map[string]fs.FileMode{blank: 0o640})
		if now, _ := os.ReadFile(blank); !bytes.Equal(now, first) {
			t.Errorf("%s over a file of comments wrote\n%s\nwant\n%s", force, now, first)
		}
	}

	link := filepath.Join(dir, "link.toml")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	args = append(args, "--door", "b", "--ports", "1/tcp", "--force", "--output", link)
	if status, _, errs := runInit(machineOf(), "", args...); status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	if now, _ := os.ReadFile(file); !bytes.Contains(now, []byte("[door.b]")) {
		t.Errorf("--force has not written through the link:\n%s", now)
	}
	if kept, err := os.ReadFile(file + ".~1~"); !bytes.Equal(kept, first) || err != nil {
		t.Errorf("kept is %q, %v; want the previous file", kept, err)
	}
	wantModes(t, map[string]fs.FileMode{file: 0o640, file + ".~1~": 0o640})
	if left, _ := filepath.Glob(filepath.Join(dir, "*", ".*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	status, _, errs = runInit(machineOf(), "", "-o", filepath.Join(dir, "no", "such", "file"))
	want = "doorward: error: make directory \"" + filepath.Join(dir, "no", "such") + "\": open " +
		filepath.Join(dir, "no") + ": no such file or directory\n"
	if status != 1 || errs != want {
		t.Errorf("status %d, %s\nwant 1, %s", status, errs, want)
	}
}

// What --force writes over is kept, and the knock of the door with it: all that a
// visitor does, unless another one is asked for. What is lost is reported.
func TestInitForce(t *testing.T) {
	const knocks = `
[[door.ssh.knock]]
kind = "touch"
listen = [59000, 59001, 59002]
touch = [59002, 59000] # secret
order = "given"
within = "30s"
judge = "every 45s"
penalty = "0s"
[[door.ssh.knock]]
kind = "touch"
listen = [61000, 61001]
touch = [61001]
`
	const ssh = "[door.ssh]\nports = [\"22/tcp\"]\nopen_for = \"5m\"\n" + knocks
	const web = "[door.web]\nports = [\"443/tcp\"]\n[[door.web.knock]]\nkind = \"touch\"\nlisten = [62000, 62001]\ntouch = [62000]\n"
	const other = "warning: door \"ssh\" has another knock than before, and the former one opens nothing once this file is in use; " +
		"to give the new one to everybody who had it: doorward share\n"
	const gone = "warning: door \"web\" of the previous file is not in this one, and is no longer guarded once this one is in use\n"
	tests := []struct {
		name   string
		former string
		args   []string
		stdin  string
		kept   bool
		said   []string
		not    string // what is not said
	}{
		{name: "another port", former: ssh, args: []string{"--ports", "2222/tcp"}, kept: true,
			said: []string{"The previous file is kept: FILE.~1~\n", "Door ssh has the knock that it had.\n",
				"Have the daemon use the file; it goes back by itself unless you keep it.", "      doorward apply --confirm 60s\n      doorwardd -c FILE\n"}, not: "another knock"},
		{name: "another knock", former: ssh, args: []string{"--listen", "7,8,9", "--touch", "7"}, said: []string{other}, not: "that it had"},
		{name: "the article's", former: ssh, args: []string{"--like-the-article"}, said: []string{other}, not: "that it had"},
		{name: "another door", former: ssh + web, args: []string{"--ports", "22/tcp"}, kept: true,
			said: []string{gone, "Door ssh has the knock that it had.\n"}, not: "another knock"},
		{name: "a sealed one instead", former: ssh, args: []string{"--ports", "22/tcp", "--knock", "sealed"},
			said: []string{strings.ReplaceAll(other, "doorward share", "doorward invite --door ssh --for NAME")}},
		{name: "knocks of several kinds", former: ssh + "[[door.ssh.knock]]\nkind = \"sealed\"\nport = 28511\nsecrets = \"/etc/s\"\none_way = true\n",
			args: []string{"--ports", "22/tcp"}, kept: true, said: []string{"Door ssh has the knock that it had.\n"}, not: "another knock"},
		{name: "no configuration", former: "door = 1\n", args: []string{"--ports", "22/tcp"},
			said: []string{"warning: the previous file cannot be read as a configuration, so that no knock of it is in this one; doorward check 'FILE.~1~' says why\n"}},
		{name: "asked for", former: ssh, args: []string{"--ask"}, stdin: "\n\n2222/tcp\n\nold\n\n", kept: true,
			said: []string{"  allowed are \"keep\" and \"new\"\n", "Door ssh has the knock that it had.\n"}},
		{name: "asked for another", former: ssh, args: []string{"--ask"}, stdin: "\n\n2222/tcp\n\nnew\ntouch\n\n\n", said: []string{other}},
		{name: "asked for another door", former: ssh, args: []string{"--ask"}, stdin: "\nweb\n443/tcp\n\ntouch\n\n\n",
			said: []string{strings.ReplaceAll(gone, "web", "ssh")}, not: "Knock of the previous file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "doorward.toml")
			if err := os.WriteFile(file, []byte(tt.former), 0o640); err != nil {
				t.Fatal(err)
			}
			status, out, errs := runInit(machineOf(), tt.stdin, append(tt.args, "--force", "-o", file)...)
			if status != 0 {
				t.Fatalf("status %d: %s", status, errs)
			}
			for _, want := range tt.said {
				if want = strings.ReplaceAll(want, "FILE", file); !strings.Contains(errs+out, want) {
					t.Errorf("it did not say %q:\n%s%s", want, errs, out)
				}
			}
			if tt.not != "" && strings.Contains(errs+out, tt.not) {
				t.Errorf("it said %q:\n%s%s", tt.not, errs, out)
			}
			if kept, err := os.ReadFile(file + ".~1~"); string(kept) != tt.former || err != nil {
				t.Errorf("kept is %q, %v; want the previous file", kept, err)
			}
			now, _, err := config.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.kept {
				return
			}
			was, err := config.Parse("", []byte(tt.former))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(was.Doors[0].Knocks, now.Doors[0].Knocks); d != "" {
				t.Errorf("the knocks (-want +got):\n%s", d)
			}
		})
	}
}

func wantModes(t *testing.T, modes map[string]fs.FileMode) {
	t.Helper()
	if runtime.GOOS == "windows" {
		return
	}
	for p, want := range modes {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s = %v, want %v", p, got, want)
		}
	}
}

// init describes in words what it has written, and what could go wrong with it.
func TestInitNext(t *testing.T) {
	m := machineOf("proc/sys/net/ipv4/ip_local_port_range=25000\t61000\n", "proc/sys/net/ipv4/ip_local_reserved_ports=25000\n")
	status, _, errs := runInit(m, "", "-o", "-", "--door", "alt", "--ports", "53/udp,2222/tcp", "--unit", "ssh.service",
		"--listen", "24117,25633,28904", "--touch", "28904,24117")
	if status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	for _, want := range []string{
		"door alt guards 53/udp and 2222/tcp\n",
		"  knock      touch 28904 and 24117 in this order within 1m, leave 25633 alone\n",
		"warning: 25633/tcp and 28904/tcp (listeners of door alt): this machine assigns ports 25000 to 61000 to sockets " +
			"that do not ask for one, such as those of outgoing connections: one of them may hold the port when it is needed; " +
			"to keep them free:\n    echo net.ipv4.ip_local_reserved_ports=25000,25633,28904 " +
			">/etc/sysctl.d/60-doorward.conf && sysctl -p /etc/sysctl.d/60-doorward.conf\n",
		"      doorward polkit --install\n", "      TCP 2222, 24117, 25633, 28904\n      UDP 53\n", "      systemctl enable --now doorward\n",
		"      doorward knock HOST --touch 28904,24117 --wait 2222 -- ssh USER@HOST -p 2222\n",
		"      Host HOST\n          Port 2222\n          ProxyCommand doorward knock %h --touch 28904,24117 --wait %p --stdio\n",
		"\nAfter a change of the file: doorward apply --confirm 60s\n",
	} {
		if !strings.Contains(errs, want) {
			t.Errorf("the final message lacks %q:\n%s", want, errs)
		}
	}
}
