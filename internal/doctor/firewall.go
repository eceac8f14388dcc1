//go:build linux

package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/doorward/doorward/internal/config"
)

// ownTable is the fence's table, and its priority at prerouting; see package
// fence.
const (
	ownTable    = "doorward"
	ownPriority = -150
)

// baseChain is a chain of somebody's firewall that packets to this machine come
// through, and what it and the chains that it calls may do to them.
type baseChain struct {
	table    string // with its family: "inet filter"
	name     string
	hook     string // "ingress", "prerouting" or "input"
	priority int
	policy   bool // what reaches its end is dropped
	drops    bool // one of its rules drops or rejects
	notrack  bool // one of its rules takes packets out of connection tracking
	detours  []detour
}

// firewalls looks for what else decides about packets on their way in.
func (p *Patient) firewalls(c *config.Config) []Finding {
	var all []Finding
	chains, err := baseChains()
	var ways []Finding
	if err == nil {
		all = chainFindings(chains, c)
		ways = waysRound(chains, c)
	}
	all = append(all, managers(p.read("/etc/ufw/ufw.conf"), p.running("firewalld"), c)...)
	legacy := p.read("/proc/thread-self/net/ip_tables_names") + p.read("/proc/thread-self/net/ip6_tables_names")
	if tables := strings.Fields(legacy); len(tables) > 0 {
		slices.Sort(tables)
		all = append(all, Finding{Note, "iptables-legacy", fmt.Sprintf("has the tables %s, which cannot be read from here",
			strings.Join(slices.Compact(tables), ", ")),
			"iptables-legacy -S; see that it lets " + wayIn(c) + " through"})
	}
	if err == nil && len(all) == 0 {
		all = append(all, Finding{OK, "firewall", "no other one decides about what comes in", ""})
	}
	return append(all, ways...)
}

// waysRound looks for rules and routes that lead to guarded ports, or round
// them.
func waysRound(chains []baseChain, c *config.Config) []Finding {
	var all []detour
	for _, b := range chains {
		all = append(all, b.detours...)
	}
	own, err := ownAddresses()
	if err != nil {
		return []Finding{{Note, "firewall", fmt.Sprintf("this machine's addresses cannot be read: %v", err), ""}}
	}
	found := detourFindings(all, own, c)
	routes, err := takenIn()
	if err != nil {
		return append(found, Finding{Note, "routes", fmt.Sprintf("cannot be read: %v", err), ""})
	}
	return append(found, transparentFindings(routes, c)...)
}

// chainFindings judges base chains.
func chainFindings(chains []baseChain, c *config.Config) []Finding {
	var all []Finding
	for _, b := range chains {
		where := fmt.Sprintf("table %s, chain %s", b.table, b.name)
		early := b.hook == "ingress" || b.hook == "prerouting" && b.priority < ownPriority
		switch {
		case early && (b.drops || b.policy):
			all = append(all, Finding{Warning, where, fmt.Sprintf("drops packets at %s, priority %d, before doorward's"+
				" fence: knocks and visitors may never arrive", b.hook, b.priority),
				fmt.Sprintf("nft list chain %s %s; see that it lets %s through", b.table, b.name, wayIn(c))})
		case b.drops || b.policy:
			rest := ""
			if b.policy {
				rest = " all that it does not know"
			}
			all = append(all, Finding{Note, where, fmt.Sprintf("drops%s at %s, after doorward's fence: it must let in"+
				" whom doorward lets in", cmp.Or(rest, " packets"), b.hook),
				fmt.Sprintf("nft list chain %s %s; see that it lets %s through", b.table, b.name, wayIn(c))})
		}
		if b.notrack && len(c.Doors) > 0 {
			all = append(all, Finding{Warning, where, "takes packets out of connection tracking (notrack): if they are" +
				" of a guarded port, established connections cannot be told from new ones",
				fmt.Sprintf("nft list chain %s %s; see that no guarded port is among them", b.table, b.name)})
		}
	}
	return all
}

// managers judges the programs that write firewalls.
func managers(ufw string, firewalld bool, c *config.Config) []Finding {
	var all []Finding
	ports := wayInPorts(c)
	commands := func(format, udp string) string {
		var s []string
		for _, p := range ports {
			number, proto, _ := strings.Cut(p, "/")
			s = append(s, fmt.Sprintf(format, strings.ReplaceAll(number, "-", udp), proto))
		}
		return strings.Join(s, "; ")
	}
	for line := range strings.Lines(ufw) {
		if strings.TrimSpace(strings.ToLower(line)) == "enabled=yes" {
			all = append(all, Finding{Note, "ufw", "is active: it must let in whom doorward lets in, and the touches",
				commands("ufw allow %s/%s", ":")})
		}
	}
	if firewalld {
		all = append(all, Finding{Note, "firewalld", "is active: it must let in whom doorward lets in, and the touches",
			commands("firewall-cmd --permanent --add-port=%s/%s", "-") + "; firewall-cmd --reload"})
	}
	return all
}

// wayInPorts are the ports that any other firewall must let through: those of
// the doors, which doorward guards, and those that are touched.
func wayInPorts(c *config.Config) []string {
	var all []string
	for _, d := range c.Doors {
		for _, r := range d.Ports {
			all = append(all, r.String())
		}
		for _, k := range d.Knocks {
			for _, p := range k.Listen {
				all = append(all, strconv.Itoa(int(p))+"/tcp")
			}
		}
	}
	return all
}

func wayIn(c *config.Config) string {
	if len(c.Doors) == 0 {
		return "the doors' ports and those of their knocks"
	}
	return strings.Join(wayInPorts(c), ", ")
}

// baseChains reads the ruleset of the caller's network namespace, without the
// fence's own table.
func baseChains() ([]baseChain, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	var all []baseChain
	for _, ch := range chains {
		hook := hookName(ch)
		if hook == "" || ch.Table.Name == ownTable && ch.Table.Family == nftables.TableFamilyINet {
			continue
		}
		b := baseChain{table: familyName(ch.Table.Family) + " " + ch.Table.Name, name: ch.Name, hook: hook,
			policy: ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop}
		if ch.Priority != nil {
			b.priority = int(*ch.Priority)
		}
		if err := b.follow(conn, ch.Table, ch.Name, map[string]bool{}); err != nil {
			return nil, err
		}
		if hook == "prerouting" {
			if b.detours, err = detours(conn, ch.Table, ch.Name); err != nil {
				return nil, err
			}
		}
		all = append(all, b)
	}
	return all, nil
}

// follow notes what a chain's rules may do, and those of the chains it calls.
// Verdicts in maps are not followed: their chains count as soon as any rule
// calls them by name.
func (b *baseChain) follow(conn *nftables.Conn, t *nftables.Table, chain string, seen map[string]bool) error {
	if seen[chain] {
		return nil
	}
	seen[chain] = true
	rules, err := conn.GetRules(t, &nftables.Chain{Name: chain, Table: t})
	if err != nil {
		return err
	}
	for _, r := range rules {
		for _, e := range r.Exprs {
			switch e := e.(type) {
			case *expr.Reject:
				b.drops = true
			case *expr.Notrack:
				b.notrack = true
			case *expr.Verdict:
				b.drops = b.drops || e.Kind == expr.VerdictDrop
				if e.Chain == "" {
					continue
				}
				if err := b.follow(conn, t, e.Chain, seen); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// hookName is the hook of a base chain that packets to this machine pass, or
// "".
func hookName(c *nftables.Chain) string {
	if c.Hooknum == nil {
		return ""
	}
	switch {
	case c.Table.Family == nftables.TableFamilyNetdev && *c.Hooknum == *nftables.ChainHookIngress:
		return "ingress"
	case c.Table.Family == nftables.TableFamilyARP || c.Table.Family == nftables.TableFamilyBridge ||
		c.Table.Family == nftables.TableFamilyNetdev:
		return ""
	case *c.Hooknum == *nftables.ChainHookPrerouting:
		return "prerouting"
	case *c.Hooknum == *nftables.ChainHookInput:
		return "input"
	case c.Table.Family == nftables.TableFamilyINet && *c.Hooknum == inetIngress:
		return "ingress"
	}
	return ""
}

// inetIngress is NF_INET_INGRESS of linux/netfilter.h: the hook's number in the
// family inet, where netdev has 0.
const inetIngress = 5

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyNetdev:
		return "netdev"
	}
	return fmt.Sprintf("family %d", f)
}
