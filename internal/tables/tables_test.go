package tables

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/port"
)

// reading is what a table with keys of all types is read into.
type reading struct {
	Name, File string
	Port       uint16
	Ports      []uint16
	Wait       time.Duration
	Deep       bool
	Side       int
}

var waitSpan = Span{Unset: time.Second, Min: time.Second, Max: time.Minute, OrNone: true}

func read(t *Table) (r reading) {
	r.Name, _ = t.At("name").Text("names")
	r.File, _ = t.At("file").File(AbsolutePaths("/etc/keys"))
	r.Port, _ = t.At("port").Port(port.UDP)
	ports, _ := t.At("ports").Ports(port.TCP)
	for _, p := range ports {
		r.Ports = append(r.Ports, p.Number)
	}
	r.Wait, _ = t.At("wait").Duration(waitSpan)
	r.Deep = t.At("deep").Bool(true)
	r.Side = t.At("side").Choice("left", "right")
	t.Done()
	return r
}

func TestATableIsRead(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     reading
		wrong    []string
	}{
		{"all of it", `
name = "a"
file = "/etc/keys"
port = 5005
ports = [5005, 1]
wait = "0s"
deep = false
side = "right"
`, reading{"a", "/etc/keys", 5005, []uint16{5005, 1}, 0, false, 1}, nil},
		{"the least", "name = ''\nfile = '/a'\nport = 1\nports = [2]\n",
			reading{"", "/a", 1, []uint16{2}, time.Second, true, 0}, nil},
		{"nothing", "", reading{Wait: time.Second, Deep: true}, []string{
			`f:1: file: missing: allowed are absolute paths such as "/etc/keys"`,
			`f:1: name: missing: allowed are names`,
			`f:1: port: missing: allowed are port numbers, 1 to 65535`,
			`f:1: ports: missing: allowed are lists of port numbers such as [59000, 59001, 59002]`,
		}},
		{"all of it wrong", "name = 1\nfile = 'keys'\nport = '5005/udp'\nports = [1, 0, 1]\nwait = '2m'\ndeep = 'no'\nside = 'rigt'\nsid = 1\n",
			reading{Ports: []uint16{1}}, []string{
				`f:1: name: 1: an integer, not a string: allowed are names`,
				`f:2: file: "keys": not an absolute path: allowed are absolute paths such as "/etc/keys"`,
				`f:3: port: "5005/udp": a string, not an integer: allowed are port numbers, 1 to 65535`,
				`f:4: ports[1]: 0: not a port: allowed are port numbers, 1 to 65535`,
				`f:4: ports[2]: 1: listed twice`,
				`f:5: wait: "2m": too long: allowed are "0s" for none, and "1s" to "1m"`,
				`f:6: deep: "no": a string, not a boolean: allowed are true and false`,
				`f:7: side: "rigt": did you mean "right"?: allowed are "left" and "right"`,
				`f:8: sid: unknown key: did you mean "side"?: allowed are name, file, port, ports, wait, deep, side`,
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root, err := Parse("f", []byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, read(root)); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
			var wrong []string
			if err := root.Err(); err != nil {
				wrong = strings.Split(err.Error(), "\n")
			}
			if diff := cmp.Diff(tt.wrong, wrong); diff != "" || root.Mistakes() != len(wrong) {
				t.Errorf("%d mistakes (-want +got):\n%s", root.Mistakes(), diff)
			}
		})
	}
}

// A port is where it was read first, by protocol; one that was not read is its
// table's.
func TestWhereAPortIs(t *testing.T) {
	root, err := Parse("f", []byte("name = 'a'\nfile = '/a'\nport = 7\nports = [6, 7,\n7]\n"))
	if err != nil {
		t.Fatal(err)
	}
	read(root)
	for _, tt := range []struct {
		p    port.Port
		want string
	}{
		{port.Port{Proto: port.UDP, Number: 7}, "port"},
		{port.Port{Proto: port.TCP, Number: 7}, "ports[1]"},
		{port.Port{Proto: port.TCP, Number: 8}, ""},
	} {
		if got := root.Port(tt.p); got.Key != tt.want {
			t.Errorf("%s is at %q, line %d; want %q", tt.p, got.Key, got.Line(), tt.want)
		}
	}
}

func TestListed(t *testing.T) {
	for want, words := range map[string][]string{"": nil, "a": {"a"}, "a and b": {"a", "b"}, "a, b and c": {"a", "b", "c"}} {
		if got := Listed(words); got != want {
			t.Errorf("%q is listed as %q, want %q", words, got, want)
		}
	}
}
