// Package profile has what a visitor keeps of gateways: profiles, in files of the user's,
// and invites, of which profiles are made.
package profile

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/seal"
)

// Invite is what a gateway's operator gives to a visitor, who enrols a key with it.
type Invite struct {
	Expires     time.Time // to the second
	Secret      seal.Profile
	Code        [16]byte // opens once, to enrol
	Fingerprint seal.Fingerprint
	Port        uint16
	TCP         bool // the gateway is there over TCP, too
	Bound       bool // the key is known already: there is none to enrol
	OneWay      bool // once the key is enrolled, it knocks with single packets
	AnySource   bool // the door takes these from any source; with OneWay only
	Door        string
	Name        string   // proposed for the profile
	Hosts       []string // names or addresses of the gateway; at least one
}

const (
	invitePrefix  = "doorward-invite:"
	inviteVersion = 1
	mostHosts     = 8
	longestHost   = 253 // RFC 1035

	flagTCP       = 1
	flagBound     = 2
	flagOneWay    = 4
	flagAnySource = 8
)

// String returns the invite as one line. It is a secret.
func (v Invite) String() string {
	b := []byte{inviteVersion}
	b = binary.BigEndian.AppendUint32(b, uint32(v.Expires.Unix()))
	b = append(append(append(b, v.Secret[:]...), v.Code[:]...), v.Fingerprint[:]...)
	b = binary.BigEndian.AppendUint16(b, v.Port)
	var flags byte
	for flag, set := range map[byte]bool{flagTCP: v.TCP, flagBound: v.Bound, flagOneWay: v.OneWay, flagAnySource: v.AnySource} {
		if set {
			flags |= flag
		}
	}
	b = appendName(appendName(append(b, flags), v.Door), v.Name)
	b = append(b, byte(len(v.Hosts)))
	for _, h := range v.Hosts {
		b = appendName(b, h)
	}
	return invitePrefix + base64.RawURLEncoding.EncodeToString(b)
}

func appendName(b []byte, name string) []byte { return append(append(b, byte(len(name))), name...) }

// Check says what is wrong with an invite, in which case String must not be called.
func (v Invite) Check() error {
	if v.Port == 0 {
		return errors.New("the port is 0")
	}
	if v.AnySource && !v.OneWay {
		return errors.New("any source without single packets")
	}
	for _, name := range []string{v.Door, v.Name} {
		if name != "" || name == v.Name {
			if err := CheckName(name); err != nil {
				return err
			}
		}
	}
	if len(v.Hosts) == 0 || len(v.Hosts) > mostHosts {
		return fmt.Errorf("%d hosts: allowed are 1 to %d", len(v.Hosts), mostHosts)
	}
	for _, h := range v.Hosts {
		if err := CheckHost(h); err != nil {
			return err
		}
	}
	if at := v.Expires.Unix(); at < 0 || at > 1<<32-1 {
		return fmt.Errorf("it expires at %s: allowed are years up to 2106", v.Expires.UTC())
	}
	return nil
}

// errInvite says what an invite looks like.
var errInvite = errors.New("this is no invite that this doorward can read: allowed is the whole line, from " +
	invitePrefix + " to its end; see that none of it was lost on the way, or ask for another")

// ParseInvite is the inverse of String. It takes white space, and line breaks that a mail
// program has put in.
func ParseInvite(line string) (v Invite, err error) {
	text, ok := strings.CutPrefix(strings.Join(strings.Fields(line), ""), invitePrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil {
		return v, errInvite
	}
	r := reader{rest: b}
	if version := r.bytes(1); len(version) == 1 && version[0] > inviteVersion {
		return v, fmt.Errorf("the invite is of version %d, which is newer than this doorward: install the current one", version[0])
	} else if len(version) == 0 || version[0] != inviteVersion {
		return v, errInvite
	}
	v.Expires = time.Unix(int64(r.number(4)), 0).UTC()
	copy(v.Secret[:], r.bytes(len(v.Secret)))
	copy(v.Code[:], r.bytes(len(v.Code)))
	copy(v.Fingerprint[:], r.bytes(len(v.Fingerprint)))
	v.Port = uint16(r.number(2))
	flags := r.number(1)
	v.TCP, v.Bound = flags&flagTCP != 0, flags&flagBound != 0
	v.OneWay, v.AnySource = flags&flagOneWay != 0, flags&flagAnySource != 0
	v.Door, v.Name = r.name(), r.name()
	for range r.number(1) {
		v.Hosts = append(v.Hosts, r.name())
		if r.bad {
			break
		}
	}
	if r.bad || len(r.rest) > 0 || flags > flagTCP|flagBound|flagOneWay|flagAnySource || v.Check() != nil {
		return Invite{}, errInvite
	}
	return v, nil
}

type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) bytes(n int) []byte {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) number(n int) (x uint64) {
	for _, b := range r.bytes(n) {
		x = x<<8 | uint64(b)
	}
	return x
}

func (r *reader) name() string { return string(r.bytes(int(r.number(1)))) }

var (
	names = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$`)
	hosts = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?$`)
	zones = regexp.MustCompile(`^[A-Za-z0-9_.-]{0,15}$`) // IFNAMSIZ of net/if.h, and its zero
)

// CheckName says why something cannot be the name of a profile or a door.
func CheckName(name string) error {
	if !names.MatchString(name) {
		return fmt.Errorf("%q cannot be a name: allowed are 1 to 64 letters, digits, dots, dashes and underscores, of which the first is neither dot nor dash", name)
	}
	return nil
}

// NameFor proposes what a visitor calls a gateway: the first part of its name.
func NameFor(hosts []string) string {
	for _, h := range hosts {
		if _, err := netip.ParseAddr(h); err == nil {
			continue
		}
		if name, _, _ := strings.Cut(h, "."); CheckName(name) == nil {
			return name
		}
	}
	return "gateway"
}

// CheckHost says why something cannot be a gateway's host. One that can is also harmless in
// a command of a shell's, and in a line of ssh_config(5) but for the % of an address with a
// zone, of which netip takes any text.
func CheckHost(host string) error {
	a, err := netip.ParseAddr(host)
	if err == nil && zones.MatchString(a.Zone()) {
		return nil
	}
	if len(host) > longestHost || !hosts.MatchString(host) {
		return fmt.Errorf("%q is no host: allowed are a host's name and an IP address, without a port", host)
	}
	return nil
}

// IsInvite says whether a text begins as an invite does.
func IsInvite(text string) bool { return strings.HasPrefix(strings.TrimSpace(text), invitePrefix) }
