package seal

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"
)

// Status is what a request led to.
type Status uint8

// The statuses.
const (
	Opened   Status = 1 // the door is open
	Starting Status = 2 // the service is being started; another answer follows
	Closed   Status = 3 // the grant was taken back
	Refused  Status = 4
)

// Reason is why a request was refused. Those below 128 are of internal/credential, and only
// given for a right proof.
type Reason uint8

// The other reasons.
const (
	NotAccepted Reason = 128 // the credential is unknown, or its proof is wrong
	NoDoor      Reason = 129 // there is no such door here
	Spent       Reason = 130 // the code or invite was used before
	NotOpen     Reason = 131 // there is nothing to extend
	Unavailable Reason = 132 // the gateway cannot open the door now
	NotStarted  Reason = 133 // the service behind the door did not start
	TooLong     Reason = 134 // the key is too long to be enrolled
	SpentInVain Reason = 135 // the rescue code is used now, and the door could not be opened
)

// Port is a range of a door's ports.
type Port struct {
	UDP         bool
	First, Last uint16
}

// MostPorts is how many ports of a door an Answer has, the first ones.
const MostPorts = 8

// Answer is what the gateway says to a request.
type Answer struct {
	Status Status
	Reason Reason        // of Refused
	Left   time.Duration // Opened: until the grant ends; Refused: until what the reason says is over, if that is known; in milliseconds, at most 49 days
	Source netip.Addr    // whom the gateway has opened it to, or where it saw the visitor
	Next   Fingerprint   // of the gateway's newest key; the visitor should fetch it if it is not the one in use
	Ports  []Port        // the door's, at most 8; of Opened and Starting
}

// encode returns status 1, reason 1, milliseconds 4, the address 16 (IPv4-mapped), next
// 32, and the ports (protocol 1, first 2, last 2) after their number.
func (a Answer) encode() []byte {
	b := []byte{byte(a.Status), byte(a.Reason)}
	b = binary.BigEndian.AppendUint32(b, uint32(min(max(a.Left/time.Millisecond, 0), math.MaxUint32)))
	source := a.Source.As16()
	b = append(append(b, source[:]...), a.Next[:]...)
	ports := a.Ports[:min(len(a.Ports), MostPorts)]
	b = append(b, byte(len(ports)))
	for _, p := range ports {
		proto := byte(6) // as in an IP header
		if p.UDP {
			proto = 17
		}
		b = binary.BigEndian.AppendUint16(append(b, proto), p.First)
		b = binary.BigEndian.AppendUint16(b, p.Last)
	}
	return b
}

// answer reads what encode writes.
func (r *reader) answer() (a Answer) {
	a.Status, a.Reason = Status(r.u8()), Reason(r.u8())
	a.Left = time.Duration(r.u32()) * time.Millisecond
	var source [16]byte
	copy(source[:], r.bytes(len(source)))
	a.Source = netip.AddrFrom16(source).Unmap()
	copy(a.Next[:], r.bytes(len(a.Next)))
	n := int(r.u8())
	r.bad = r.bad || n > MostPorts || a.Status < Opened || a.Status > Refused || (a.Status == Refused) != (a.Reason != 0)
	for range n {
		proto := r.u8()
		p := Port{UDP: proto == 17, First: r.u16(), Last: r.u16()}
		r.bad = r.bad || proto != 6 && proto != 17 || p.First == 0 || p.Last < p.First
		if r.bad {
			return a
		}
		a.Ports = append(a.Ports, p)
	}
	return a
}
