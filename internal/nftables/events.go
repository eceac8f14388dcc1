//go:build linux

package nftables

import (
	"errors"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Join subscribes the connection to the kernel's notifications of all changes to rulesets.
func (c *Conn) Join() error { return c.Netlink.JoinGroup(unix.NFNLGRP_NFTABLES) }

// Watch calls changed whenever a socket other than the one whose port ID own returns
// has changed the table, or may have, and returns the error when reading fails. The
// kernel announces the parts of a transaction and then, last, the ruleset's new
// generation.
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

// concerns reports whether an event is about the table, or may be because it cannot
// be read.
func (c *Conn) concerns(event []byte) bool {
	if len(event) < 4 || event[0] != unix.NFPROTO_INET {
		return false
	}
	ad, err := netlink.NewAttributeDecoder(event[4:])
	if err != nil {
		return true
	}
	// Every event but that of a new generation has the table as its first attribute.
	if ad.Next() {
		return ad.Type() == 1 && ad.String() == c.table
	}
	return ad.Err() != nil
}
