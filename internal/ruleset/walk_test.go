//go:build linux

package ruleset

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func be(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// verdictOf returns an immediate verdict in the form that the kernel reports.
func verdictOf(t *testing.T, code int32, chain string) Expr {
	t.Helper()
	v := []netlink.Attribute{{Type: unix.NFTA_VERDICT_CODE, Data: be(uint32(code))}}
	if chain != "" {
		v = append(v, netlink.Attribute{Type: unix.NFTA_VERDICT_CHAIN, Data: append([]byte(chain), 0)})
	}
	inner, err := netlink.MarshalAttributes(v)
	if err != nil {
		t.Fatal(err)
	}
	data, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NLA_F_NESTED | unix.NFTA_DATA_VERDICT, Data: inner}})
	if err != nil {
		t.Fatal(err)
	}
	return Expr{"immediate", map[uint16][]byte{unix.NFTA_IMMEDIATE_DREG: be(0), unix.NFTA_IMMEDIATE_DATA: data}}
}

func input(drop bool, rules ...[]Expr) *Chain {
	c := &Chain{Family: "inet", Table: "f", Name: "in", Hook: "input", Type: "filter", Drop: drop}
	for i, r := range rules {
		c.Rules = append(c.Rules, Rule{uint64(i + 1), r})
	}
	return c
}

// TestWhatIsNotUnderstood checks that a rule that is not understood never makes it
// certain that a packet passes or is dropped.
func TestWhatIsNotUnderstood(t *testing.T) {
	accept, drop := verdictOf(t, 1, ""), verdictOf(t, 0, "")
	named := func(name string, attr uint16, text string, more ...uint16) Expr {
		e := Expr{name, map[uint16][]byte{attr: append([]byte(text), 0)}}
		for _, m := range more {
			e.Attrs[m] = be(1)
		}
		return e
	}
	for _, tt := range []struct {
		name string
		in   *Chain
		want string
	}{
		{"an expression", input(false, []Expr{{Name: "new"}}), `passes, drops (expression "new", which doorward does not know)`},
		{"an expression before a verdict", input(true, []Expr{{Name: "new"}, accept}), `passes, drops (expression "new", which doorward does not know)`},
		{"a queue", input(false, []Expr{{Name: "queue"}}), `passes, drops (expression "queue", which doorward does not know)`},
		{"what hands it on", input(false, []Expr{{Name: "fwd"}}), `passes, drops (expression "fwd", which doorward does not know)`},
		{"an attribute", input(true, []Expr{named("cmp", 99, ""), accept}), `passes, drops (expression "cmp", whose attribute 99 doorward does not know)`},
		{"a set", input(true, []Expr{named("lookup", unix.NFTA_LOOKUP_SET, "gone"), accept}), "passes, drops (contents of a set that cannot be read)"},
		{"a chain", input(true, []Expr{verdictOf(t, unix.NFT_JUMP, "gone")}), "passes, drops (rules of a chain that cannot be read)"},
		{"a verdict", input(false, []Expr{verdictOf(t, 3, "")}), "passes, drops (verdict of another program)"},
		{"a match of iptables", input(true, []Expr{named("match", unix.NFTA_MATCH_NAME, "geoip"), accept}), `passes, drops (match "geoip" of iptables)`},
		{"a match of iptables that is cut", input(true, []Expr{named("match", unix.NFTA_MATCH_NAME, "tcp", unix.NFTA_MATCH_INFO), accept}),
			`passes, drops (match "tcp" of iptables)`},
		{"a target of iptables", input(false, []Expr{named("target", unix.NFTA_TARGET_NAME, "NFQUEUE")}),
			`passes, drops (target "NFQUEUE" of iptables, which doorward does not know)`},
		{"a target of iptables that is cut", input(false, []Expr{named("target", unix.NFTA_TARGET_NAME, "DNAT")}), "passes, drops (target \"DNAT\" of iptables, whose form doorward does not know)"},
		{"a target of iptables that passes nothing on", input(false, []Expr{named("target", unix.NFTA_TARGET_NAME, "LOG"), drop}), "drops"},
		{"an object", input(true, []Expr{{Name: "objref"}, accept}), "passes, drops (state of an object whose type doorward does not know)"},
		{"a drop with an error number", input(false, []Expr{verdictOf(t, 13<<16, "")}), "drops"},
		{"all drop, whatever it is", input(true, []Expr{{Name: "limit"}}), "drops"},
		{"a rate, and the rest passes", input(false, []Expr{{Name: "limit"}, accept}), "passes"},
	} {
		got := say((&Ruleset{Chains: []*Chain{tt.in}}).Judge(syn(22)))
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestWorkIsBounded checks that following chains that call each other over and over, or
// in a circle, comes to an end, and that the answer is then not certain.
func TestWorkIsBounded(t *testing.T) {
	all := &Ruleset{}
	for i := range 16 {
		call := []Expr{verdictOf(t, unix.NFT_JUMP, fmt.Sprintf("c%d", i+1))}
		c := input(false, call, call, call)
		c.Name = fmt.Sprintf("c%d", i)
		if i > 0 {
			c.Hook = ""
		}
		all.Chains = append(all.Chains, c)
	}
	last := input(false)
	last.Name, last.Hook = "c16", ""
	all.Chains = append(all.Chains, last)
	w := &walk{rules: all, flight: (&Packet{Ports: syn(22).Ports}).depart()}
	out := w.through(all.Chains[0])
	if out&dropped == 0 || len(w.doubts) == 0 {
		t.Errorf("the outcome is %b, want drops to be possible, and a doubt", out)
	}
	if most := maxRules + maxDepth*3 + 1<<maxDepth; w.passed > most {
		t.Errorf("%d rules were followed, want at most %d", w.passed, most)
	}

	circle := input(false, []Expr{verdictOf(t, unix.NFT_JUMP, "in")})
	if got := say((&Ruleset{Chains: []*Chain{circle}}).Judge(syn(22))); got != "passes, drops (chains that call each other too deeply to follow)" {
		t.Errorf("a circle: %q", got)
	}
}
