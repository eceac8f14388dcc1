package sealed

import (
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
)

// read reads a rule from its keys.
func readRule(t interface{ Fatalf(string, ...any) }, keys string) (Rule, error) {
	table, err := tables.Parse("f", []byte(keys))
	if err != nil {
		t.Fatalf("%v\n%s", err, keys)
	}
	r, _ := Kind{}.Read(table).(Rule)
	return r, table.Err()
}

// A rule that is written is read as the same.
func TestWrite(t *testing.T) {
	secrets := rapid.SampledFrom([]string{"", "/etc/doorward/x", `/root/"my" file`})
	revoked := rapid.SampledFrom([]string{"", "/etc/doorward/y", `/root/"your" file`})
	rapid.Check(t, func(t *rapid.T) {
		r := Rule{
			Port: rapid.Uint16Min(1).Draw(t, "port"), TCP: rapid.Bool().Draw(t, "tcp"), Identity: "/a", Keys: "/b",
			Secrets: secrets.Draw(t, "secrets"), Revoked: revoked.Draw(t, "revoked"), OneWay: rapid.Bool().Draw(t, "one way"),
			MaxOpenFor: time.Duration(rapid.IntRange(1, 30*86400).Draw(t, "seconds")) * time.Second,
		}
		r.AnySource = r.OneWay && rapid.Bool().Draw(t, "any source")
		got, err := readRule(t, Kind{}.Write(r))
		if err != nil {
			t.Fatalf("%v\n%s", err, Kind{}.Write(r))
		}
		if d := cmp.Diff(r, got); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
	})
}

func TestDraft(t *testing.T) {
	lots := knock.Lots{Ports: func(m knock.Medium, n int) ([]uint16, error) {
		if m != knock.Datagrams || n != 1 {
			t.Errorf("%d ports of medium %d are drawn, want 1 for datagrams", n, m)
		}
		return []uint16{28511}, nil
	}}
	drafted := Rule{Port: 28511, Identity: DefaultIdentity, Keys: defaultKeys, MaxOpenFor: time.Hour}
	chosen := drafted
	chosen.Port, chosen.TCP = 443, true
	for _, tt := range []struct {
		chosen map[string][]string
		want   Rule
		err    string
	}{
		{nil, drafted, ""},
		{map[string][]string{"knock-port": {"443"}, "carriers": {"udp", "tcp"}}, chosen, ""},
		{map[string][]string{"knock-port": {"44 3"}}, Rule{}, `port: "44 3"`},
		{map[string][]string{"carriers": {"tcp"}}, Rule{}, `carriers: without "udp"`},
	} {
		keys, err := Kind{}.Draft(tt.chosen, lots)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readRule(t, keys)
		switch {
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%v: %v, want %s", tt.chosen, err, tt.err)
		case tt.err == "" && (err != nil || got != tt.want):
			t.Errorf("%v: %+v, %v; want %+v", tt.chosen, got, err, tt.want)
		}
	}
}

// What init makes is what the daemon can use, and each knock says what is wrong with its
// files.
func TestInspect(t *testing.T) {
	r := Rule{Identity: "/i", Keys: "/k", Secrets: "/s", Revoked: "/r"}
	made, err := r.Equipment(bytes.NewReader(make([]byte, 48)))
	if err != nil || len(made) != 2 || made[0].Path != "/i" || made[1].Path != "/k" {
		t.Fatalf("%v: made are %v", err, made)
	}
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINq6kpRSHpckj7CVZnQe2YsZHClKOyJDUdaJ6DJUyNp/ alice\n"
	files := map[string]knock.File{}
	for _, f := range r.Uses() {
		files[f.Path] = f
	}
	for _, tt := range []struct {
		path, text string
		err        error
		has        string
		wrong      []string
	}{
		{"/i", string(made[0].Text), nil, "the gateway's key is SHA256:", nil},
		{"/k", string(made[1].Text), nil, "0 keys", nil},
		{"/k", key + "nonsense\n", nil, "1 key", []string{"line 2: "}},
		{"/i", "key AAAA\n", nil, "", []string{"line 1: key: allowed are 32 bytes in base64"}},
		{"/i", "", fs.ErrNotExist, "", []string{"does not exist, and without the gateway's key nobody can knock"}},
		{"/k", "", fs.ErrNotExist, "is not there, which is as if it were empty", nil},
		{"/s", "", fs.ErrNotExist, "is not there, which is as if it were empty", nil},
		{"/r", "", fs.ErrNotExist, "", []string{"does not exist, and until it does nobody can knock: who is revoked is not known"}},
		{"/r", key, nil, "can be read as a list of what is revoked", nil},
		{"/s", "", errors.New("too long"), "", []string{"too long"}},
	} {
		has, wrong := r.Inspect(files[tt.path], []byte(tt.text), tt.err)
		same := len(wrong) == len(tt.wrong)
		for i := range min(len(wrong), len(tt.wrong)) {
			same = same && strings.HasPrefix(wrong[i], tt.wrong[i])
		}
		if !strings.HasPrefix(has, tt.has) || tt.has == "" && has != "" || !same {
			t.Errorf("%s with %q, %v: %q, wrong are %q; want %q and %q", tt.path, tt.text, tt.err, has, wrong, tt.has, tt.wrong)
		}
	}
}
