package seal

import (
	"encoding/binary"

	"github.com/dchest/siphash"
)

// sip is SipHash-2-4 with a key of 16 bytes.
func sip(key *[16]byte, b []byte) uint64 {
	return siphash.Hash(binary.LittleEndian.Uint64(key[:8]), binary.LittleEndian.Uint64(key[8:]), b)
}
