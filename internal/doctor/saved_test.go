//go:build linux

package doctor

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/doorward/doorward/internal/fence"
	"github.com/doorward/doorward/internal/nstest"
)

func TestReadNft(t *testing.T) {
	const table = "table inet doorward {\n\tflags owner\n\tchain x {\n\t}\n}\n"
	for _, tt := range []struct {
		name, text string
		want       string // lines, with "!" for a statement that is alone there
		includes   []string
	}{
		{"nothing", "#!/usr/sbin/nft -f\nflush ruleset\ntable inet filter {\n\tchain input {\n\t}\n}\n", "", nil},
		{"as nft lists it", "table ip nat {\n}\n" + table + "table ip x {\n}\n", "3-7!", nil},
		{"with its owner", strings.Replace(table, "{", "{ # progname doorwardd", 1), "1-5!", nil},
		{"another family", "table ip doorward {\n}\ntable doorward {\n}\n", "", nil},
		{"another name", "table inet doorward2 {\n}\ntable inet my-doorward {\n}\n", "", nil},
		{"a comment", "# table inet doorward {\n# }\ntable inet x { # inet doorward\n}\n", "", nil},
		{"a string", "table inet x {\n\tchain c {\n\t\tlog prefix \"inet doorward } # \" drop\n\t}\n}\n" + table, "6-10!", nil},
		{"a string of two lines", "add rule inet x c comment \"a\ninet doorward\"\n" + table, "3-7!", nil},
		{"braces in strings and comments", "table inet doorward {\n\tcomment \"}\"\n\t# }\n}\nflush ruleset", "1-4!", nil},
		{"commands", "add table inet doorward\nadd chain inet doorward x\nflush ruleset\n", "1-1!2-2!", nil},
		{"several in a line", "flush ruleset; add table inet doorward; add table inet x\n", "1-1", nil},
		{"something behind it", "table inet doorward {\n}; flush ruleset\n", "1-2", nil},
		{"a line that goes on", "add table \\\n inet \\\n doorward\n", "1-3!", nil},
		{"not at its end", "table inet doorward {\n chain x {\n", "1-2!", nil},
		{"includes", "include \"a.nft\"\ntable inet x {\n include \"./b*.nft\"\n}\n# include \"c\"\nlog prefix \"include\" \"d\"\n", "", []string{"a.nft", "./b*.nft"}},
		{"carriage returns", "table inet doorward {\r\n}\r\n", "1-2!", nil},
	} {
		named, includes := readNft(tt.text)
		got := ""
		for _, n := range named {
			got += fmt.Sprintf("%d-%d", n.first, n.last)
			if n.alone {
				got += "!"
			}
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: statements of the fence (-want +got):\n%s", tt.name, d)
		}
		if d := cmp.Diff(tt.includes, includes); d != "" {
			t.Errorf("%s: includes (-want +got):\n%s", tt.name, d)
		}
	}
}

func TestSavedFiles(t *testing.T) {
	const table = "table inet doorward {\n}\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"none", nil, nil},
		{"without it", map[string]string{"/etc/nftables.conf": "flush ruleset\ntable inet filter {\n}\n"}, nil},
		{"Debian's", map[string]string{"/etc/nftables.conf": "flush ruleset\n" + table}, []string{
			"problem: /etc/nftables.conf: names doorward's own table, inet doorward (lines 2-3): nft refuses to load the whole file while the" +
				" table stands, and a restart of nftables leaves this machine without its other rules > sed -i -e 2,3d /etc/nftables.conf\n" +
				"nft -c -f /etc/nftables.conf\nwhen rules are saved again, save each other table by itself: nft -s list table inet filter"}},
		{"not by a command", map[string]string{"/etc/nftables.conf": "flush ruleset; table inet doorward {}\n"}, []string{
			"problem: /etc/nftables.conf: names doorward's own table, inet doorward (line 1): nft refuses to load the whole file while the table" +
				" stands, and a restart of nftables leaves this machine without its other rules > take out of /etc/nftables.conf what names the table inet doorward\n"}},
		{"Fedora's, included", map[string]string{"/etc/sysconfig/nftables.conf": `include "/etc/my/*.nft"`, "/etc/my/a.nft": table, "/etc/my/b": table},
			[]string{"problem: /etc/my/a.nft: names"}},
		{"included from /etc", map[string]string{"/etc/nftables.conf": `include "rules/x"`, "/etc/rules/x": table}, []string{"problem: /etc/rules/x: names"}},
		{"included from where nft runs", map[string]string{"/etc/nftables.conf": `include "./srv/x"`, "/srv/x": table}, []string{"problem: /srv/x: names"}},
		{"included by each other", map[string]string{"/etc/nftables.conf": `include "/etc/nftables.conf"` + "\n" + `include "nftables.d/a"`,
			"/etc/nftables.d/a": `include "nftables.conf"`}, nil},
		{"Alpine's and OpenRC's", map[string]string{"/etc/nftables.d/local.nft": table, "/var/lib/nftables/rules-save": table}, []string{
			"problem: /etc/nftables.d/local.nft: names", "problem: /var/lib/nftables/rules-save: names"}},
		{"a directory", map[string]string{"/etc/nftables.conf/x": table}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) { want(t, machine(t, tt.files).saved(), tt.want...) })
	}
}

// TestSavedRulesetsWithTheRealNft: what the finding says is true, what it says to do
// helps, and the way to save rules that the documentation shows works.
func TestSavedRulesetsWithTheRealNft(t *testing.T) {
	nstest.Need(t, "nft", "iptables-nft", "iptables-nft-save", "iptables-nft-restore", "sed", "sh")
	n := nstest.New(t)
	n.Run("nft", "table inet filter { chain input { type filter hook input priority 0; policy drop; tcp dport 22 accept; }; }")
	n.Run("nft", "table ip nat { chain p { type nat hook prerouting priority dstnat; }; }")
	f := guard(t, n)
	p := machine(t, map[string]string{"/etc/nftables.conf": ""})
	path := p.path("/etc/nftables.conf")
	save := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	restart := func() (out string, err error) { // as nftables.service does
		n.Run("nft", "flush", "ruleset")
		b, err := n.Command(t.Context(), "nft", "-f", path).CombinedOutput()
		return string(b), err
	}
	others := func() string {
		t.Helper()
		return strings.Replace(n.Run("nft", "list", "tables"), "table inet doorward\n", "", 1)
	}
	const both = "table inet filter\ntable ip nat\n"

	save("flush ruleset\n" + n.Run("nft", "list", "ruleset"))
	found := p.saved()
	if len(found) != 1 || found[0].Verdict != Problem {
		t.Fatalf("a saved ruleset with the fence's table: %v, want a problem", lines(found))
	}
	if f.Owned() {
		// Each of the table's things is refused; nft may have no room for all the refusals.
		out, err := restart()
		if err == nil || !strings.Contains(out, "Operation not permitted") && !strings.Contains(out, "No buffer space available") || others() != "" {
			t.Errorf("nft loads the fence's table (%v), and leaves %q:\n%s", err, others(), out)
		}
	}
	for line := range strings.Lines(found[0].Do) {
		if argv := strings.Fields(line); argv[0] == "sed" || argv[0] == "nft" {
			argv[len(argv)-1] = filepath.Join(p.Root, argv[len(argv)-1])
			n.Run(argv[0], argv[1:]...)
		}
	}
	want(t, p.saved())
	if out, err := restart(); err != nil || others() != both {
		t.Errorf("without the fence's table: %v, %q, want the tables %q\n%s", err, out, both, others())
	}

	// The way of docs/howto/firewalls.md.
	n.Run("sh", "-c", "{ echo flush ruleset; nft -s list table inet filter; nft -s list table ip nat; } >"+path)
	want(t, p.saved())
	if out, err := restart(); err != nil || others() != both {
		t.Errorf("saved table by table: %v, %q, want the tables %q\n%s", err, out, both, others())
	}

	// What iptables saves has nothing of the fence.
	n.Run("iptables-nft", "-w", "-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "ACCEPT")
	rules := filepath.Join(t.TempDir(), "rules.v4")
	n.Run("sh", "-c", "iptables-nft-save >"+rules+"; iptables-nft-restore "+rules)
	if text, err := os.ReadFile(rules); err != nil || strings.Contains(string(text), "doorward") {
		t.Errorf("iptables-save: %v, %s", err, text)
	}
	stands(t, n, f)
}

// guard puts the fence of a door up in a namespace.
func guard(t *testing.T, n *nstest.NS) (f *fence.Fence) {
	t.Helper()
	n.Do(func() (err error) {
		if f, err = fence.Open(slog.New(slog.DiscardHandler)); err != nil {
			return err
		}
		c := sshDoor(t)
		return f.Guard([]fence.Door{{Name: "ssh", Ports: c.Doors[0].Ports, Always: c.Doors[0].Always}})
	})
	t.Cleanup(func() { f.Close() })
	return f
}

// stands checks that the fence is as it was put up.
func stands(t *testing.T, n *nstest.NS, f *fence.Fence) {
	t.Helper()
	n.Do(func() error {
		if err := f.Check(); err != nil {
			t.Errorf("the fence is not as it was put up: %v", err)
		}
		return nil
	})
}
