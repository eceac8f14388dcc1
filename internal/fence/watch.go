//go:build linux

package fence

import (
	"context"
	"fmt"

	nft "github.com/doorward/doorward/internal/nftables"
)

// Watch returns a channel that receives a signal, one for however many changes, when
// somebody else has changed the table: a reason to call Check. Timeouts of grants and
// this Fence's own changes cause none. It has a socket of its own and waits for no other
// call of the Fence. The channel is closed when ctx ends, or when reading fails, which is
// logged.
func (f *Fence) Watch(ctx context.Context) (<-chan struct{}, error) {
	c, err := f.dial(nft.Connect)
	if err != nil {
		return nil, fmt.Errorf("fence: watch: %w", err)
	}
	if err := c.Join(); err != nil {
		c.Close()
		return nil, fmt.Errorf("fence: watch the ruleset: %w", err)
	}
	changed := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { c.Close() }) // unblocks reading
	go func() {
		defer close(changed)
		defer c.Close()
		defer stop()
		signal := func() {
			select {
			case changed <- struct{}{}:
			default: // one is waiting
			}
		}
		if err := c.Watch(f.origin.Load, signal); ctx.Err() == nil {
			f.log.Error("fence no longer watched", "err", err)
		}
	}()
	return changed, nil
}
