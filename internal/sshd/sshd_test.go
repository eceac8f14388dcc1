package sshd

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/doorward/doorward/internal/nstest"
	"github.com/doorward/doorward/internal/tape"
)

func TestRead(t *testing.T) {
	tests := []struct {
		name, text string
		want       []uint16
	}{
		{"nothing", "# Port 2222\nPermitRootLogin no\n", []uint16{22}},
		{"ports", "Port 22\nport = 2222\n  PORT \"2223\"\n", []uint16{22, 2222, 2223}},
		{"addresses without ports", "Port 2222\nListenAddress 192.0.2.1\nListenAddress 2001:db8::1\n", []uint16{2222}},
		{"addresses with ports", "Port 22\nListenAddress 192.0.2.1:2222\nListenAddress [2001:db8::1]:2223\nListenAddress gate:2224\n",
			[]uint16{2222, 2223, 2224}},
		{"loopback", "ListenAddress 127.0.0.1:2222\nListenAddress [::1]:2222\nListenAddress localhost\n", nil},
		{"includes", "Include /etc/ssh/sshd_config.d/*.conf\nPort 22\n", []uint16{22, 2022, 2023}},
		{"relative include", "Include sshd_config.d/b.conf\n", []uint16{2023}},
		{"match all is everybody", "Port 22\nMatch user x\nX11Forwarding no\nMatch all\nPort 2222\n", []uint16{22, 2222}},
		{"words as sshd has them", "Port '2222' # x\nPort 22\"23\"\f\r\n\"Port\" \t=\t2224\nPort http\n#Port 1\n", []uint16{80, 2222, 2223, 2224}},
		{"ports that are none", "Port 0\nPort 65536\nPort -1\nPort 22\n", []uint16{22}},
		{"a circle", "Include sshd_config.d/loop\nPort 22\n", []uint16{22}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := fstest.MapFS{}
			for name, text := range map[string]string{
				"sshd_config":          tt.text,
				"sshd_config.d/a.conf": "Port 2022\nMatch user y\n",
				"sshd_config.d/b.conf": "Port 2023\n",
				"sshd_config.d/loop":   "Include sshd_config.d/loop\n",
			} {
				root["etc/ssh/"+name] = &fstest.MapFile{Data: []byte(text)}
			}
			got, ok := Read(root)
			if d := cmp.Diff(tt.want, got.Ports); d != "" || !ok {
				t.Errorf("read: %v, ports (-want +got):\n%s", ok, d)
			}
		})
	}
	if c, ok := Read(fstest.MapFS{}); ok {
		t.Errorf("%+v is read from a machine without sshd", c)
	}
}

// drawSSHD makes configuration files of sshd, and the ports that they mean, which it
// knows from what it puts in rather than from how that is written.
type drawSSHD struct {
	c     *tape.Tape
	dir   string // where includes are
	files map[string]string

	ports   []uint16
	bare    bool // an address without a port, not loopback
	own     []uint16
	address bool
}

// keyed writes a keyword and its value in one of the ways that sshd accepts.
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
				name := path.Join(d.dir, fmt.Sprintf("%d.conf", len(d.files)))
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

// read is what Read makes of the files.
func (d *drawSSHD) read(text string) []uint16 {
	root := fstest.MapFS{Path: &fstest.MapFile{Data: []byte(text)}}
	for name, text := range d.files {
		root[strings.TrimPrefix(name, "/")] = &fstest.MapFile{Data: []byte(text)}
	}
	c, _ := Read(root)
	return c.Ports
}

// FuzzSSHDConfig checks that the ports of a configuration are those that were put into
// it, however it is written.
func FuzzSSHDConfig(f *testing.F) {
	for _, s := range []string{
		"", "\x01\x01\x00\x15\x00\x00\x02\x00\x00\x03\x00\x00\x08\xad\x01", "\x05\x07\x02\x01\x00\x17\x01\x02\x03\x01\x00\x01\x00\x07\x01\x00",
		"\x03\x03\x04\x00\x16\x00\x03\x01\x02\x04\x00\x00\x19\x01", "\x04\x06\x01\x10\x00\x03\x03\x02\x02\x03\x00",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, choices []byte) {
		d := &drawSSHD{c: tape.New(choices), dir: "/etc/ssh", files: map[string]string{}}
		text := "#\n" + d.text(0) // an empty file is none
		got := d.read(text)
		if d := cmp.Diff(d.want(), got, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%q: ports (-want +got):\n%s", text, d)
		}
	})
}

// The real sshd finds the same ports in the same files, so that what is put into
// them means what FuzzSSHDConfig takes it for.
func TestSSHDFindsTheSamePorts(t *testing.T) {
	nstest.Need(t, "sshd", "ssh-keygen")
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd's privilege separation directory
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sshd, err := exec.LookPath("sshd") // it insists on being run by an absolute path
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
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
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
		if read := d.read(text); !slices.Equal(read, got) {
			t.Errorf("%q in %q: read %v, sshd listens on %v", text, d.files, read, got)
		}
	}
}
