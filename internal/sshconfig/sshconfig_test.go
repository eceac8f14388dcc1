package sshconfig

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var gate = Host{Names: []string{"gate", "gate.example.org"}, HostName: "gate.example.org", Port: 2222, User: "alice",
	Proxy: "doorward connect %h %p --profile gate"}

const gateText = `# doorward: gate begins
Host gate gate.example.org
    HostName gate.example.org
    Port 2222
    User alice
    ProxyCommand doorward connect %h %p --profile gate
Host *
# doorward: gate ends
`

func install(t *testing.T, text string, h Host) string {
	t.Helper()
	after, err := Install(text, h.Names[0], h.Text())
	if err != nil {
		t.Fatal(err)
	}
	return after
}

func TestInstall(t *testing.T) {
	const old = "ServerAliveInterval 60\n\nHost other\n    User bob\n"
	other := Host{Names: []string{"other"}, HostName: "192.0.2.7", Exec: "doorward knock other --quiet-match"}
	const otherText = "# doorward: other begins\nHost other\n    HostName 192.0.2.7\n" +
		"Match originalhost other exec \"doorward knock other --quiet-match\"\nHost *\n# doorward: other ends\n"
	newer := gate
	newer.Port = 0
	newerText := strings.Replace(gateText, "    Port 2222\n", "", 1)
	for name, tt := range map[string]struct {
		before string
		h      Host
		want   string
	}{
		"no file":                     {"", gate, gateText},
		"first":                       {old, gate, gateText + "\n" + old},
		"no last newline":             {"Host x", gate, gateText + "\nHost x"},
		"Windows":                     {"Host x\r\n", gate, strings.ReplaceAll(gateText+"\nHost x\n", "\n", "\r\n")},
		"twice":                       {gateText + "\n" + old, gate, gateText + "\n" + old},
		"in its place":                {old + gateText + "Host z\n", newer, old + newerText + "Host z\n"},
		"beside another":              {gateText + "\n" + old, other, otherText + "\n" + gateText + "\n" + old},
		"by Match exec, in its place": {otherText + old, other, otherText + old},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tt.want, install(t, tt.before, tt.h)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestDamaged(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"Host x\n# doorward: gate begins\nHost y\n", `line 2: "# doorward: gate begins", and no line "# doorward: gate ends" after it: mend or delete these lines by hand`},
		{"# doorward: gate ends\n", `line 1: "# doorward: gate ends" without a beginning: mend or delete these lines by hand`},
		{gateText + gateText, `line 9: a second "# doorward: gate begins": mend or delete these lines by hand`},
	} {
		_, err := Install(tt.text, "gate", gate.Text())
		text, also := Remove(tt.text, "gate")
		if err == nil || err.Error() != tt.want || also == nil || also.Error() != tt.want || text != tt.text {
			t.Errorf("%q:\n got %v\n and %v\nwant %s", tt.text, err, also, tt.want)
		}
	}
}

// FuzzSections: whatever a file says, a section that comes and goes leaves it as it was, one
// that comes twice is there once, and what is outside of it stays; or the file is refused.
func FuzzSections(f *testing.F) {
	for _, text := range []string{"", "Host a", "Host a\n  Port 1\n", "\r\nMatch all\r\n", "# doorward: other begins\n\n# doorward: other ends\n",
		gateText, "Host x\n" + gateText + "\nHost y\n", gateText + gateText, "# doorward: gate ends\n", " # doorward: gate begins \n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		without, err := Remove(text, "gate")
		once, also := Install(text, "gate", gate.Text())
		if (err == nil) != (also == nil) {
			t.Fatalf("%q: removed: %v, installed: %v", text, err, also)
		}
		if err != nil {
			return
		}
		if twice, err := Install(once, "gate", gate.Text()); err != nil || twice != once {
			t.Errorf("twice: %v\n%q\nonce:\n%q", err, twice, once)
		}
		if gone, err := Remove(once, "gate"); err != nil || gone != without {
			t.Errorf("gone: %v\n%q\nwas, without it:\n%q", err, gone, without)
		}
	})
}

func TestEdit(t *testing.T) {
	to := func(text string) func(string) (string, error) {
		return func(string) (string, error) { return text, nil }
	}
	edit := func(path, text string, want bool) {
		t.Helper()
		if changed, err := Edit(path, to(text)); err != nil || changed != want {
			t.Errorf("edit: %v, %v, want %v", changed, err, want)
		}
	}
	mode := func(path string, want os.FileMode) {
		t.Helper()
		if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != want && runtime.GOOS != "windows" {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, ".ssh", "config")
	edit(path, "", false)
	if _, err := os.Lstat(filepath.Dir(path)); err == nil {
		t.Error("a directory was made for nothing")
	}
	edit(path, "a\n", true)
	mode(filepath.Dir(path), 0o700)
	mode(path, 0o600)
	edit(path, "a\n", false)

	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(".ssh", "config"), link); err != nil {
		t.Skip(err)
	}
	edit(link, "b\n", true)
	mode(path, 0o644)
	if target, err := os.Readlink(link); err != nil || target != filepath.Join(".ssh", "config") {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	if text, _ := os.ReadFile(path); string(text) != "b\n" {
		t.Errorf("the file has %q", text)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".ssh", ".config*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}

	dead := filepath.Join(dir, "dead")
	if err := os.Symlink("nothing", dead); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]string{
		dead: "it is a symbolic link to a file that is not there",
		dir:  "it is no regular file",
	} {
		if changed, err := Edit(at, to("x")); changed || err == nil || err.Error() != at+": "+want {
			t.Errorf("%s: %v, %v, want %s", at, changed, err, want)
		}
	}
	wrong := errors.New("wrong")
	if changed, err := Edit(path, func(string) (string, error) { return "x", wrong }); changed || !errors.Is(err, wrong) {
		t.Errorf("a change that cannot be made: %v, %v", changed, err)
	}
}

// What another program writes while the file is changed is not lost.
func TestEditMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	tries := 0
	changed, err := Edit(path, func(text string) (string, error) {
		if tries++; tries == 1 {
			if err := os.WriteFile(path, []byte("theirs\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return text + "ours\n", nil
	})
	text, _ := os.ReadFile(path)
	if err != nil || !changed || string(text) != "theirs\nours\n" {
		t.Errorf("%v, %v: %q", changed, err, text)
	}
	_, err = Edit(path, func(text string) (string, error) {
		if err := os.WriteFile(path, []byte(text+"again\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return "ours", nil
	})
	if want := path + ": another program has changed it meanwhile"; err == nil || err.Error() != want {
		t.Errorf("one that never rests: %v, want %s", err, want)
	}
}

// ssh understands what is written, and what stood in the file goes on for all hosts.
func TestSSHUnderstands(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("there is no ssh")
	}
	path := filepath.Join(t.TempDir(), "config")
	before := "ServerAliveInterval 61\nHost gate\n    Port 1\n    User eve\nHost other\n    Port 7\n"
	if err := os.WriteFile(path, []byte(install(t, before, gate)), 0o600); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string][]string{
		"gate":             {"hostname gate.example.org", "port 2222", "user alice", "proxycommand doorward connect %h %p --profile gate", "serveraliveinterval 61"},
		"gate.example.org": {"port 2222", "serveraliveinterval 61"},
		"other":            {"hostname other", "port 7", "serveraliveinterval 61"},
		"third":            {"hostname third", "port 22", "serveraliveinterval 61"},
	} {
		out, err := exec.Command("ssh", "-G", "-F", path, host).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh -G: %v\n%s", err, out)
		}
		for _, line := range want {
			if !strings.Contains("\n"+string(out), "\n"+line+"\n") {
				t.Errorf("ssh -G %s has no %q:\n%s", host, line, out)
			}
		}
	}
}
