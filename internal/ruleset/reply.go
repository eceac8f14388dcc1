//go:build linux

package ruleset

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// Reply is what the sender of a dropped packet receives.
type Reply uint8

// Silence is no reply, Reset a TCP reset, Unreachable any ICMP error.
const (
	Silence Reply = iota
	Reset
	Unreachable
)

// The values for a TCP reset in the kernel's enum ipt_reject_with and ip6t_reject_with.
const (
	resetIPv4 = 7
	resetIPv6 = 6
)

// Reply returns what the rule at a place replies to packets that it drops.
func (s *Ruleset) Reply(at Place) Reply {
	if at.Chain == nil || at.Handle == 0 {
		return Silence // a policy
	}
	i := slices.IndexFunc(at.Chain.Rules, func(r Rule) bool { return r.Handle == at.Handle })
	if i < 0 {
		return Silence
	}
	for _, e := range at.Chain.Rules[i].Exprs {
		switch {
		case e.Name == "reject" && e.number(unix.NFTA_REJECT_TYPE) == unix.NFT_REJECT_TCP_RST:
			return Reset
		case e.Name == "reject":
			return Unreachable
		case e.Name == "target" && e.text(unix.NFTA_TARGET_NAME) == "REJECT":
			info, reset := e.Attrs[unix.NFTA_TARGET_INFO], uint32(resetIPv4)
			if at.Chain.Family == "ip6" {
				reset = resetIPv6
			}
			if len(info) >= 4 && binary.NativeEndian.Uint32(info) == reset {
				return Reset
			}
			return Unreachable
		}
	}
	return Silence
}
