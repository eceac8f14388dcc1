//go:build linux

package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/ruleset"
)

// ufwChain is a chain that ufw makes.
const ufwChain = "ufw-user-input"

// ufwEnabled reports whether ufw is to be active.
func (h *Host) ufwEnabled() bool {
	for line := range strings.Lines(h.read("/etc/ufw/ufw.conf")) {
		if strings.TrimSpace(strings.ToLower(line)) == "enabled=yes" {
			return true
		}
	}
	return false
}

// byFirewalld reports whether a chain is firewalld's: one in its own table, or, with
// its older backend, one among those of iptables.
func byFirewalld(c *ruleset.Chain) bool {
	return c.Table == "firewalld" || c.Name == "INPUT_ZONES"
}

// manager returns the program that writes a base chain: "ufw", "firewalld",
// "iptables" or "nft".
func manager(base *ruleset.Chain, rules *ruleset.Ruleset) string {
	beside := func(name string) bool {
		return slices.ContainsFunc(rules.Chains, func(c *ruleset.Chain) bool {
			return c.Family == base.Family && c.Table == base.Table && c.Name == name
		})
	}
	builtin := base.Name == "INPUT" || base.Name == "PREROUTING"
	switch {
	case base.Table == "firewalld" || builtin && beside("INPUT_ZONES"):
		return "firewalld"
	case base.Name == "INPUT" && (beside(ufwChain) || beside("ufw6-user-input")):
		return "ufw"
	case builtin && (base.Family == "ip" || base.Family == "ip6"):
		return "iptables"
	}
	return "nft"
}

// zone returns the zone of firewalld through whose chains a packet came, "" if there
// is none. The zone's first chain, which calls the others, is named after it.
func zone(chains []*ruleset.Chain) string {
	for _, c := range chains {
		for _, before := range []string{"filter_IN_", "IN_"} {
			name, ok := strings.CutPrefix(c.Name, before)
			if ok && !strings.HasPrefix(name, "policy_") {
				return name
			}
		}
	}
	return ""
}

// letThrough returns the steps, one a line, that make a firewall let ports through.
func letThrough(by string, base *ruleset.Chain, zone string, ports []port.Range) string {
	if len(ports) == 0 {
		return ""
	}
	var steps []string
	for _, proto := range []port.Proto{port.TCP, port.UDP} {
		of := slices.DeleteFunc(slices.Clone(ports), func(r port.Range) bool { return r.Proto != proto })
		if len(of) == 0 {
			continue
		}
		switch by {
		case "ufw":
			for _, some := range multiport(of) {
				steps = append(steps, fmt.Sprintf("ufw allow proto %s to any port %s", proto, some))
			}
		case "iptables":
			program := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[base.Family]
			for _, some := range multiport(of) {
				steps = append(steps, fmt.Sprintf("%s -t %s -I %s -p %s -m multiport --dports %s -j ACCEPT", program, base.Table,
					base.Name, proto, some))
			}
		case "nft":
			steps = append(steps, fmt.Sprintf("nft insert rule %s %s %s %s dport { %s } accept", base.Family, base.Table, base.Name,
				proto, strings.Join(numbers(of, "-"), ", ")))
		}
	}
	switch by {
	case "firewalld":
		return firewalld(zone, ports)
	case "iptables":
		steps = append(steps, "save the rules as the others of this machine are")
	case "nft":
		steps = append(steps, "add the same to the file that the table is loaded from")
	}
	return strings.Join(steps, "\n")
}

// firewalld returns the commands for firewalld: for now, and for its next start. No
// reload is needed, which would end what was set only for now.
func firewalld(zone string, ports []port.Range) string {
	var args strings.Builder
	if zone != "" {
		fmt.Fprintf(&args, " --zone=%s", zone)
	}
	for _, r := range ports {
		fmt.Fprintf(&args, " --add-port=%s", r)
	}
	return "firewall-cmd" + args.String() + "\nfirewall-cmd --permanent" + args.String()
}

// numbers writes ports without their protocols; between stands between the first and
// the last of a range.
func numbers(ports []port.Range, between string) (all []string) {
	for _, r := range ports {
		_, last, _ := strings.Cut(r.String(), "-")
		s := fmt.Sprint(r.First)
		if last != "" {
			s += fmt.Sprint(between, r.Last)
		}
		all = append(all, s)
	}
	return all
}

// multiport returns lists of ports, each as long as XT_MULTI_PORTS of the kernel's
// xt_multiport.h allows; a range counts twice.
func multiport(ports []port.Range) (all []string) {
	const most = 15
	var now []string
	n := 0
	for i, s := range numbers(ports, ":") {
		counts := 1
		if ports[i].First != ports[i].Last {
			counts = 2
		}
		if n+counts > most {
			all = append(all, strings.Join(now, ","))
			now, n = nil, 0
		}
		now = append(now, s)
		n += counts
	}
	return append(all, strings.Join(now, ","))
}
