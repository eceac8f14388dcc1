package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/kinds"
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/tables"
)

// wordKind is a kind of knock that hears one UDP port, and that only this test knows.
type wordKind struct{}

func (wordKind) Name() string       { return "word" }
func (wordKind) Needs() knock.Needs { return knock.Needs{} }
func (wordKind) Reference() string {
	return "kind = \"word\"\n\n# The UDP port (example).\nport = 5005\n\n# How long it waits, \"1s\" to \"9s\".\npatience = \"2s\"\n"
}

func (wordKind) Read(t *tables.Table) knock.Rule {
	var r wordRule
	r.Port, _ = t.At("port").Port(port.UDP)
	r.Patience, _ = t.At("patience").Duration(tables.Span{Unset: 2 * time.Second, Min: time.Second, Max: 9 * time.Second})
	if r.Port == 0 {
		return nil
	}
	return r
}

type wordRule struct {
	knock.Rule
	Port     uint16
	Patience time.Duration
}

func (r wordRule) Hears() []knock.Place {
	return []knock.Place{{Medium: knock.Datagrams, Port: r.Port}}
}
func (r wordRule) ForAll() bool       { return false }
func (r wordRule) Warnings() []string { return []string{"a word is soon heard by others"} }

// withWord puts the kind on the list for one test.
func withWord(t *testing.T) {
	before := kinds.All
	kinds.All = append([]knock.Kind{}, append(before, wordKind{})...)
	t.Cleanup(func() { kinds.All = before })
}

// A kind only has to be on the list for its keys to be read, its mistakes reported,
// and its places kept apart from others'.
func TestAKindThatIsNew(t *testing.T) {
	withWord(t)
	c, err := Parse("t.toml", []byte(ssh+oneKnock+`[[door.ssh.knock]]
kind = "word"
port = 59000
[[door.ssh.knock]]
kind = "word"
port = 22
patience = "3s"
[[door.ssh.knock]]
kind = "touch"
listen = [1, 2, 3]
touch = [1, 3]
`))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, k := range c.Doors[0].Knocks {
		names = append(names, k.Kind+" as "+k.Name)
	}
	want := []string{"touch as touch", "word as word", "word as word-2", "touch as touch-2"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if want := (wordRule{Port: 22, Patience: 3 * time.Second}); c.Doors[0].Knocks[2].Rule != knock.Rule(want) {
		t.Errorf("the third knock is %+v, want %+v", c.Doors[0].Knocks[2].Rule, want)
	}
	if got := strings.Join(c.Warnings(), "\n"); !strings.Contains(got, `door "ssh": knock[1]: a word is soon heard by others`) {
		t.Errorf("warnings %q lack that of the kind", got)
	}
	local := port.Local{First: 59000, Last: 60000}
	what, _ := c.Clashes(local, true)
	if want := "59000/tcp, 59001/tcp and 59000/udp (listeners of door ssh)"; !strings.HasPrefix(what, want) {
		t.Errorf("clashes %q, want %q", what, want)
	}
}

func TestMistakesOfAKindThatIsNew(t *testing.T) {
	withWord(t)
	for _, tt := range []mistakeCase{
		{"of its keys", ssh + `[[door.ssh.knock]]
kind = "word"
patience = "10s"
prot = 1
[[door.ssh.knock]]
kind = "word"
port = "5005/udp"
[[door.ssh.knock]]
kind = "wodr"
`, []string{
			`3: door.ssh.knock[0].port: missing: allowed are port numbers, 1 to 65535`,
			`5: door.ssh.knock[0].patience: "10s": too long: allowed are "1s" to "9s"`,
			`6: door.ssh.knock[0].prot: unknown key: did you mean "port"?: allowed are kind, port, patience`,
			`9: door.ssh.knock[1].port: "5005/udp": a string, not an integer: allowed are port numbers, 1 to 65535`,
			`10: door.ssh.knock[2].port: missing: allowed are port numbers, 1 to 65535`,
			`11: door.ssh.knock[2].kind: "wodr": unknown kind of knock: did you mean "word"?: allowed are "sealed", "touch" and "word"`,
		}},
		{"of its places", `[door.a]
ports = ["51820/udp"]
knock = [{kind = "word", port = 51820}, {kind = "word", port = 5005}]
[door.b]
ports = ["5005/tcp"]
knock = [{kind = "touch", listen = [51820, 51821], touch = [51820]}, {kind = "word", port = 5005}]
`, []string{
			`3: door.a.knock[0].port: 51820: a listener of door "a" is on a guarded port: "51820/udp" of door "a", line 2: ` +
				`allowed are ports that no door guards: the fence would keep every packet away`,
			`6: door.b.knock[1].port: 5005: door "b" listens on a port of another knock: door "a", line 3: ` +
				`allowed are ports that only one knock listens on`,
		}},
		{"not with what TCP has", "gateway.metrics = \"127.0.0.1:5005\"\n" + ssh + "knock = [{kind = \"word\", port = 5005}]\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("t.toml", []byte(tt.in))
			if diff := cmp.Diff(tt.want, mistakes(err)); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
		})
	}
}

// The reference has the keys of every kind, and is a configuration.
func TestReferenceOfAKindThatIsNew(t *testing.T) {
	withWord(t)
	TestReferenceIsWhole(t)
	c, err := Parse("reference.toml", []byte(Reference()))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(c.Doors[1].Knocks); n != 3 {
		t.Errorf("door %s of the reference has %d knocks, want one of each kind", c.Doors[1].Name, n)
	}
}
