package seal

import (
	"crypto/sha256"
	"fmt"
)

// mac is HMAC-SHA256 (RFC 2104) of parts, with a key of at most 64 bytes. A handshake
// takes some twenty of these. crypto/hmac makes the same, but takes memory for each, which
// is half of what a handshake has the garbage collector collect; this takes none for up to
// 192 bytes.
func mac(key []byte, parts ...[]byte) [sha256.Size]byte {
	const block, inner, outer = sha256.BlockSize, 0x36, 0x5c
	if len(key) > block {
		panic(fmt.Sprintf("seal: internal error: a key of %d bytes for HMAC", len(key)))
	}
	var memory [block + 192]byte
	copy(memory[:], key)
	for i := range block {
		memory[i] ^= inner
	}
	b := memory[:block]
	for _, p := range parts {
		b = append(b, p...)
	}
	sum := sha256.Sum256(b)
	for i := range block {
		memory[i] ^= inner ^ outer
	}
	return sha256.Sum256(append(memory[:block], sum[:]...))
}

// HKDF-SHA256 (RFC 5869) of up to 32 bytes is two of these: mac of the salt and the secret,
// and of that and the info, with the number of the block after it.
var onlyBlock = []byte{1} // never changed

// derive is HKDF-SHA256 for a purpose, of at most 32 bytes and with a salt of at most 64.
// Its info is the purpose and context, which is of fixed length for each purpose.
func derive(secret, salt []byte, purpose string, n int, context ...[]byte) []byte {
	var memory [96]byte
	info := append(append(memory[:0], label...), purpose...)
	for _, c := range context {
		info = append(info, c...)
	}
	key := mac(salt, secret)
	sum := mac(key[:], info, onlyBlock)
	return sum[:n]
}
