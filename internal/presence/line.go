//go:build linux

package presence

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/doorward/doorward/internal/legible"
)

// parseLine reads one line of a text log: stamp, host, program and number, message. It is
// a login only if the whole program field is sshd and the message is sshd's from its
// beginning; what strangers can get into other fields or lines (names, banners, other
// programs' text) is elsewhere.
//
// What rsyslog escapes (#011 for a tab) stays as it is: decoding it would put
// control characters into the operator's terminal.
func parseLine(line string, ref time.Time) (Login, verdict) {
	if !strings.Contains(line, "Accepted ") {
		return Login{}, noLogin
	}
	// A power cut can leave a run of zero bytes where a block was to be.
	line = strings.TrimRight(strings.TrimLeft(line, "\x00"), "\r")
	when, message, what := cutHeader(line, ref)
	if what == noLogin {
		return Login{}, noLogin
	}
	login, said := tell(message)
	if said == noLogin || what == isLogin {
		what = said
	}
	if what != isLogin {
		return Login{}, what
	}
	login.Time = when
	return login, isLogin
}

// cutAt is how many bytes sshd's log.c leaves of a message for syslog ("%.500s"). Whether
// such a long one came from the unprivileged child (see parseMessage) would be said in
// the part that is cut off.
const cutAt = 500

// tell classifies a message of sshd's: isLogin, noLogin or cutShort.
func tell(message string) (Login, verdict) {
	login, ok := parseMessage(message)
	switch {
	case !ok:
		return Login{}, noLogin
	case len(message) >= cutAt:
		return Login{}, cutShort
	}
	return login, isLogin
}

// parseMessage reads what OpenSSH's auth_log() writes:
//
//	Accepted METHOD[/SUBMETHOD] for USER from ADDRESS port PORT ssh2[: KEY]
//
// A user's name may have spaces: it ends at the first "from" that is followed by what has
// to follow. The text after the key comes from others, such as an identity in a
// certificate, and can contain all of that again; so could a name, but only one that
// exists here, since sshd accepts no other ("invalid user" precedes those). A user of
// such a name could appear to come from elsewhere, and would hide only their own login.
//
// A message that ends with [preauth] or [postauth] comes from the child that talks with
// the visitor, and is only passed on by the monitor, which accepts logins (monitor.c). A
// login over loopback did not come in through a door.
func parseMessage(s string) (Login, bool) {
	hidden := strings.ContainsFunc(s, isHidden)
	s, ok := strings.CutPrefix(unverbose(unrepeat(s)), "Accepted ")
	if !ok || strings.HasSuffix(s, " [preauth]") || strings.HasSuffix(s, " [postauth]") || hidden {
		return Login{}, false
	}
	method, s, ok := strings.Cut(s, " ")
	if !ok || !isMethod(method) {
		return Login{}, false
	}
	s, ok = strings.CutPrefix(s, "for ")
	if !ok || strings.HasPrefix(s, "invalid user ") {
		return Login{}, false
	}
	const from = " from "
	for i := 0; ; i += len(from) - 1 { // the space at its end may begin another
		next := strings.Index(s[i:], from)
		if next < 0 {
			return Login{}, false
		}
		i += next
		if source, port, ok := parseFrom(s[i+len(from):]); ok && i > 0 {
			login := Login{User: s[:i], Method: method, Source: source, Port: port}
			return login, !login.local()
		}
	}
}

// local says whether the login came over loopback, and not through a door.
func (l Login) local() bool { return l.Source.IsLoopback() }

// unrepeat extracts the message from rsyslog's "message repeated 2 times: [ ...]". The
// older "last message repeated 2 times" names no message; a login's is never the same
// twice anyway, since its port and process differ.
func unrepeat(s string) string {
	rest, ok := strings.CutPrefix(s, "message repeated ")
	if !ok {
		return s
	}
	times, rest, ok := strings.Cut(rest, " times: [ ")
	if !ok || !isNumber(times, 1<<32) || !strings.HasSuffix(rest, "]") {
		return s
	}
	return strings.TrimSuffix(rest, "]")
}

// unverbose removes what LogVerbose of sshd_config(5) puts before auth_log()'s messages:
// "auth.c:auth_log():298 (bin=sshd-session, pid=7): ", see log.c.
func unverbose(s string) string {
	rest, ok := strings.CutPrefix(s, "auth.c:auth_log():")
	if !ok {
		return s
	}
	_, rest, _ = strings.Cut(rest, ")")
	return strings.TrimPrefix(rest, ": ")
}

// isHidden says whether r is a control character or stands for something other than
// itself. sshd writes none: it escapes whatever is not ASCII (vis(3)).
func isHidden(r rune) bool { return !legible.Rune(r) }

// isMethod says whether s is spelt like a method of RFC 4252 as sshd writes
// it, e.g. "publickey" or "keyboard-interactive/pam".
func isMethod(s string) bool {
	for i, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r >= 'A' && r <= 'Z':
		case i > 0 && strings.ContainsRune("-_./@", r):
		default:
			return false
		}
	}
	return s != ""
}

// parseFrom reads "ADDRESS port PORT ssh2", alone or followed by ": " and more.
// sshd writes UNKNOWN for a peer without an address (a pipe, a proxy command).
func parseFrom(s string) (from netip.Addr, port uint16, ok bool) {
	address, s, _ := strings.Cut(s, " ")
	s, ok = strings.CutPrefix(s, "port ")
	if !ok {
		return netip.Addr{}, 0, false
	}
	number, s, ok := strings.Cut(s, " ")
	if !ok || !isNumber(number, 65535) || s != "ssh2" && !strings.HasPrefix(s, "ssh2: ") {
		return netip.Addr{}, 0, false
	}
	n, _ := strconv.ParseUint(number, 10, 16)
	if address == "UNKNOWN" {
		return netip.Addr{}, uint16(n), true
	}
	a, err := netip.ParseAddr(address)
	return a.Unmap(), uint16(n), err == nil
}

// isNumber says whether s is a number from 1 to most in plain digits.
func isNumber(s string, most uint64) bool {
	n, err := strconv.ParseUint(s, 10, 64)
	return err == nil && n >= 1 && n <= most && s[0] != '+' && s[0] != '0'
}
