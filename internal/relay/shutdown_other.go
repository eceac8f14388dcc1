//go:build !unix

package relay

import "os"

// shutdown has nothing to do: standard streams are no sockets here.
func shutdown(*os.File) {}
