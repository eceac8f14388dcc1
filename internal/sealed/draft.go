package sealed

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/tables"
)

var (
	_ knock.Drafted  = Kind{}
	_ knock.Equipped = Rule{}
	_ knock.Invited  = Rule{}
	_ knock.Timed    = Rule{}
)

// Brief says what sets the kind apart.
func (Kind) Brief() string { return "SSH keys open, with doorward on the visitor's side" }

// Proposal describes what is drafted.
func (Kind) Proposal() string {
	return `A few encrypted datagrams to a UDP port, here one at random from 20000 to
32767 and 61000 to 65535, signed with an SSH key. Who may knock is on a list, as
for sshd, and is invited by doorward invite. Whoever has no invite gets no answer,
and learns nothing from watching others.`
}

// Choices are the port and the carriers.
func (Kind) Choices() []knock.Choice {
	return []knock.Choice{
		{Name: "knock-port", Usage: "UDP `PORT` of the sealed knock (default: at random)",
			Question: "UDP port of the knock, or random for one that nothing else uses", Proposal: "random"},
		{Name: "carriers", List: true, Usage: "udp, or udp,tcp for networks that block UDP (default: udp)",
			Question: "Carriers of the knock: udp, or udp tcp for networks that block UDP", Proposal: "udp"},
	}
}

// Draft writes a knock at the port that was chosen, or at one that is drawn: the default
// one is among those that Linux gives to outgoing connections.
func (Kind) Draft(chosen map[string][]string, from knock.Lots) (string, error) {
	number := strings.Join(chosen["knock-port"], " ")
	if number == "" {
		drawn, err := from.Ports(knock.Datagrams, 1)
		if err != nil {
			return "", err
		}
		number = fmt.Sprint(drawn[0])
	}
	carriers := chosen["carriers"]
	if len(carriers) == 0 {
		carriers = []string{"udp"}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# UDP; with \"tcp\" among the carriers also TCP, which shows a scanner an open port.\nport = %s\ncarriers = %s\n",
		integer(number), quoted(carriers))
	fmt.Fprintf(&b, "# The gateway's key, and who may knock besides those who were invited.\nidentity = %q\nkeys = %q\n", DefaultIdentity, defaultKeys)
	return b.String(), nil
}

// Write writes all keys of a Rule.
func (Kind) Write(of knock.Rule) string {
	r := rule(of)
	carriers := []string{"udp"}
	if r.TCP {
		carriers = append(carriers, "tcp")
	}
	var b strings.Builder
	fmt.Fprintf(&b, "port = %d\ncarriers = %s\nidentity = %q\nkeys = %q\n", r.Port, quoted(carriers), r.Identity, r.Keys)
	if r.Secrets != "" {
		fmt.Fprintf(&b, "secrets = %q\n", r.Secrets)
	}
	if r.Revoked != "" {
		fmt.Fprintf(&b, "revoked = %q\n", r.Revoked)
	}
	fmt.Fprintf(&b, "one_way = %t\nany_source = %t\nmax_open_for = %q\n", r.OneWay, r.AnySource, tables.Short(r.MaxOpenFor))
	return b.String()
}

// integer writes a number. Anything else is quoted, so that reading the text refuses it.
func integer(word string) string {
	if n, err := strconv.Atoi(word); err != nil || strconv.Itoa(n) != word {
		return strconv.Quote(word)
	}
	return word
}

// quoted writes a list of strings.
func quoted(words []string) string {
	all := make([]string, len(words))
	for i, w := range words {
		all[i] = strconv.Quote(w)
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// Invites says that visitors are invited.
func (Rule) Invites() {}

const emptyKeys = `# Who may knock: an SSH public key a line, as in sshd's authorized_keys. Keys that were
# enrolled by an invite (doorward invite) are not here, but with the daemon: doorward keys.
# A change counts within ten seconds. In front of a key may stand options:
#
#   doors="ssh,web"  from="192.0.2.0/24"  expiry-time="20270101"  one-address
#   schedule="Mon-Fri 08:00-18:00"  max-open-for="1h"  cert-authority
#
# doors="ssh",expiry-time="20270101" ssh-ed25519 AAAA... alice
`

// Equipment are an identity and a file of keys without any.
func (r Rule) Equipment(random io.Reader) ([]knock.Equipment, error) {
	identity, err := NewIdentity(random)
	if err != nil {
		return nil, err
	}
	return []knock.Equipment{{Path: r.Identity, Text: identity}, {Path: r.Keys, Text: []byte(emptyKeys)}}, nil
}

// Fresh is about single packets: a handshake needs no clock.
func (r Rule) Fresh() time.Duration {
	if r.OneWay {
		return fresh
	}
	return 0
}

// Maker makes the identity.
func (r Rule) Maker() []string { return []string{"doorward", "keys", "identity", r.Identity} }

// Inspect reads one of the rule's files.
func (r Rule) Inspect(f knock.File, text []byte, err error) (has string, wrong []string) {
	switch {
	case errors.Is(err, fs.ErrNotExist) && f.Absent:
		return "is not there, which is as if it were empty", nil
	case errors.Is(err, fs.ErrNotExist) && f.As == asIdentity:
		return "", []string{"does not exist, and without the gateway's key nobody can knock"}
	case errors.Is(err, fs.ErrNotExist):
		return "", []string{"does not exist, and until it does nobody can knock: who is revoked is not known"}
	case err != nil:
		return "", []string{err.Error()}
	}
	read, err := Kind{}.Digest(f, text)
	if err != nil {
		return "", []string{strings.TrimPrefix(err.Error(), f.Path+": ")}
	}
	d, _ := read.(digest)
	switch f.As {
	case asIdentity:
		has = "the gateway's key is " + d.identity.keys[0].Fingerprint().String()
	case asRevoked:
		has = "can be read as a list of what is revoked"
	case asKeys:
		has = counted(len(d.keys.All()), "key", "keys")
	case asSecrets:
		has = counted(len(d.secrets), "machine's secret", "machines' secrets")
	}
	for _, p := range d.problems {
		if p.Line > 0 {
			wrong = append(wrong, fmt.Sprintf("line %d: %s", p.Line, p.Text))
		} else {
			wrong = append(wrong, p.Text)
		}
	}
	return has, wrong
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
