package sealed

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
)

// read reads a table of the kind.
func read(t *testing.T, text string) (knock.Rule, error) {
	t.Helper()
	table, err := tables.Parse("knock.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	table.At("kind").Text("")
	r := Kind{}.Read(table)
	table.Done()
	return r, table.Err()
}

func TestRead(t *testing.T) {
	plain := Rule{Port: 41641, Identity: "/etc/doorward/sealed.key", Keys: "/etc/doorward/authorized_keys", MaxOpenFor: time.Hour}
	all := Rule{Port: 500, TCP: true, Identity: "/id", Keys: "/keys", Secrets: "/secrets", Revoked: "/revoked", OneWay: true, AnySource: true, MaxOpenFor: time.Minute}
	for text, want := range map[string]Rule{
		"": plain,
		"port = 500\ncarriers = [\"tcp\", \"udp\"]\nidentity = \"/id\"\nkeys = \"/keys\"\nsecrets = \"/secrets\"\nrevoked = \"/revoked\"\n" +
			"one_way = true\nany_source = true\nmax_open_for = \"1m\"": all,
	} {
		got, err := read(t, "kind = \"sealed\"\n"+text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(knock.Rule(want), got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	if n := len(all.Warnings()); n != 1 || len(plain.Warnings()) != 0 {
		t.Errorf("%d warnings of any_source, want 1, and none without it", n)
	}
}

func TestReadMistakes(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"port = 0", "port: 0"},
		{"port = 70000", "port: 70000"},
		{"carriers = []", `carriers: []: without "udp": allowed are ["udp"] and ["udp", "tcp"]`},
		{`carriers = ["tcp"]`, `without "udp"`},
		{`carriers = ["udp", "udp"]`, "no carrier, or there twice"},
		{`carriers = ["udp", "icmp"]`, "no carrier, or there twice"},
		{`carriers = "udp"`, "carriers: "},
		{`identity = "sealed.key"`, "identity: "},
		{`keys = ""`, "keys: "},
		{`secrets = 5`, "secrets: 5"},
		{`revoked = "../x"`, "revoked: "},
		{`revoked = "/etc/doorward/authorized_keys"`, `revoked: "/etc/doorward/authorized_keys": the same file as keys: allowed are files that differ`},
		{"keys = \"/x\"\nsecrets = \"/x\"", `secrets: "/x": the same file as keys: allowed are files that differ`},
		{`keys = "/etc/doorward/sealed.key"`, `keys: "/etc/doorward/sealed.key": the same file as identity: allowed are files that differ`},
		{`identity = "/etc/doorward/authorized_keys"`, `keys: the same file as identity: allowed are files that differ`},
		{"any_source = true", "without one_way, nothing is heard of it"},
		{`one_way = "yes"`, "one_way: "},
		{`max_open_for = "0s"`, "max_open_for: "},
		{`max_open_for = "31d"`, "max_open_for: "},
		{`penalty = "1m"`, "penalty"},
	} {
		_, err := read(t, "kind = \"sealed\"\n"+tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.text, err, tt.want)
		}
	}
}

// The reference has every key, with the default as its value where there is one.
func TestReference(t *testing.T) {
	got, err := read(t, Kind{}.Reference())
	if err != nil {
		t.Fatal(err)
	}
	want, _ := read(t, "kind = \"sealed\"\nsecrets = \"/etc/doorward/secrets\"\nrevoked = \"/etc/doorward/revoked_keys\"")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the reference says is not what is so without it (-so +says):\n%s", diff)
	}
	for _, key := range tables.Keys(func(table *tables.Table) { Kind{}.Read(table) }) {
		if !strings.Contains(Kind{}.Reference(), "\n"+key+" = ") {
			t.Errorf("%s is not in the reference", key)
		}
	}
}

func TestShares(t *testing.T) {
	r := Rule{Port: 1, Identity: "/id"}
	with := func(change func(*Rule)) Rule { o := r; change(&o); return o }
	for _, tt := range []struct {
		other Rule
		want  string
	}{
		{r, ""},
		{with(func(r *Rule) { r.Keys, r.OneWay = "/other", true }), ""},
		{with(func(r *Rule) { r.TCP = true }), "carriers: not the same"},
		{with(func(r *Rule) { r.Identity = "/other" }), `identity = "/id": the other has "/other"`},
	} {
		got := ""
		if err := r.Shares(tt.other); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("with %+v: %q, want %q", tt.other, got, tt.want)
		}
	}
}
