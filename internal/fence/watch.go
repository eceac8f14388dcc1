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
// ends, or the kernel ends the watch, which is logged.
func (f *Fence) Watch(ctx context.Context) (<-chan struct{}, error) {
	nl, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: 64 << 10})
	if err != nil {
		return nil, fmt.Errorf("fence: watch: open a netfilter netlink socket: %w", err)
	}
	if err := nl.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		nl.Close()
		return nil, fmt.Errorf("fence: watch the ruleset: %w", err)
	}
	changed := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { nl.Close() }) // unblocks Receive
	go func() {
		defer close(changed)
		defer nl.Close()
		defer stop()
		if err := f.watch(nl, changed); ctx.Err() == nil {
			f.log.Error("fence no longer watched", "err", err)
		}
	}()
	return changed, nil
}

// watch signals until reading fails.
func (f *Fence) watch(nl *netlink.Conn, changed chan<- struct{}) error {
	for {
		msgs, err := nl.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		// Where events were lost, one of them may have been ours to see.
		if err != nil || f.concerns(msgs) {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}

// concerns says whether any event is about the table and of somebody else.
func (f *Fence) concerns(events []netlink.Message) bool {
	for _, m := range events {
		if m.Header.PID == f.origin.Load() || len(m.Data) < 4 || m.Data[0] != unix.NFPROTO_INET {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return true
		}
		for ad.Next() {
			// The first attribute of all but the generation's is the table.
			if ad.Type() == 1 && ad.String() == tableName {
				return true
			}
		}
	}
	return false
}
