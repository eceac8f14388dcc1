//go:build linux

package nftables

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// attrs builds netlink attributes the way the kernel writes them in its dumps:
// numbers are big-endian, names end in a zero byte, and nested attributes have
// no NLA_F_NESTED. So what was sent and what is read back compare byte by byte.
type attrs []byte

// bytes appends one attribute. Its 16-bit length allows 64 KiB; only lists of
// elements come near that, and maxElements bounds them.
func (a attrs) bytes(typ int, v []byte) attrs {
	i := a.open(typ)
	a = append(a, v...)
	a.close(i)
	return a
}

func (a attrs) str(typ int, v string) attrs { return a.bytes(typ, append([]byte(v), 0)) }

func (a attrs) u8(typ int, v uint8) attrs { return a.bytes(typ, []byte{v}) }

func (a attrs) u32(typ int, v uint32) attrs {
	return a.bytes(typ, binary.BigEndian.AppendUint32(nil, v))
}

func (a attrs) u64(typ int, v uint64) attrs {
	i := a.open(typ)
	a = binary.BigEndian.AppendUint64(a, v)
	a.close(i)
	return a
}

// value appends an attribute that holds v in an NFTA_DATA_VALUE, the form of
// keys, masks and comparands.
func (a attrs) value(typ int, v []byte) attrs {
	i := a.open(typ)
	a = a.bytes(unix.NFTA_DATA_VALUE, v)
	a.close(i)
	return a
}

// open starts an attribute and returns what close needs to end it.
func (a *attrs) open(typ int) int {
	i := len(*a)
	*a = binary.NativeEndian.AppendUint16(*a, 0)
	*a = binary.NativeEndian.AppendUint16(*a, uint16(typ))
	return i
}

// close fills in the length and pads to four bytes.
func (a *attrs) close(i int) {
	binary.NativeEndian.PutUint16((*a)[i:], uint16(len(*a)-i))
	for len(*a)%unix.NLA_ALIGNTO != 0 {
		*a = append(*a, 0)
	}
}

// Native returns a number in the host's byte order, in which meta, ct and fib
// put it into a register.
func Native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
