// Package descriptors divides the files that this process may have open among its
// uses, so that connections to one of the daemon's sockets cannot take those that
// another needs.
package descriptors

const (
	// Few is a small limit of open files for a daemon with some doors: with a lower
	// one, it refuses connections that it would serve otherwise.
	Few = 1024

	// own is the number of files that the daemon with a few doors has open without
	// any connection: listeners, netlink, the store, logs.
	own = 40
)

// The fractions of the remaining files that connections get. Together they are no more
// than half; the rest is for more listeners, and for files that the daemon opens
// briefly.
const (
	Listeners = 4  // a quarter: strangers' connections to the listeners
	Operators = 8  // an eighth: connections to the control socket
	Meters    = 16 // a sixteenth: connections for metrics
	Streams   = 16 // a sixteenth: strangers' connections that carry datagrams
)

// Share returns how many connections of a kind may be open at a time: want, or one
// part-th of the remaining files if that is less, but at least one.
func Share(want, part int) int { return share(Limit(), want, part) }

func share(limit, want, part int) int { return min(want, max(1, (limit-own)/part)) }
