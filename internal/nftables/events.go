//go:build linux

package nftables

import (
	"errors"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Join has the kernel tell the connection of all changes to rulesets.
func (c *Conn) Join() error { return c.Netlink.JoinGroup(unix.NFNLGRP_NFTABLES) }

// Watch calls changed when somebody else than the socket of number own changed the
// table, or may have, until reading fails. The kernel tells of a transaction's
// parts and last of all of the ruleset's new generation.
func (c *Conn) Watch(own func() uint32, changed func()) error {
	concerned := false
	for {
		events, err := c.Netlink.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			changed() // events were lost, and any may have been about the table
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range events {
			concerned = concerned || e.Header.PID != own() && c.concerns(e.Data)
			if concerned && e.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
				changed()
				concerned = false
			}
		}
	}
}

// concerns says whether an event is about the table. One that cannot be read may
// be.
func (c *Conn) concerns(event []byte) bool {
	if len(event) < 4 || event[0] != unix.NFPROTO_INET {
		return false
	}
	ad, err := netlink.NewAttributeDecoder(event[4:])
	if err != nil {
		return true
	}
	// The table is the first attribute of all but the generation.
	if ad.Next() {
		return ad.Type() == 1 && ad.String() == c.table
	}
	return ad.Err() != nil
}
