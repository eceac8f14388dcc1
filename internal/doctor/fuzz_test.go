//go:build linux

package doctor

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/tape"
	"github.com/doorward/doorward/internal/touch"
)

// drawSSHD makes files of sshd and the ports that they mean, which it knows from
// what it puts in rather than from how that is written.
type drawSSHD struct {
	c     *tape.Tape
	dir   string // where includes are
	files map[string]string

	ports   []uint16
	bare    bool // an address without a port, not loopback
	own     []uint16
	address bool
}

// keyed writes a keyword and its value in one of the ways that sshd takes.
func (d *drawSSHD) keyed(key, value string) string {
	key = tape.Of(d.c, []string{key, strings.ToLower(key), strings.ToUpper(key), `"` + key + `"`})
	value = tape.Of(d.c, []string{value, value, `"` + value + `"`, "'" + value + "'", value[:1] + `"` + value[1:] + `"`})
	between := tape.Of(d.c, []string{" ", "\t", "=", " = ", " =\t", "  "})
	if key[0] == '"' {
		between = " "
	}
	return tape.Of(d.c, []string{"", "  ", "\t"}) + key + between + value + tape.Of(d.c, []string{"", " ", "\r", " # Port 1", "\f"}) + "\n"
}

// text makes a file.
func (d *drawSSHD) text(depth int) string {
	var b strings.Builder
	for range 1 + d.c.Below(6) {
		switch d.c.Below(8) {
		case 0:
			b.WriteString(tape.Of(d.c, []string{"\n", "# Port 1\n", "  #ListenAddress 192.0.2.1:1\n", "PermitRootLogin no\n", "X11Forwarding yes\n"}))
		case 1, 2:
			n := uint16(1 + d.c.Below(65535))
			d.ports = append(d.ports, n)
			b.WriteString(d.keyed("Port", strconv.Itoa(int(n))))
		case 3, 4, 5:
			b.WriteString(d.keyed("ListenAddress", d.listen()))
		case 6:
			b.WriteString("Match all\n")
		case 7:
			if depth < 3 {
				name := filepath.Join(d.dir, fmt.Sprintf("%d.conf", len(d.files)))
				d.files[name] = "" // its name is taken
				d.files[name] = d.text(depth + 1)
				b.WriteString(d.keyed("Include", name))
			}
		}
	}
	return b.String()
}

func (d *drawSSHD) listen() string {
	d.address = true
	host := tape.Of(d.c, []string{"192.0.2.1", "0.0.0.0", "::", "2001:db8::1", "127.0.0.1", "::1", "localhost", "127.9.0.1"})
	loopback := strings.HasPrefix(host, "127.") || host == "::1" || host == "localhost"
	n := uint16(1 + d.c.Below(65535))
	with := d.c.Bool()
	switch {
	case loopback:
	case with:
		d.own = append(d.own, n)
	default:
		d.bare = true
	}
	if strings.Contains(host, ":") && (with || d.c.Bool()) {
		host = "[" + host + "]"
	}
	if with {
		host += fmt.Sprintf(":%d", n)
	}
	return host
}

func (d *drawSSHD) want() []uint16 {
	all := slices.Clone(d.own)
	if d.bare || !d.address {
		all = append(all, d.ports...)
		if len(d.ports) == 0 {
			all = append(all, 22)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// readSSHD is what the doctor makes of files under root.
func readSSHD(root, text string) []uint16 {
	s := &sshdConf{p: &Patient{Root: root}}
	s.file(text, 0)
	return s.list()
}

// FuzzSSHDConfig holds that the ports of a configuration are those that were put
// into it, however it is written.
func FuzzSSHDConfig(f *testing.F) {
	for _, s := range []string{
		"", "\x01\x01\x00\x15\x00\x00\x02\x00\x00\x03\x00\x00\x08\xad\x01", "\x05\x07\x02\x01\x00\x17\x01\x02\x03\x01\x00\x01\x00\x07\x01\x00",
		"\x03\x03\x04\x00\x16\x00\x03\x01\x02\x04\x00\x00\x19\x01", "\x04\x06\x01\x10\x00\x03\x03\x02\x02\x03\x00",
	} {
		f.Add([]byte(s))
	}
	root, err := os.MkdirTemp("", "doorward-sshd")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(root) })
	f.Fuzz(func(t *testing.T, choices []byte) {
		d := &drawSSHD{c: tape.New(choices), dir: "/etc/ssh", files: map[string]string{}}
		text := d.text(0)
		for name, text := range d.files {
			path := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if d := cmp.Diff(d.want(), readSSHD(root, text), equalEmpty()); d != "" {
			t.Fatalf("%q: ports (-want +got):\n%s", text, d)
		}
	})
}

func equalEmpty() cmp.Option {
	return cmp.Comparer(func(a, b []uint16) bool { return slices.Equal(a, b) })
}

// The real sshd finds the same ports in the same files, so that what is put into
// them means what FuzzSSHDConfig takes it for.
func TestSSHDFindsTheSamePorts(t *testing.T) {
	nstest.Need(t, "sshd", "ssh-keygen")
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where sshd locks itself in
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sshd, err := exec.LookPath("sshd") // it wants its whole path
	if err != nil {
		t.Fatal(err)
	}
	listens := regexp.MustCompile(`(?m)^listenaddress (.*)$`)
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		choices := binary.LittleEndian.AppendUint64(nil, random.Uint64())
		for range 12 {
			choices = binary.LittleEndian.AppendUint64(choices, random.Uint64())
		}
		d := &drawSSHD{c: tape.New(choices), dir: t.TempDir(), files: map[string]string{}}
		main := filepath.Join(d.dir, "main")
		text := d.text(0)
		d.files[main] = text
		for name, text := range d.files {
			write(t, name, text)
		}
		out, err := exec.Command(sshd, "-T", "-f", main, "-h", key).CombinedOutput()
		if err != nil {
			t.Fatalf("sshd refuses %q: %v: %s", d.files, err, out)
		}
		var got []uint16
		for _, m := range listens.FindAllStringSubmatch(string(out), -1) {
			if a := netip.MustParseAddrPort(m[1]); !a.Addr().IsLoopback() {
				got = append(got, a.Port())
			}
		}
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, d.want()) {
			t.Errorf("%q in %q: sshd listens on %v, want %v", text, d.files, got, d.want())
		}
		if read := readSSHD("", text); !slices.Equal(read, got) {
			t.Errorf("%q in %q: read %v, sshd listens on %v", text, d.files, read, got)
		}
	}
}

// blanks makes every white space of a line a blank, as strings.Fields takes it.
func blanks(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) && r != '\n' {
			return ' '
		}
		return r
	}, s)
}

// FuzzProcStatus holds that the daemon's user, groups and capabilities are what
// its status file says by its form, and that what cannot be read is not taken
// for leave.
func FuzzProcStatus(f *testing.F) {
	for _, s := range []string{
		"Name:\tdoorwardd\nUid:\t990\t991\t992\t993\nGid:\t990\t991\t992\t993\nGroups:\t4 101 \nCapEff:\t0000000000001400\n",
		"Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n", "Uid:\tx\tx\nGroups:\t\nCapEff:\t1000\n", "", "CapEff:\t\n", "CapEff: fffffffffffffffff\n", "Uid:\t1\n",
		"Uid:\t1\t-5\t1\t1\nGid:\t+4\nCapEff:+1000\n",
	} {
		f.Add(s)
	}
	root, err := os.MkdirTemp("", "doorward-proc")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { os.RemoveAll(root) })
	dir := filepath.Join(root, "proc/77")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.Fatal(err)
	}
	c := &config.Config{Doors: []config.Door{{Knocks: []config.Knock{{Rule: touch.Rule{Listen: []uint16{22}}}}}}}
	f.Fuzz(func(t *testing.T, status string) {
		if err := os.WriteFile(filepath.Join(dir, "status"), []byte(status), 0o644); err != nil {
			t.Fatal(err)
		}
		if r := (&Patient{Root: root}).daemonReader(77); r != nil {
			uids := regexp.MustCompile(`(?m)^Uid: *[^ \n]+ +\+?0*([0-9]+)`).FindAllStringSubmatch(blanks(status), -1)
			if len(uids) == 0 || strconv.Itoa(r.uid) != uids[len(uids)-1][1] || r.uid <= 0 {
				t.Fatalf("%q: user %d", status, r.uid)
			}
			for _, g := range r.gids {
				form := fmt.Sprintf(`(?m)^(?:Gid|Groups):(?:.* )?%s0*%d(?: |$)`, map[bool]string{true: "-", false: `[+-]?`}[g < 0], max(g, -g))
				if !regexp.MustCompile(form).MatchString(blanks(status)) {
					t.Fatalf("%q: group %d", status, g)
				}
			}
		}
		found := capabilities(77, status, c)
		caps := regexp.MustCompile(`(?m)^CapEff: *([0-9A-Fa-f]+) *$`).FindAllStringSubmatch(blanks(status), -1)
		fine := len(found) == 1 && found[0].Verdict == OK
		if fine && len(caps) == 0 {
			t.Fatalf("%q: %v", status, found)
		}
		if fine {
			n, err := strconv.ParseUint(caps[len(caps)-1][1], 16, 64)
			if err != nil || n>>12&1 == 0 || n>>10&1 == 0 { // linux/capability.h
				t.Fatalf("%q has %#x (%v): %v", status, n, err, found)
			}
		}
	})
}
