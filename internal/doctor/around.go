//go:build linux

package doctor

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/ruleset"
)

// ownAddresses returns the addresses of the caller's network namespace.
func ownAddresses() ([]netip.Addr, error) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, f := range found {
		if n, ok := f.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				all = append(all, a.Unmap())
			}
		}
	}
	return all, nil
}

// Addresses returns the addresses of the caller's network namespace that strangers may
// send to: no loopback and no link-local ones.
func Addresses() ([]netip.Addr, error) {
	all, err := ownAddresses()
	return slices.DeleteFunc(all, func(a netip.Addr) bool { return !a.IsGlobalUnicast() }), err
}

// detourFindings judges detours. What arrives at this machine's own guarded
// ports is judged there, after any rewriting; what goes on to other hosts is
// judged by the port that was asked for.
func detourFindings(all []ruleset.Detour, own []netip.Addr, c *config.Config) []Finding {
	var found []Finding
	for _, d := range all {
		local := !d.Addr.IsValid() || d.Addr.IsLoopback() || slices.Contains(own, d.Addr)
		for _, from := range d.From {
			switch {
			case d.Vague:
				found = append(found, vague(d, from, c)...)
			case local && d.Hands:
				found = append(found, handed(d, from, c)...)
			case local:
				found = append(found, redirected(d, from, c)...)
			default:
				found = append(found, published(d, from, all, c)...)
			}
		}
	}
	var once []Finding
	for _, f := range found {
		if !slices.Contains(once, f) {
			once = append(once, f)
		}
	}
	return once
}

// target returns where a range of ports leads.
func target(d ruleset.Detour, from port.Range) port.Range {
	if d.To == 0 {
		return from
	}
	return port.Range{Proto: from.Proto, First: d.To, Last: d.To}
}

// guardians returns the doors that guard at least one of the ports.
func guardians(c *config.Config, r port.Range) []*config.Door {
	var all []*config.Door
	for i := range c.Doors {
		if slices.ContainsFunc(c.Doors[i].Ports, r.Overlaps) {
			all = append(all, &c.Doors[i])
		}
	}
	return all
}

// redirected judges what is rewritten to a port of this machine.
func redirected(d ruleset.Detour, from port.Range, c *config.Config) []Finding {
	var found []Finding
	to := target(d, from)
	behind := guardians(c, to)
	for _, door := range behind {
		what := fmt.Sprintf("is redirected to %s", inWords(to))
		if d.To == 0 {
			what = "for other addresses is redirected to this machine"
		}
		found = append(found, Finding{Note, inWords(from), fmt.Sprintf("%s (%s), which door %s guards: it opens only"+
			" with a grant of that door", what, d.Chain, door.Name), ""})
	}
	for _, door := range guardians(c, from) {
		if len(behind) == 0 {
			found = append(found, Finding{Warning, inWords(to), fmt.Sprintf("is where %s of door %s leads (%s), and no door"+
				" guards it: whoever connects to it directly needs no knock", inWords(from), door.Name, d.Chain),
				fmt.Sprintf("add %q to the ports of [door.%s]", to, door.Name)})
		}
	}
	return found
}

// handed judges what is passed unchanged to the listener of another port.
func handed(d ruleset.Detour, from port.Range, c *config.Config) []Finding {
	var found []Finding
	to := target(d, from)
	for _, door := range guardians(c, to) {
		if !slices.ContainsFunc(door.Ports, func(r port.Range) bool { return within(from, r) }) {
			found = append(found, Finding{Warning, inWords(from), fmt.Sprintf("is passed unchanged to the listener of %s"+
				" (tproxy; %s): a way round door %s that needs no knock, if that listener is a transparent one",
				inWords(to), d.Chain, door.Name),
				fmt.Sprintf("add %q to the ports of [door.%s], or take the rule out", from, door.Name)})
		}
	}
	return found
}

// published judges what is sent on to another host.
func published(d ruleset.Detour, from port.Range, all []ruleset.Detour, c *config.Config) []Finding {
	var found []Finding
	to := target(d, from)
	at := netip.AddrPortFrom(d.Addr, to.First)
	mine := guardians(c, from)
	for _, door := range mine {
		found = append(found, Finding{Note, inWords(from), fmt.Sprintf("is forwarded to %s (%s): it opens only with a grant of door"+
			" %s; that host's own address is not guarded", at, d.Chain, door.Name), ""})
	}
	if len(mine) > 0 {
		return found
	}
	for _, o := range all {
		for _, f := range o.From {
			if o.Addr != d.Addr || target(o, f) != to || o.Vague {
				continue
			}
			for _, door := range guardians(c, f) {
				found = append(found, Finding{Warning, inWords(from), fmt.Sprintf("leads to %s (%s), as %s does, which door %s"+
					" guards, and no door guards this port: a way around it that needs no knock", at, d.Chain, inWords(f), door.Name),
					fmt.Sprintf("add %q to the ports of [door.%s], or publish it once", from, door.Name)})
			}
		}
	}
	return found
}

// vague notes what doctor cannot follow.
func vague(d ruleset.Detour, from port.Range, c *config.Config) []Finding {
	if len(c.Doors) == 0 {
		return nil
	}
	return []Finding{{Note, inWords(from), fmt.Sprintf("is forwarded (%s), and doctor cannot see where", d.Chain),
		"make sure that it does not lead to what a door guards on another host or by tproxy"}}
}

// transparentFindings notes routes that deliver packets for other hosts here.
func transparentFindings(all []route, c *config.Config) []Finding {
	var found []Finding
	for _, r := range all {
		if len(c.Doors) > 0 {
			found = append(found, Finding{Note, "route to " + r.to.String(), fmt.Sprintf("in table %d delivers what is for other"+
				" hosts to this machine: at guarded ports it needs a grant, too", r.table), ""})
		}
	}
	return found
}

func within(r, of port.Range) bool {
	return r.Proto == of.Proto && of.First <= r.First && r.Last <= of.Last
}

// inWords returns "22/tcp", or "every tcp port".
func inWords(r port.Range) string {
	if r.First == 1 && r.Last == 65535 {
		return fmt.Sprintf("every %s port", r.Proto)
	}
	return r.String()
}
