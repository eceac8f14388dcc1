//go:build linux

package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/ruleset"
)

// ownTable is the fence's, of the family inet; see package fence.
const ownTable = "doorward"

// baseChain is a chain of somebody's firewall that packets to this machine come
// through, and what it and the chains that it calls may do to them.
type baseChain struct {
	table   string // with its family: "inet filter"
	name    string
	notrack bool // one of its rules takes packets out of connection tracking
	detours []detour
}

// firewalls looks for what else decides about packets on their way in.
func (p *Patient) firewalls(c *config.Config) []Finding {
	rules, err := ruleset.Read(ownChain)
	if err != nil {
		all := []Finding{{Note, "firewall", fmt.Sprintf("whether other rules let %s through cannot be seen: %v", wayIn(c), err),
			"run doctor as root"}}
		return append(all, p.unseen(&ruleset.Ruleset{}, c)...)
	}
	all := append(fates(rules, c), p.unseen(rules, c)...)
	if len(all) == 0 {
		all = []Finding{{OK, "firewall", "no other one decides about what comes in", ""}}
	}
	chains, err := baseChains()
	if err != nil {
		return append(all, Finding{Note, "firewall", fmt.Sprintf("rules that lead elsewhere cannot be read: %v", err), ""})
	}
	all = append(all, untracked(chains, c)...)
	return append(all, waysRound(chains, c)...)
}

// unseen tells of firewalls that are there, and whose rules are not.
func (p *Patient) unseen(rules *ruleset.Ruleset, c *config.Config) []Finding {
	has := func(chain string) bool {
		return slices.ContainsFunc(rules.Chains, func(c *ruleset.Chain) bool { return c.Name == chain })
	}
	var all []Finding
	if p.ufwEnabled() && !has(ufwChain) {
		all = append(all, Finding{Note, "ufw", "is active, and its rules cannot be read from here: it must let in whom doorward lets in," +
			" and the touches", letThrough("ufw", nil, "", wayInPorts(c))})
	}
	if p.running("firewalld") && !slices.ContainsFunc(rules.Chains, byFirewalld) {
		all = append(all, Finding{Note, "firewalld", "is active, and its rules cannot be read from here: it must let in whom doorward lets" +
			" in, and the touches", letThrough("firewalld", nil, "", wayInPorts(c))})
	}
	for _, ch := range rules.Chains {
		if ch.Family == "bridge" && (ch.Hook == "prerouting" || ch.Hook == "input") && (ch.Drop || len(ch.Rules) > 0) {
			all = append(all, Finding{Note, ch.String(), "decides about what comes in over a bridge: its rules are not followed here",
				fmt.Sprintf("nft list chain bridge %s %s; see that it lets %s through", ch.Table, ch.Name, wayIn(c))})
		}
	}
	legacy := p.read("/proc/thread-self/net/ip_tables_names") + p.read("/proc/thread-self/net/ip6_tables_names")
	if tables := strings.Fields(legacy); len(tables) > 0 {
		slices.Sort(tables)
		all = append(all, Finding{Note, "iptables-legacy", fmt.Sprintf("has the tables %s, which cannot be read from here",
			strings.Join(slices.Compact(tables), ", ")),
			"iptables-legacy -S; see that it lets " + wayIn(c) + " through"})
	}
	return all
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

// untracked tells of what connection tracking is kept from.
func untracked(chains []baseChain, c *config.Config) []Finding {
	var all []Finding
	for _, b := range chains {
		if b.notrack && len(c.Doors) > 0 {
			all = append(all, Finding{Warning, fmt.Sprintf("table %s, chain %s", b.table, b.name), "takes packets out of connection" +
				" tracking (notrack): if they are of a guarded port, established connections cannot be told from new ones," +
				" and who is in over UDP is not seen",
				fmt.Sprintf("nft list chain %s %s; see that no guarded port is among them", b.table, b.name)})
		}
	}
	return all
}

// wayInPorts are the ports that any other firewall must let through: those of
// the doors, which doorward guards, and those that are touched.
func wayInPorts(c *config.Config) (all []port.Range) {
	add := func(r port.Range) {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	for _, d := range c.Doors {
		for _, r := range d.Ports {
			add(r)
		}
		for _, k := range d.Knocks {
			for _, p := range k.Listen {
				add(port.Range{Proto: port.TCP, First: p, Last: p})
			}
		}
	}
	return all
}

func wayIn(c *config.Config) string {
	if len(c.Doors) == 0 {
		return "the doors' ports and those of their knocks"
	}
	return portList(wayInPorts(c))
}

// portList is "22/tcp, 60000-61000/udp".
func portList(ports []port.Range) string {
	var all []string
	for _, p := range ports {
		all = append(all, p.String())
	}
	return strings.Join(all, ", ")
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
		b := baseChain{table: familyName(ch.Table.Family) + " " + ch.Table.Name, name: ch.Name}
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
			case *expr.Notrack:
				b.notrack = true
			case *expr.Verdict:
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
