//go:build linux

package presence

import (
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// verdict says what a line of a log is.
type verdict uint8

const (
	noLogin verdict = iota
	isLogin
	oddStamp // sshd's login, but when it was cannot be told
)

// parseLine reads one line of a text log: stamp, host, program and number,
// message. It is a login only if sshd is the whole program field and the
// message begins with it; what strangers can bring into other fields of other
// lines (names, banners, other programs' text) stands elsewhere.
//
// What rsyslog escapes (#011 for a tab) stays as it is: decoding it would put
// control characters into the operator's terminal.
func parseLine(line string, ref time.Time) (Login, verdict) {
	if !strings.Contains(line, "Accepted ") {
		return Login{}, noLogin
	}
	// A power cut can leave a run of zero bytes where a block was to be.
	line = strings.TrimRight(strings.TrimLeft(line, "\x00"), "\r")
	when, rest, known := cutStamp(line, ref)
	if !known {
		return Login{}, withoutStamp(line)
	}
	message, ok := cutHeader(rest)
	if !ok {
		return Login{}, noLogin
	}
	login, ok := parseMessage(message)
	if !ok {
		return Login{}, noLogin
	}
	login.Time = when.Time
	return login, isLogin
}

// withoutStamp says whether a line whose beginning is not understood would be
// a login otherwise.
func withoutStamp(line string) verdict {
	i := strings.Index(line, "]: Accepted ")
	if i < 0 {
		return noLogin
	}
	program := line[strings.LastIndexByte(line[:i], ' ')+1 : i+len("]:")]
	if _, ok := parseMessage(line[i+len("]: "):]); !ok || !isSSHD(program) {
		return noLogin
	}
	return oddStamp
}

// cutHeader takes " HOST sshd[1234]: " off and returns the message. Busybox's
// syslogd puts the facility and level between host and program.
func cutHeader(s string) (string, bool) {
	s, ok := strings.CutPrefix(s, " ")
	if !ok {
		return "", false
	}
	host, s, ok := strings.Cut(s, " ")
	if !ok || host == "" || strings.HasSuffix(host, ":") || strings.Contains(host, "[") {
		return "", false // a line without a host begins with its program
	}
	program, s, ok := strings.Cut(s, " ")
	if ok && isPriority(program) {
		program, s, ok = strings.Cut(s, " ")
	}
	return s, ok && isSSHD(program)
}

// isPriority says whether s is one of "auth.info", "authpriv.notice", ..., as
// Busybox's syslogd writes it.
func isPriority(s string) bool {
	facility, level, ok := strings.Cut(s, ".")
	if !ok || facility != "auth" && facility != "authpriv" && facility != "daemon" && facility != "user" {
		return false
	}
	switch level {
	case "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug":
		return true
	}
	return false
}

// isSSHD says whether a program field is "sshd[N]:" or "sshd-session[N]:";
// since OpenSSH 9.8 the latter logs logins.
func isSSHD(field string) bool {
	name, pid, ok := strings.Cut(field, "[")
	if !ok || !isSSHDName(name) {
		return false
	}
	pid, ok = strings.CutSuffix(pid, "]:")
	return ok && isNumber(pid, 1<<22) // PID_MAX_LIMIT of linux/threads.h
}

func isSSHDName(name string) bool { return name == "sshd" || name == "sshd-session" }

// isNumber says whether s is a number from 1 to most in plain digits.
func isNumber(s string, most uint64) bool {
	n, err := strconv.ParseUint(s, 10, 64)
	return err == nil && n >= 1 && n <= most && s[0] != '+' && s[0] != '0'
}

// parseMessage reads what OpenSSH's auth_log() writes:
//
//	Accepted METHOD[/SUBMETHOD] for USER from ADDRESS port PORT ssh2[: KEY]
//
// A user's name may have spaces, and so may spell the rest of it: it ends at
// the last "from" that what is due follows. Should the identity in a
// certificate, which follows the key, spell all that, then USER is longer and
// ADDRESS is the certificate's word; that it is a login stays true.
func parseMessage(s string) (Login, bool) {
	s, ok := strings.CutPrefix(unrepeat(s), "Accepted ")
	if !ok || strings.ContainsFunc(s, isControl) {
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
	for i := strings.LastIndex(s, " from "); i > 0; i = strings.LastIndex(s[:i], " from ") {
		if source, ok := parseFrom(s[i+len(" from "):]); ok {
			return Login{User: s[:i], Method: method, Source: source}, true
		}
	}
	return Login{}, false
}

// unrepeat takes the message out of rsyslog's "message repeated 2 times: [ ...]".
// The older "last message repeated 2 times" names no message; a login's is
// never the same twice anyway, since its port and process differ.
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

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

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
func parseFrom(s string) (netip.Addr, bool) {
	address, s, _ := strings.Cut(s, " ")
	s, ok := strings.CutPrefix(s, "port ")
	if !ok {
		return netip.Addr{}, false
	}
	number, s, ok := strings.Cut(s, " ")
	if !ok || !isNumber(number, 65535) || s != "ssh2" && !strings.HasPrefix(s, "ssh2: ") {
		return netip.Addr{}, false
	}
	if address == "UNKNOWN" {
		return netip.Addr{}, true
	}
	a, err := netip.ParseAddr(address)
	return a.Unmap(), err == nil
}
