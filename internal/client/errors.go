package client

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/doorward/doorward/internal/credential"
	"github.com/doorward/doorward/internal/seal"
)

// NameError says that a host's name has led to no address.
type NameError struct {
	Host string
	err  error
}

// Error says why.
func (e *NameError) Error() string {
	d, _ := errors.AsType[*net.DNSError](e.err)
	switch {
	case d == nil:
		return fmt.Sprintf("look up host %q: %v", e.Host, e.err)
	case d.IsNotFound:
		return fmt.Sprintf("host %q is not known", e.Host)
	case d.IsTimeout:
		return fmt.Sprintf("look up host %q: no name server has answered", e.Host)
	}
	return fmt.Sprintf("look up host %q: %s", e.Host, d.Err)
}

// Unwrap returns the resolver's error.
func (e *NameError) Unwrap() error { return e.err }

// Hint says what would help.
func (e *NameError) Hint() string {
	return "is this machine online? A gateway can have its address among the profile's hosts, too (doorward profiles show)"
}

// UnreachableError says that this machine has no way to any of the gateway's addresses.
type UnreachableError struct {
	Hosts []string
	err   error
}

// Error says why.
func (e *UnreachableError) Error() string {
	if e.err == nil {
		return strings.Join(e.Hosts, ", ") + " has no address that could be knocked on"
	}
	return strings.Join(e.Hosts, ", ") + " cannot be reached: " + reason(e.err)
}

// Unwrap returns the network's error.
func (e *UnreachableError) Unwrap() error { return e.err }

// Hint says what would help.
func (e *UnreachableError) Hint() string { return "is this machine online? -4 and -6 choose a family" }

// SilentError says that nothing has answered.
type SilentError struct {
	Hosts   []string
	Tried   []netip.Addr
	Port    uint16
	UDP     bool // UDP was tried
	TCP     bool // TCP was tried
	Refused bool // a machine, or something on the way to it, says that nothing is there
	Other   bool // something that is no gateway has answered over TCP
	Within  time.Duration
}

// Error says who was asked, and where.
func (e *SilentError) Error() string {
	var tried, places []string
	for _, a := range e.Tried {
		tried = append(tried, a.String())
	}
	if e.UDP {
		places = append(places, fmt.Sprintf("%d/udp", e.Port))
	}
	if e.TCP {
		places = append(places, fmt.Sprintf("%d/tcp", e.Port))
	}
	who := strings.Join(e.Hosts, ", ")
	if list := strings.Join(tried, ", "); list != who {
		who += " (" + list + ")"
	}
	return fmt.Sprintf("no answer from %s at %s within %v", who, strings.Join(places, " and "), e.Within)
}

// Hint says what it may mean. A gateway answers no one who lacks its secrets, so that it
// cannot say.
func (e *SilentError) Hint() string {
	var may []string
	if e.Other {
		may = append(may, "this network answers in the gateway's place, until you have logged in to it with a browser")
	}
	if e.Refused {
		may = append(may, "nothing listens there: the gateway is not running, or it is another port")
	} else {
		may = append(may, "the gateway is down, or the port another")
	}
	if !e.TCP {
		may = append(may, `this network blocks UDP (its operator can add "tcp" to the gateway's carriers, and you to the profile's)`)
	}
	may = append(may, "or the gateway has new secrets: ask for a new invite, and doorward accept it")
	return "it may be that " + strings.Join(may, "; ")
}

// LostError says that the gateway was there, and has not answered the request.
type LostError struct {
	Gateway netip.AddrPort
	TCP     bool
}

// Error says where.
func (e *LostError) Error() string {
	return fmt.Sprintf("%s has begun to answer, at %d/%s, and not gone on; the door may be open",
		e.Gateway.Addr(), e.Gateway.Port(), carrier(e.TCP))
}

// Hint says what would help.
func (e *LostError) Hint() string {
	return "knock again; the gateway may be restarting or under attack, or the network loses much"
}

// StartingError says that the service behind the door was still being started.
type StartingError struct{ After time.Duration }

// Error says for how long was waited.
func (e *StartingError) Error() string {
	return fmt.Sprintf("the service behind the door is still being started after %v", e.After)
}

// Hint says what would help.
func (e *StartingError) Hint() string {
	return "wait, and knock again; the gateway's operator sees in doorward log why it takes so long"
}

// TooLongError says that a credential does not fit into what is sent.
type TooLongError struct{ TCP bool }

// Error says over what.
func (e *TooLongError) Error() string {
	return "the certificate or its signature is too long to be sent over " + strings.ToUpper(carrier(e.TCP))
}

// Hint says what would help.
func (e *TooLongError) Hint() string {
	if e.TCP {
		return "use a certificate with fewer principals and options, or an Ed25519 key and authority"
	}
	return `use an Ed25519 key, or add "tcp" to the carriers of the gateway and of the profile`
}

var errProveLate = errors.New("the key has not signed within 55s, and the gateway waits for a minute only: knock again")

// RefusedError says that the gateway has refused, and why.
type RefusedError struct {
	Reason seal.Reason
	Kind   seal.CredentialKind // that was shown
	Source netip.Addr          // where the gateway saw the visitor
	Until  time.Time           // when what the reason says changes; zero: that is not known
	// Repeated says that the answer to the same knock was lost before.
	Repeated bool

	// Shown is the key that was shown, and Door what was asked for, for people. Their owner
	// sets them; "" is told to nobody.
	Shown, Door string
}

func newRefusal(a seal.Answer, kind seal.CredentialKind, now time.Time) *RefusedError {
	e := &RefusedError{Reason: a.Reason, Kind: kind, Source: a.Source}
	if a.Left > 0 {
		e.Until = now.Add(a.Left)
	}
	return e
}

// refusals are those that are not credential's.
var refusals = map[seal.Reason]struct{ word, text string }{
	seal.NotAccepted: {"not-accepted", "the gateway does not accept %s"},
	seal.NoDoor:      {"no-door", "the gateway has no such door: name another, or none for its first"},
	seal.Spent:       {"spent", "%s was used before, and counts once: ask the gateway's operator for another"},
	seal.NotOpen:     {"not-open", "there is nothing to extend: the door is not open to you; knock without --extend"},
	seal.Unavailable: {"unavailable", "the gateway cannot open the door now; its operator sees why in doorward status"},
	seal.TooLong:     {"too-long", "the key is too long to be enrolled: accept the invite with another one, such as one of ssh-keygen -t ed25519"},
	seal.SpentInVain: {"spent-in-vain", "%s is used now, but the gateway could not open the door: cross it out; the operator sees why in doorward status"},
	seal.NotStarted:  {"not-started", "the service behind the door did not start; the gateway's operator sees why in doorward log"},
}

// credentials are what visitors show, for people.
var credentials = map[seal.CredentialKind]string{
	seal.Key: "this key", seal.Certificate: "this certificate", seal.Secret: "this machine's secret", seal.Code: "this rescue code", seal.Invite: "this invite",
}

// Word is the reason in one word, for scripts.
func (e *RefusedError) Word() string {
	if r, ok := refusals[e.Reason]; ok {
		return r.word
	}
	return credential.Reason(e.Reason).String()
}

// Error says why, and what would help.
func (e *RefusedError) Error() string {
	if e.Reason == seal.Spent && e.Repeated {
		return credentials[e.Kind] + " was used before, perhaps by this very knock, whose answer was lost: see whether the door is open"
	}
	if r, ok := refusals[e.Reason]; ok {
		return strings.ReplaceAll(r.text, "%s", credentials[e.Kind])
	}
	return credential.Refusal{Reason: credential.Reason(e.Reason), Time: e.Until}.Text()
}

// Hint says what would help, where the reason does not.
func (e *RefusedError) Hint() string {
	switch _, other := refusals[e.Reason]; {
	case e.Reason == seal.NoDoor && e.Door != "":
		return fmt.Sprintf("it was asked for %q", e.Door)
	case e.Reason == seal.NotAccepted:
		return e.unknown() + e.seen("; ")
	case other:
		return ""
	}
	return e.seen("")
}

// seen says which key the gateway was shown, and where it has seen the visitor: either may be
// another than they think.
func (e *RefusedError) seen(after string) string {
	switch {
	case e.Shown == "":
		return ""
	case !e.Source.IsValid() || e.Source.IsUnspecified():
		return after + "the gateway was shown " + e.Shown
	}
	return fmt.Sprintf("%sthe gateway was shown %s, and sees you at %s", after, e.Shown, e.Source)
}

// unknown says what would help where a credential is not accepted.
func (e *RefusedError) unknown() string {
	switch e.Kind {
	case seal.Code:
		return "is it of this gateway's sheet, and was it not crossed out?"
	case seal.Invite:
		return "it may have expired, or been withdrawn or used: ask the gateway's operator for another"
	case seal.Certificate:
		return "the gateway does not know its authority, or it has been revoked: ssh-keygen -L shows who has signed it"
	}
	return "it is not known there, or no longer: ask the gateway's operator, who finds out with doorward keys list and doorward log"
}

// nobody is the error for a race in which no path was challenged.
func (r *race) nobody() error {
	switch {
	case len(r.paths) > 0 || len(r.starts) > 0:
	case len(r.names) > 0:
		return r.names[0]
	case r.unnamed > 0:
		return &NameError{r.k.Profile.Hosts[0], &net.DNSError{IsTimeout: true}}
	}
	e := &SilentError{Hosts: r.k.Profile.Hosts, Port: r.k.Profile.Port, Within: r.k.Patience}
	var last error
	for _, p := range r.paths {
		last = cmp.Or(last, p.err)
		if p.conn == nil && !isRefused(p.err) && p.err != nil {
			continue
		}
		e.UDP, e.TCP = e.UDP || !p.stream, e.TCP || p.stream
		e.Refused = e.Refused || isRefused(p.err)
		e.Other = e.Other || errors.Is(p.err, errNotOurs)
		if a := p.at.Addr(); !slices.Contains(e.Tried, a) {
			e.Tried = append(e.Tried, a)
		}
	}
	if len(e.Tried) == 0 {
		return &UnreachableError{Hosts: r.k.Profile.Hosts, err: last}
	}
	return e
}

// WSAECONNREFUSED and WSAECONNRESET of winsock2.h, which package syscall does not map.
// For UDP, Windows reports the latter where others report ECONNREFUSED.
const (
	wsaConnReset   = syscall.Errno(10054)
	wsaConnRefused = syscall.Errno(10061)
)

func isRefused(err error) bool {
	n, ok := errors.AsType[syscall.Errno](err)
	return ok && (n == syscall.ECONNREFUSED || n == wsaConnRefused || n == wsaConnReset)
}

// reason is the operating system's own words, without the addresses that package net puts
// before them.
func reason(err error) string {
	if n, ok := errors.AsType[syscall.Errno](err); ok {
		return n.Error()
	}
	return err.Error()
}
