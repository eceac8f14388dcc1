// Package descriptors shares out the files that this process may have open, so
// that whoever connects to one of the daemon's sockets takes none that another
// needs.
package descriptors

const (
	// Few is a limit of open files that is small for a daemon with some doors:
	// with less, connections are turned away that would be served otherwise.
	Few = 1024

	// own is what the daemon with a few doors has open without any connection:
	// listeners, netlink, the store, logs.
	own = 40
)

// The parts that connections get of what is left. Together they are no more than
// half of it; the rest is for more listeners, and for what the daemon opens for a
// moment.
const (
	Listeners = 4  // a quarter: those to the listeners, of strangers
	Operators = 8  // an eighth: those to the control socket
	Meters    = 16 // a sixteenth: those that ask for metrics
	Streams   = 16 // a sixteenth: those that carry datagrams, of strangers
)

// Share is how many connections of a kind may be open at a time: want, or one
// part-th of what is left if that is less, but never none.
func Share(want, part int) int { return share(Limit(), want, part) }

func share(limit, want, part int) int { return min(want, max(1, (limit-own)/part)) }
