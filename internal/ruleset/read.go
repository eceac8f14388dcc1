//go:build linux

package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/doorward/doorward/internal/nfnetlink"
)

// reader reads the rules of a network namespace.
type reader struct {
	conn *nfnetlink.Conn
	skip func(*Chain) bool
	all  *Ruleset
}

// errChanged means that the ruleset changed each time while it was read.
var errChanged = errors.New("another program keeps changing the rules; try again")

// Read reads the rules of the calling thread's network namespace as they are at one
// moment, except for the chains for which skip returns true, and the sets that the
// rules use. If other programs keep changing the rules, it returns an error.
func Read(skip func(*Chain) bool) (*Ruleset, error) {
	conn, err := nfnetlink.Dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	for range 10 {
		r := &reader{conn: conn, skip: skip, all: &Ruleset{}}
		before, err := r.generation()
		if err != nil {
			return nil, err
		}
		// If something disappears while it is read, the generation has changed, too.
		errs := []error{r.chains(), r.rules(), r.sets()}
		after, err := r.generation()
		if err != nil {
			return nil, err
		}
		if before == after {
			return r.all, errors.Join(errs...)
		}
	}
	return nil, errChanged
}

// ask sends a request to nf_tables and returns the attributes of the answers, each
// with its family.
func (r *reader) ask(kind int, family byte, flags netlink.HeaderFlags, question ...netlink.Attribute) (all []answer, err error) {
	data, err := netlink.MarshalAttributes(question)
	if err != nil {
		return nil, err
	}
	message := nfnetlink.Message(unix.NFNL_SUBSYS_NFTABLES, kind, flags, append(nfnetlink.Header(family), data...))
	err = r.conn.Ask(message, func(m netlink.Message) error {
		if len(m.Data) < nfnetlink.HeaderLen {
			return fmt.Errorf("the answer has only %d bytes", len(m.Data))
		}
		attrs, err := attributes(m.Data[nfnetlink.HeaderLen:])
		all = append(all, answer{m.Data[0], Expr{Attrs: attrs}})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask nf_tables: %w", err)
	}
	return all, nil
}

// answer is one item of nf_tables' answer.
type answer struct {
	family byte
	Expr
}

// attributes returns the attributes of one level, by their numbers.
func attributes(b []byte) (map[uint16][]byte, error) {
	list, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return nil, err
	}
	all := make(map[uint16][]byte, len(list))
	for _, a := range list {
		all[a.Type&^unix.NLA_F_NESTED] = a.Data
	}
	return all, nil
}

// generation returns the number of the ruleset's last change.
func (r *reader) generation() (uint32, error) {
	all, err := r.ask(unix.NFT_MSG_GETGEN, unix.NFPROTO_UNSPEC, 0)
	if err != nil {
		return 0, err
	}
	if len(all) != 1 {
		return 0, fmt.Errorf("nf_tables reports %d generations, not one", len(all))
	}
	return all[0].number(unix.NFTA_GEN_ID), nil
}

// families are the families whose rules an incoming packet passes. Chains of bridges
// are read but not followed.
var families = map[byte]string{
	unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet", unix.NFPROTO_NETDEV: "netdev",
}

// hooks are the hooks of linux/netfilter.h that an incoming packet passes, by their
// numbers in all families but netdev.
var hooks = map[uint32]string{0: "prerouting", 1: "input", 5: "ingress"}

func (r *reader) chains() error {
	found, err := r.ask(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_UNSPEC, netlink.Dump)
	if err != nil {
		return err
	}
	for _, a := range found {
		if families[a.family] == "" {
			continue
		}
		c := &Chain{Family: families[a.family], Table: a.text(unix.NFTA_CHAIN_TABLE), Name: a.text(unix.NFTA_CHAIN_NAME)}
		if r.skip(c) {
			continue
		}
		if a.has(unix.NFTA_CHAIN_HOOK) {
			if err := c.hook(a); err != nil {
				return fmt.Errorf("read %s: %w", c, err)
			}
		}
		r.all.Chains = append(r.all.Chains, c)
	}
	return nil
}

// hook reads where a base chain is attached. A hook that no incoming packet passes is
// read as "other".
func (c *Chain) hook(a answer) error {
	const policyDrop = 0 // NF_DROP
	attrs, err := attributes(a.Attrs[unix.NFTA_CHAIN_HOOK])
	if err != nil {
		return err
	}
	h := Expr{Attrs: attrs}
	c.Type = a.text(unix.NFTA_CHAIN_TYPE)
	c.Priority = int32(h.number(unix.NFTA_HOOK_PRIORITY))
	c.Drop = a.has(unix.NFTA_CHAIN_POLICY) && a.number(unix.NFTA_CHAIN_POLICY) == policyDrop
	number := h.number(unix.NFTA_HOOK_HOOKNUM)
	c.Hook = hooks[number]
	if a.family == unix.NFPROTO_NETDEV {
		c.Hook = map[uint32]string{0: "ingress"}[number]
	}
	if c.Hook == "" {
		c.Hook = "other"
	}
	if h.has(unix.NFTA_HOOK_DEV) {
		c.Devices = append(c.Devices, h.text(unix.NFTA_HOOK_DEV))
	}
	devices, err := netlink.UnmarshalAttributes(attrs[hookDevs])
	if err != nil {
		return err
	}
	for _, d := range devices {
		name := Expr{Attrs: map[uint16][]byte{0: d.Data}}.text(0)
		if d.Type != deviceName {
			// In newer kernels, a prefix of names: it may be any interface.
			c.Devices = nil
			return nil
		}
		c.Devices = append(c.Devices, name)
	}
	return nil
}

// hookDevs and deviceName are NFTA_HOOK_DEVS and NFTA_DEVICE_NAME, which
// golang.org/x/sys/unix does not have.
const hookDevs, deviceName = 4, 1

func (r *reader) rules() error {
	found, err := r.ask(unix.NFT_MSG_GETRULE, unix.NFPROTO_UNSPEC, netlink.Dump)
	if err != nil {
		return err
	}
	for _, a := range found {
		like := &Chain{Family: families[a.family], Table: a.text(unix.NFTA_RULE_TABLE)}
		c := r.all.chain(like, a.text(unix.NFTA_RULE_CHAIN))
		if c == nil {
			continue // of another family, or skipped
		}
		rule := Rule{}
		if b := a.Attrs[unix.NFTA_RULE_HANDLE]; len(b) == 8 {
			rule.Handle = binary.BigEndian.Uint64(b)
		}
		if rule.Exprs, err = expressions(a.Attrs[unix.NFTA_RULE_EXPRESSIONS]); err != nil {
			return fmt.Errorf("read a rule of %s: %w", c, err)
		}
		c.Rules = append(c.Rules, rule)
	}
	return nil
}

// expressions reads a list of expressions.
func expressions(b []byte) (all []Expr, err error) {
	list, err := netlink.UnmarshalAttributes(b)
	if err != nil {
		return nil, err
	}
	for _, one := range list {
		outer, err := attributes(one.Data)
		if err != nil {
			return nil, err
		}
		e := Expr{Attrs: outer}
		e.Name = e.text(unix.NFTA_EXPR_NAME)
		if e.Attrs, err = attributes(outer[unix.NFTA_EXPR_DATA]); err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

// sets reads the sets that a rule uses.
func (r *reader) sets() error {
	seen := map[string]bool{}
	for _, c := range r.all.Chains {
		if table := c.Family + " " + c.Table; !seen[table] {
			seen[table] = true
			if err := r.setsOf(c, r.lookups(c)); err != nil {
				return err
			}
		}
	}
	return nil
}

// lookups returns the names of the sets that the rules of a chain's table use.
func (r *reader) lookups(of *Chain) map[string]bool {
	all := map[string]bool{}
	for _, c := range r.all.Chains {
		if c.Family != of.Family || c.Table != of.Table {
			continue
		}
		for _, rule := range c.Rules {
			for _, e := range rule.Exprs {
				if e.Name == "lookup" {
					all[e.text(unix.NFTA_LOOKUP_SET)] = true
				}
			}
		}
	}
	return all
}

// setsOf reads those sets of a chain's table that are in names.
func (r *reader) setsOf(c *Chain, names map[string]bool) error {
	const interval, concat = 4, 0x80 // NFT_SET_INTERVAL, NFT_SET_CONCAT
	if len(names) == 0 {
		return nil
	}
	family := byte(0)
	for number, name := range families {
		if name == c.Family {
			family = number
		}
	}
	table := netlink.Attribute{Type: unix.NFTA_SET_TABLE, Data: append([]byte(c.Table), 0)}
	found, err := r.ask(unix.NFT_MSG_GETSET, family, netlink.Dump, table)
	if err != nil {
		return err
	}
	for _, a := range found {
		flags := a.number(unix.NFTA_SET_FLAGS)
		s := &Set{Family: c.Family, Table: c.Table, Name: a.text(unix.NFTA_SET_NAME), KeyLen: int(a.number(unix.NFTA_SET_KEY_LEN)),
			Interval: flags&interval != 0, Concat: flags&concat != 0}
		if !names[s.Name] {
			continue
		}
		if err := r.elements(s, family); err != nil {
			return fmt.Errorf("read the set %q of %s: %w", s.Name, c, err)
		}
		r.all.Sets = append(r.all.Sets, s)
	}
	return nil
}

func (r *reader) elements(s *Set, family byte) error {
	found, err := r.ask(unix.NFT_MSG_GETSETELEM, family, netlink.Dump,
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: append([]byte(s.Table), 0)},
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: append([]byte(s.Name), 0)})
	if err != nil {
		return err
	}
	for _, a := range found {
		list, err := netlink.UnmarshalAttributes(a.Attrs[unix.NFTA_SET_ELEM_LIST_ELEMENTS])
		if err != nil {
			return err
		}
		for _, one := range list {
			e, err := element(one.Data)
			if err != nil {
				return err
			}
			s.Elements = append(s.Elements, e)
		}
	}
	return nil
}

// element reads one element. A quota or limit in it may keep it from being found.
func element(b []byte) (Element, error) {
	const intervalEnd, catchAll = 1, 2 // enum nft_set_elem_flags
	attrs, err := attributes(b)
	if err != nil {
		return Element{}, err
	}
	e := Expr{Attrs: attrs}
	flags := e.number(unix.NFTA_SET_ELEM_FLAGS)
	found := Element{Key: e.data(unix.NFTA_SET_ELEM_KEY), KeyEnd: e.data(elemKeyEnd), Data: attrs[unix.NFTA_SET_ELEM_DATA],
		End: flags&intervalEnd != 0, CatchAll: flags&catchAll != 0}
	found.Depends = e.has(elemExpressions)
	if e.has(unix.NFTA_SET_ELEM_EXPR) {
		inner, err := attributes(attrs[unix.NFTA_SET_ELEM_EXPR])
		found.Depends = err != nil || (Expr{Attrs: inner}).text(unix.NFTA_EXPR_NAME) != "counter"
	}
	return found, nil
}

// elemKeyEnd and elemExpressions are NFTA_SET_ELEM_KEY_END and
// NFTA_SET_ELEM_EXPRESSIONS, which golang.org/x/sys/unix does not have.
const elemKeyEnd, elemExpressions = 10, 11
