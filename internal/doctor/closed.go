//go:build linux

package doctor

import (
	"fmt"
	"slices"

	"github.com/doorward/doorward/internal/config"
	"github.com/doorward/doorward/internal/port"
	"github.com/doorward/doorward/internal/ruleset"
)

// closed is what strangers get at a port that nobody listens on.
type closed uint8

const (
	mixed   closed = iota // it depends, or is not known
	silent                // other firewalls drop it
	refused               // the kernel, or another firewall, says that the port is closed
	barred                // another firewall says that it is forbidden
)

// closedPorts judges what becomes of packets to a closed port of a protocol.
func (j *judge) closedPorts(proto port.Proto) closed {
	var all []closed
	for _, way := range j.ways {
		for _, p := range j.packets(port.Range{Proto: proto, First: j.other, Last: j.other}, way) {
			switch a := j.rules.Judge(p); {
			case !a.Certain():
				return mixed
			case a.Drops:
				for _, at := range a.DropAt {
					all = append(all, barredBy(j.rules.Reply(at), proto))
				}
			case !a.Away:
				all = append(all, refused) // RFC 9293, section 3.10.7.1; RFC 1122, section 4.1.3.1
			}
		}
	}
	if len(all) == 0 || slices.ContainsFunc(all, func(c closed) bool { return c != all[0] }) {
		return mixed
	}
	return all[0]
}

// barredBy returns what another firewall's answer looks like.
func barredBy(r ruleset.Reply, proto port.Proto) closed {
	switch {
	case r == ruleset.Silence:
		return silent
	case r == ruleset.Reset && proto == port.TCP:
		return refused
	}
	return barred
}

// standingOut compares what strangers get at the doors with what they get at the
// machine's closed ports: where these differ, a port scan shows that there is a door,
// though not what is behind it. Nothing is said where the rules could not be read.
func standingOut(c *config.Config, rules *ruleset.Ruleset, err error) (all []Finding) {
	if err != nil {
		return nil
	}
	j, _ := fromStrangers(rules)
	if j == nil {
		return nil // firewalls has said so already
	}
	j.avoid(c.WayIn())
	for i := range c.Doors {
		d := &c.Doors[i]
		proto := d.Ports[0].Proto
		all = append(all, standsOut(d, j.closedPorts(proto))...)
	}
	return all
}

// standsOut is standingOut for one door.
func standsOut(d *config.Door, others closed) []Finding {
	where := "door " + d.Name
	const scan = ": a port scan shows that there is something, though not what"
	rejects := d.Refuse == config.Reject
	switch {
	case others == refused && rejects:
		return []Finding{{OK, where, "refuses strangers, as this machine's closed ports do", ""}}
	case others == silent && !rejects:
		return []Finding{{OK, where, "gives strangers no answer, as this machine's other ports do", ""}}
	case others == refused:
		return []Finding{{Note, where, "gives strangers no answer, while this machine's closed ports refuse them" + scan,
			fmt.Sprintf("to have it look like a closed port, write refuse = \"reject\" in [door.%s]", d.Name)}}
	case others == silent:
		return []Finding{{Note, where, "refuses strangers, while another firewall gives them no answer at other ports" + scan,
			fmt.Sprintf("to have it look like the others, write refuse = \"drop\" in [door.%s]", d.Name)}}
	case others == barred:
		return []Finding{{Note, where, "does not answer strangers as another firewall does at other ports, with an ICMP error" + scan,
			"to have all of them look alike, let that firewall drop, or refuse with TCP resets"}}
	}
	return nil
}
