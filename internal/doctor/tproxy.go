//go:build linux

package doctor

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tproxies reads the tproxy expressions of a table's rules, by the rules'
// handles: github.com/google/nftables v0.3.0 can write them and leaves them out
// when it reads a rule.
func tproxies(t *nftables.Table) (map[uint64]*expr.TProxy, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("ask nf_tables: %w", err)
	}
	defer c.Close()
	query, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(t.Name), 0)}})
	if err != nil {
		return nil, err
	}
	rules, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{byte(t.Family), unix.NFNETLINK_V0, 0, 0}, query...), // struct nfgenmsg
	})
	if err != nil {
		return nil, fmt.Errorf("ask nf_tables for the rules of table %q: %w", t.Name, err)
	}
	found := make(map[uint64]*expr.TProxy)
	for _, r := range rules {
		handle, e, err := parseTProxy(r.Data)
		if err != nil {
			return nil, fmt.Errorf("read a rule of table %q: %w", t.Name, err)
		}
		if e != nil {
			found[handle] = e
		}
	}
	return found, nil
}

// parseTProxy reads one rule; without a tproxy in it the expression is nil.
func parseTProxy(rule []byte) (handle uint64, found *expr.TProxy, err error) {
	const header = 4 // struct nfgenmsg
	if len(rule) < header {
		return 0, nil, fmt.Errorf("%d bytes are no rule", len(rule))
	}
	d, err := netlink.NewAttributeDecoder(rule[header:])
	if err != nil {
		return 0, nil, err
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		switch d.Type() {
		case unix.NFTA_RULE_HANDLE:
			handle = d.Uint64()
		case unix.NFTA_RULE_EXPRESSIONS:
			d.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(one *netlink.AttributeDecoder) error {
						if e := tproxyOf(one); e != nil {
							found = e
						}
						return nil
					})
				}
				return nil
			})
		}
	}
	return handle, found, d.Err()
}

// tproxyOf reads one expression; of a tproxy, the register with its port.
func tproxyOf(d *netlink.AttributeDecoder) (found *expr.TProxy) {
	name := ""
	for d.Next() {
		switch {
		case d.Type() == unix.NFTA_EXPR_NAME:
			name = d.String()
		case d.Type() == unix.NFTA_EXPR_DATA && name == "tproxy":
			found = new(expr.TProxy)
			d.Nested(func(data *netlink.AttributeDecoder) error {
				for data.Next() {
					if data.Type() == expr.NFTA_TPROXY_REG_PORT {
						found.RegPort = data.Uint32()
					}
				}
				return nil
			})
		}
	}
	return found
}
