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

// verdictOf is an immediate verdict as the kernel tells of it.
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

// TestWhatIsNotUnderstood: a packet never passes for certain by a rule that is
// not understood, nor is it dropped.
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
		{"an expression", input(false, []Expr{{Name: "new"}}), `passes, drops ("new", which is not known here)`},
		{"an expression before a verdict", input(true, []Expr{{Name: "new"}, accept}), `passes, drops ("new", which is not known here)`},
		{"a queue", input(false, []Expr{{Name: "queue"}}), `passes, drops ("queue", which is not known here)`},
		{"what hands it on", input(false, []Expr{{Name: "fwd"}}), `passes, drops ("fwd", which is not known here)`},
		{"an attribute", input(true, []Expr{named("cmp", 99, ""), accept}), `passes, drops ("cmp" with an attribute that is not known here (99))`},
		{"a set", input(true, []Expr{named("lookup", unix.NFTA_LOOKUP_SET, "gone"), accept}), "passes, drops (a set that cannot be read)"},
		{"a chain", input(true, []Expr{verdictOf(t, unix.NFT_JUMP, "gone")}), "passes, drops (a chain that cannot be read)"},
		{"a verdict", input(false, []Expr{verdictOf(t, 3, "")}), "passes, drops (a verdict of another program's)"},
		{"a match of iptables", input(true, []Expr{named("match", unix.NFTA_MATCH_NAME, "geoip"), accept}), `passes, drops (match "geoip" of iptables)`},
		{"a match of iptables that is cut", input(true, []Expr{named("match", unix.NFTA_MATCH_NAME, "tcp", unix.NFTA_MATCH_INFO), accept}),
			`passes, drops (match "tcp" of iptables)`},
		{"a target of iptables", input(false, []Expr{named("target", unix.NFTA_TARGET_NAME, "NFQUEUE")}),
			`passes, drops (target "NFQUEUE" of iptables, which is not known here)`},
		{"a target of iptables that is cut", input(false, []Expr{named("target", unix.NFTA_TARGET_NAME, "DNAT")}), "passes, drops (target \"DNAT\" of a form that is not known here)"},
		{"a target of iptables that passes nothing on", input(false, []Expr{named("target", unix.NFTA_TARGET_NAME, "LOG"), drop}), "drops"},
		{"an object", input(true, []Expr{{Name: "objref"}, accept}), "passes, drops (an object that is not known here)"},
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

// TestWorkIsBounded: chains that call each other over and over, or in a circle,
// come to an end, and nothing is said for certain of them.
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
		t.Errorf("%d rules were followed, want %d at most", w.passed, most)
	}

	circle := input(false, []Expr{verdictOf(t, unix.NFT_JUMP, "in")})
	if got := say((&Ruleset{Chains: []*Chain{circle}}).Judge(syn(22))); got != "passes, drops (chains that call each other too deep to follow)" {
		t.Errorf("a circle: %q", got)
	}
}
