//go:build linux

package fence

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch returns a channel that holds a signal, one for however many changes,
// when somebody else changed the table: a reason to call Check. Time-outs of
// grants and this Fence's own changes are no such reason. It has a socket of its
// own and waits for nothing else of the Fence. The channel is closed when ctx
// ends, or when reading fails, which is logged.
func (f *Fence) Watch(ctx context.Context) (<-chan struct{}, error) {
	c, err := socket(tableName)
	if err != nil {
		return nil, fmt.Errorf("fence: watch: %w", err)
	}
	err = f.same(c)
	if err == nil {
		err = c.nl.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		c.nl.Close()
		return nil, fmt.Errorf("fence: watch the ruleset: %w", err)
	}
	changed := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { c.nl.Close() }) // unblocks Receive
	go func() {
		defer close(changed)
		defer c.nl.Close()
		defer stop()
		if err := f.watch(c.nl, changed); ctx.Err() == nil {
			f.log.Error("fence no longer watched", "err", err)
		}
	}()
	return changed, nil
}

// watch signals until reading fails. The kernel tells of a transaction's parts
// and last of all of the ruleset's new generation.
func (f *Fence) watch(nl *netlink.Conn, changed chan<- struct{}) error {
	signal := func() {
		select {
		case changed <- struct{}{}:
		default: // one is waiting
		}
	}
	ours := false
	for {
		events, err := nl.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			signal() // events were lost, and any may have been about the table
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range events {
			ours = ours || f.concerns(e)
			if ours && e.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
				signal()
				ours = false
			}
		}
	}
}

// concerns says whether the event is about the table and of somebody else. One
// that cannot be read may be.
func (f *Fence) concerns(e netlink.Message) bool {
	if e.Header.PID == f.origin.Load() || len(e.Data) < 4 || e.Data[0] != unix.NFPROTO_INET {
		return false
	}
	ad, err := netlink.NewAttributeDecoder(e.Data[4:])
	if err != nil {
		return true
	}
	// The table is the first attribute of all but the generation.
	if ad.Next() {
		return ad.Type() == 1 && ad.String() == tableName
	}
	return ad.Err() != nil
}
