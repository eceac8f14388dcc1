//go:build !unix

package relay

import "os"

// shutdown does nothing: standard streams are not sockets here.
func shutdown(*os.File) {}
