package share

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/touch"
)

// FuzzEdit checks that what Edit returns, as the TOML library reads it, differs only in
// the new knock, and that its bytes differ only in whole numbers of that knock.
func FuzzEdit(f *testing.F) {
	cases := editCases()
	if len(cases) == 0 {
		f.Fatal("no seeds")
	}
	for _, tt := range cases {
		f.Add([]byte(tt.in), byte(0), byte(tt.knock), uint16(21001))
	}
	for _, s := range []string{
		config.Reference(), config.LikeTheArticle(), "\"door.ssh.knock.0.listen\" = [5]\n",
		"[door]\n\"ssh\" = {ports = [\"22/tcp\"], knock = [{kind = \"touch\", touch = [5], listen = [5]}]}\n",
	} {
		f.Add([]byte(s), byte(0), byte(0), uint16(21001))
	}
	f.Fuzz(func(t *testing.T, text []byte, door, knock byte, from uint16) {
		c, err := config.Parse("f", text)
		if err != nil {
			return
		}
		d := c.Doors[int(door)%len(c.Doors)]
		i := int(knock) % len(d.Knocks)
		k, touches := d.Knocks[i].Rule.(touch.Rule)
		if !touches {
			return
		}
		fresh := make([]uint16, len(k.Listen))
		for n := range fresh {
			fresh[n] = max(1, from+uint16(n))
		}
		touched := slices.Clone(fresh[:len(k.Touch)])
		slices.Reverse(touched)
		edited, err := editPorts(text, d.Name, i, fresh, touched)
		if err != nil {
			return
		}
		want, got := plainTOML(t, text), plainTOML(t, edited)
		table := want["door"].(map[string]any)[d.Name].(map[string]any)["knock"].([]any)[i].(map[string]any)
		table["listen"], table["touch"] = numberList(fresh), numberList(touched)
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("%q means something else than the new knock (-want +got):\n%s", edited, d)
		}
		onlyNumbers(t, text, edited, fresh)

		back, err := editPorts(edited, d.Name, i, k.Listen, k.Touch)
		if err != nil {
			t.Fatalf("it cannot be edited back: %v", err)
		}
		if d := cmp.Diff(plainTOML(t, text), plainTOML(t, back)); d != "" {
			t.Fatalf("edited back it means something else:\n%s", d)
		}
	})
}

func plainTOML(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := toml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func numberList(ports []uint16) []any {
	var l []any
	for _, p := range ports {
		l = append(l, int64(p))
	}
	return l
}

// onlyNumbers compares texts word by word: what stands between words stays, and
// a word that changes was a number and is one of fresh.
func onlyNumbers(t *testing.T, before, after []byte, fresh []uint16) {
	t.Helper()
	word := regexp.MustCompile(`[0-9A-Za-z_.+-]+`)
	if a, b := word.Split(string(before), -1), word.Split(string(after), -1); !slices.Equal(a, b) {
		t.Fatalf("between the words %q became %q", a, b)
	}
	a, b := word.FindAllString(string(before), -1), word.FindAllString(string(after), -1)
	for i := range a {
		if a[i] == b[i] {
			continue
		}
		_, was := strconv.ParseInt(strings.TrimPrefix(a[i], "+"), 0, 64)
		is, err := strconv.ParseUint(b[i], 10, 16)
		if was != nil || err != nil || !slices.Contains(fresh, uint16(is)) {
			t.Fatalf("the word %q became %q", a[i], b[i])
		}
	}
}

var hostForm = regexp.MustCompile(`^[0-9A-Za-z_.:-]+$`)

// FuzzRecipients checks that a file of recipients reads back from what was read of it,
// that Remember adds what it is given and nothing else, and that no file with a private
// key is accepted, or quoted in an error.
func FuzzRecipients(f *testing.F) {
	const private = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"
	for _, s := range []string{
		"# who\n\nhost gate.example.org\n" + ed25519Key + " alice@laptop\r\n  " + ageKey + " carol the third\n",
		`from="192.0.2.0/24",command="echo hi" ` + ed25519Key + " alice\n", ageKey + " al\x1b[31mice\u202e\n", ageKey + "\n" + ageKey + " x",
		ecdsaKey + " eve\n" + tokenKey, private, ageKey + "\nAGE-SECRET-KEY-1SECRET\n", "age1plugin1qqqq bob", "host  a\n host b", "host ::1", "host gate\u212a",
		"host -x", "host fe80::1%eth0\n", ageKey[:40] + " cut\nrubbish\n", "ssh-ed25519 AAAA x\n", ed25519Key + "\t\tname\n", ed25519Key + " PRIVATE  KEY-----\n", "host x", "\xff\n", "age1",
	} {
		f.Add([]byte(s), "gate.example.org")
		f.Add([]byte(s), "192.0.2.1")
	}
	added, err := ParseKey(ed25519Key + " new")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte, host string) {
		r, err := ParseRecipients("f", text)
		if err != nil {
			if r != nil || bytes.Contains(text, []byte("AGE-SECRET-KEY-")) && err.Error() != "f: "+errPrivate.Error() {
				t.Fatalf("%q: %v, %v", text, r, err)
			}
			return
		}
		if isPrivate(text) {
			t.Fatalf("%q is accepted", text)
		}
		var again strings.Builder
		if r.Host != "" {
			fmt.Fprintf(&again, "host %s\n", r.Host)
			if !hostForm.MatchString(r.Host) || r.Host[0] == '-' || len(r.Host) > 253 {
				t.Fatalf("%q: host %q", text, r.Host)
			}
		}
		for _, k := range r.Keys {
			fmt.Fprintln(&again, k.Line)
			soundKey(t, k)
		}
		same(t, r, []byte(again.String()), r.Host, nil)
		if config.CheckHost(host) == nil {
			same(t, r, Remember(text, "ssh", host, nil), host, nil)
			if !slices.ContainsFunc(r.Keys, func(k Key) bool { return k.id() == added.id() }) {
				same(t, r, Remember(text, "ssh", host, []Key{added}), host, []Key{added})
			}
		}
	})
}

// same checks that text has the keys of r, more, and host.
func same(t *testing.T, r *Recipients, text []byte, host string, more []Key) {
	t.Helper()
	got, err := ParseRecipients("f", text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	lines := func(keys []Key) (all []string) {
		for _, k := range keys {
			all = append(all, k.User+": "+k.Kind+": "+k.Line)
		}
		return all
	}
	if d := cmp.Diff(lines(slices.Concat(r.Keys, more)), lines(got.Keys)); got.Host != host || d != "" {
		t.Fatalf("%q has host %q, want %q, and other keys:\n%s", text, got.Host, host, d)
	}
}

// soundKey checks that a key is one to the SSH library or has age's form, and that its
// owner's name can be printed.
func soundKey(t *testing.T, k Key) {
	t.Helper()
	if k.User == "" || k.to == nil || strings.ContainsFunc(k.User, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u202e' }) {
		t.Fatalf("key %+v", k)
	}
	if k.Kind == "age" {
		if !regexp.MustCompile(`^age1[0-9a-z]+( .*)?$`).MatchString(k.Line) {
			t.Fatalf("key %+v", k)
		}
		return
	}
	pub, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(k.Line))
	if err != nil || pub.Type() != k.Kind || len(options) > 0 || len(rest) > 0 {
		t.Fatalf("key %+v: %v", k, err)
	}
}

// FuzzScript checks that a host that is accepted is one word to any shell, and changes
// nothing in the scripts but itself.
func FuzzScript(f *testing.F) {
	for _, s := range []string{
		"gate.example.org", "192.0.2.1", "2001:db8::1", "a_b", "A.B", "-n", "x'y", "$(id)", "a b", "", ".", "a..b", "\u212aelvin", "\u0130", "::ffff:1.2.3.4",
		"fe80::1%eth0", "@host@", strings.Repeat("a.", 130), strings.Repeat("a", 64), "a\n", "x-",
	} {
		f.Add(s, uint16(59000))
	}
	f.Fuzz(func(t *testing.T, host string, p uint16) {
		if config.CheckHost(host) != nil {
			return
		}
		if !hostForm.MatchString(host) || host[0] == '-' || len(host) > 253 {
			t.Fatalf("host %q is accepted", host)
		}
		s := Knock{Door: "ssh", Host: host, Touch: []uint16{p, 1}, Wait: p, Then: "Connect.", Made: time.Unix(0, 0), Each: time.Second}
		marked := s
		marked.Host = "\x00"
		for _, texts := range [][2]string{{s.Shell(), marked.Shell()}, {s.PowerShell(), marked.PowerShell()}} {
			if want := strings.ReplaceAll(texts[1], "\x00", host); texts[0] != want {
				t.Fatalf("host %q changes more of the script than itself:\n%s", host, cmp.Diff(want, texts[0]))
			}
		}
		if left := unclosed(s.PowerShell()); left != "" {
			t.Fatalf("host %q: %q is not closed", host, left)
		}
	})
}
