//go:build linux

package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/ruleset"
)

// ownTable is the fence's, of the family inet; see package fence.
const ownTable = "doorward"

// firewalls returns what other firewalls do with knocks and visitors; err is why their
// rules cannot be read.
func (h *Host) firewalls(c *config.Config, rules *ruleset.Ruleset, err error) []Finding {
	if err != nil {
		all := []Finding{{Note, "firewall", fmt.Sprintf("cannot see whether other rules let %s through: %v", wayIn(c), err),
			"run doctor as root"}}
		return append(all, h.unseen(&ruleset.Ruleset{}, c)...)
	}
	all := append(fates(rules, c), h.unseen(rules, c)...)
	if len(all) == 0 {
		all = []Finding{{OK, "firewall", "no other firewall filters incoming traffic", ""}}
	}
	all = append(all, untracked(rules, c)...)
	return append(all, waysRound(rules.Detours(), c)...)
}

// Openings returns findings about other firewalls that do not, or may not, let the ports
// of the doors and their knocks through, each with steps that make them. They are about
// the caller's network namespace, and less is seen without CAP_NET_ADMIN.
func Openings(c *config.Config) []Finding {
	h := &Host{}
	rules, err := ruleset.Read(ownChain)
	if err != nil {
		return h.unseen(&ruleset.Ruleset{}, c)
	}
	return slices.DeleteFunc(append(fates(rules, c), h.unseen(rules, c)...), func(f Finding) bool { return f.Do == "" })
}

// unseen reports firewalls that are there, but whose rules cannot be seen.
func (h *Host) unseen(rules *ruleset.Ruleset, c *config.Config) []Finding {
	has := func(chain string) bool {
		return slices.ContainsFunc(rules.Chains, func(c *ruleset.Chain) bool { return c.Name == chain })
	}
	var all []Finding
	if h.ufwEnabled() && !has(ufwChain) {
		all = append(all, Finding{Note, "ufw", "is active, and its rules cannot be read from here: it must let in whom doorward lets in," +
			" and the knocks", letThrough("ufw", nil, "", c.WayIn())})
	}
	if h.running("firewalld") && !slices.ContainsFunc(rules.Chains, byFirewalld) {
		all = append(all, Finding{Note, "firewalld", "is active, and its rules cannot be read from here: it must let in whom doorward lets" +
			" in, and the knocks", letThrough("firewalld", nil, "", c.WayIn())})
	}
	for _, ch := range rules.Chains {
		if ch.Family == "bridge" && (ch.Hook == "prerouting" || ch.Hook == "input") && (ch.Drop || len(ch.Rules) > 0) {
			all = append(all, Finding{Note, ch.String(), "filters what comes in over a bridge: doctor does not follow its rules",
				fmt.Sprintf("nft list chain bridge %s %s; see that it lets %s through", ch.Table, ch.Name, wayIn(c))})
		}
	}
	legacy := h.read("/proc/thread-self/net/ip_tables_names") + h.read("/proc/thread-self/net/ip6_tables_names")
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
func waysRound(all []ruleset.Detour, c *config.Config) []Finding {
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

// untracked reports chains that keep packets out of connection tracking.
func untracked(rules *ruleset.Ruleset, c *config.Config) []Finding {
	var all []Finding
	for _, ch := range rules.Chains {
		comesIn := ch.Hook == "ingress" || ch.Hook == "prerouting" || ch.Hook == "input"
		if comesIn && ch.Family != "bridge" && len(c.Doors) > 0 && rules.Untracks(ch) {
			all = append(all, Finding{Warning, ch.String(), "takes packets out of connection" +
				" tracking (notrack): if they are of a guarded port, established connections cannot be told from new ones," +
				" and who is in over UDP is not seen",
				fmt.Sprintf("nft list chain %s %s %s; see that no guarded port is among them", ch.Family, ch.Table, ch.Name)})
		}
	}
	return all
}

// wayIn returns the ports that firewalls must let through, in words.
func wayIn(c *config.Config) string {
	if len(c.Doors) == 0 {
		return "the doors' ports and those of their knocks"
	}
	return portList(c.WayIn())
}

// portList returns "22/tcp, 60000-61000/udp".
func portList(ports []port.Range) string {
	var all []string
	for _, p := range ports {
		all = append(all, p.String())
	}
	return strings.Join(all, ", ")
}
