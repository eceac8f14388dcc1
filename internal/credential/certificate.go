package credential

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/doorward/doorward/internal/legible"
)

// certificate is one that a visitor has shown (PROTOCOL.certkeys), and what it says.
type certificate struct {
	key       []byte // the public key that it is for, as it is sent
	authority []byte // that of who signed it
	signed    []byte // what of the certificate is signed
	signature signature

	serial     uint64
	id         string
	principals []string
	after      uint64 // seconds since 1970
	before     uint64
	from       *Addresses // its source-address; nil: everywhere
	verify     bool       // a security key has verified its user
	noTouch    bool
	unknown    bool // it has a critical option that is not known
}

// parseCertificate reads a user's certificate, exactly. It says nothing of whether it
// counts.
func parseCertificate(blob []byte) (*certificate, bool) {
	if !strings.HasSuffix(kindOf(blob), "-cert-v01@openssh.com") {
		return nil, false
	}
	k, err := ssh.ParsePublicKey(blob)
	c, ok := k.(*ssh.Certificate)
	if err != nil || !ok || string(c.Marshal()) != string(blob) || c.CertType != ssh.UserCert {
		return nil, false
	}
	out := &certificate{
		key: c.Key.Marshal(), authority: c.SignatureKey.Marshal(),
		serial: c.Serial, id: c.KeyId, principals: c.ValidPrincipals,
		after: c.ValidAfter, before: c.ValidBefore,
	}
	if _, err := parseBlob(out.key); err != nil {
		return nil, false
	}
	// What is signed is all but the signature, which is the last field (PROTOCOL.certkeys).
	sig := ssh.Marshal(c.Signature)
	if out.signature, ok = parseSignature(sig); !ok {
		return nil, false
	}
	out.signed = blob[:len(blob)-4-len(sig)]
	_, out.noTouch = c.Extensions["no-touch-required"]
	return out, out.restrict(c.CriticalOptions)
}

// restrict takes in the critical options. One that is not known refuses the certificate
// later, when its owner has shown to be that and may know.
func (c *certificate) restrict(critical map[string]string) (ok bool) {
	for name, value := range critical {
		switch name {
		case "verify-required":
			c.verify = true
		case "source-address":
			from, err := parseAddresses(value)
			// sshd wants plain addresses and networks here.
			if err != nil || strings.ContainsAny(value, "*?! \t") {
				return false
			}
			c.from = from
		case "force-command":
			// What a session runs is sshd's to see to: a door gives no session.
		default:
			c.unknown = true
		}
	}
	return true
}

// expires is when it ends; false: never.
func (c *certificate) expires() (time.Time, bool) {
	return seconds(c.before), c.before != math.MaxUint64
}

// seconds is a time as certificates have it. Those beyond what a time.Time can have are
// so far away that it makes no difference.
func seconds(n uint64) time.Time { return time.Unix(int64(min(n, 1<<40)), 0) }

// mostAs is how many bytes of a name are principals.
const mostAs = 36

// name is the name of who has shown the certificate, which these lines of its authority are
// about. Nothing in its key ID passes for principals.
func (c *certificate) name(lines []*Key) string {
	as, verb := c.principals, "has"
	counts := slices.DeleteFunc(slices.Clone(as), func(p string) bool {
		return !slices.ContainsFunc(lines, func(l *Key) bool { return slices.Contains(l.Options.Principals, p) })
	})
	if len(counts) > 0 {
		as, verb = counts, "as"
	}
	plain := strings.NewReplacer("(", "", ")", "")
	id := Name(plain.Replace(c.id))
	if len(as) == 0 {
		return id
	}
	of := " (" + verb + " " + legible.Clip(cmp.Or(Name(plain.Replace(strings.Join(as, ","))), "?"), mostAs-len(" (has )")) + ")"
	return strings.TrimSpace(legible.Clip(id, mostName-len(of)) + of)
}

// certifies says whether the certificate has one of an authority's principals.
func (c *certificate) certifies(principals []string) bool {
	for _, p := range principals {
		for _, has := range c.principals {
			if p == has {
				return true
			}
		}
	}
	return false
}
