//go:build linux

package presence

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// cutHeader removes what a syslog daemon, or whatever else wrote the line, put before the
// message, and returns its time. A verdict that is neither isLogin nor noLogin means a
// header under which sshd's messages do not count: the message then shows whether a login
// is missed. Strangers' text always follows its program's field, so nothing before sshd's
// field may look like another program's.
func cutHeader(line string, ref time.Time) (when time.Time, message string, what verdict) {
	switch {
	case strings.HasPrefix(line, "Accepted "):
		return when, line, noStamp
	case line[0] == '{':
		message, what = cutJSON(line, ref)
		return when, message, what
	}
	st, rest, known := cutStamp(line, ref)
	switch {
	case rest == "": // not a time at all
		message, what = cutUnknown(line)
	case line[0] == '<':
		message, what = cutProtocol(rest)
	default:
		message, what = cutFields(rest)
	}
	if rest != "" && !known && what == isLogin {
		what = skippedStamp
	}
	return st.Time, message, what
}

// cutFields takes " HOST sshd[1234]: " off. Busybox's syslogd puts the facility
// and level between host and program, and writes neither these nor the host with
// -S; metalog writes " [sshd] ", and containerd "stderr F".
func cutFields(s string) (string, verdict) {
	host, s, ok := strings.Cut(strings.TrimPrefix(s, " "), " ")
	if what := program(host); what != noLogin {
		if what == isLogin {
			what = noHost
		}
		return s, what
	}
	if !ok || host == "" || strings.HasSuffix(host, ":") || strings.Contains(host, "[") {
		return "", noLogin // a line without a host begins with its program
	}
	field, s, ok := strings.Cut(s, " ")
	if ok && isPriority(field) {
		field, s, _ = strings.Cut(s, " ")
	}
	if field == "F" && (host == "stdout" || host == "stderr") {
		return s, inContainer
	}
	return s, program(field)
}

// cutProtocol removes " HOST sshd 1234 MSGID DATA ", the form of RFC 5424. The second
// space that rsyslog writes is the one before the message in RFC 3164.
func cutProtocol(s string) (string, verdict) {
	s = strings.TrimPrefix(s, " ")
	var fields [4]string
	for i, most := range []int{255, 48, 128, 32} { // section 6
		field, rest, ok := strings.Cut(s, " ")
		if !ok || field == "" || len(field) > most || strings.ContainsFunc(field, isNotGraphic) {
			return "", noLogin
		}
		fields[i], s = field, rest
	}
	s, ok := cutData(s)
	if !ok || !isSSHDName(fields[1]) {
		return "", noLogin
	}
	s = strings.TrimPrefix(strings.TrimPrefix(s, " "), "\ufeff") // MSG-UTF8
	switch number := fields[2]; {
	case number == "-":
		return s, noNumber
	case isNumber(number, maxProcess):
		return s, isLogin
	}
	return "", noLogin
}

// isNotGraphic says whether r is not one of RFC 5424's PRINTUSASCII.
func isNotGraphic(r rune) bool { return r < '!' || r > '~' }

// cutData takes RFC 5424's structured data and the space after it off: "-", or
// elements such as [ID NAME="VALUE"], in whose values a backslash stands before
// a quote, a backslash and a bracket.
func cutData(s string) (string, bool) {
	if rest, ok := strings.CutPrefix(s, "- "); ok {
		return rest, true
	}
	for strings.HasPrefix(s, "[") {
		end := strings.IndexAny(s, " ]")
		if end < len("[x") {
			return "", false
		}
		for s = s[end:]; strings.HasPrefix(s, " "); {
			name, value, ok := strings.Cut(s[1:], `="`)
			if !ok || name == "" || strings.ContainsAny(name, ` "]=`) {
				return "", false
			}
			if s, ok = cutValue(value); !ok {
				return "", false
			}
		}
		var shut bool
		if s, shut = strings.CutPrefix(s, "]"); !shut || s == "" {
			return "", false
		}
		if s[0] == ' ' {
			return s[1:], true
		}
	}
	return "", false
}

// cutValue removes a value of structured data and the quote after it.
func cutValue(s string) (string, bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i+1 < len(s) && strings.IndexByte(`"\]`, s[i+1]) >= 0 {
				i++
			}
		case ']':
			return "", false
		case '"':
			return s[i+1:], true
		}
	}
	return "", false
}

// mostWords is how many words an unknown stamp and a host may have.
const mostWords = 8

// cutUnknown removes a header whose timestamp has no known form. No word before sshd's
// field may look like another program's field: those end with a colon or are in brackets.
func cutUnknown(line string) (string, verdict) {
	if _, rest, ok := strings.Cut(line, ">1 "); ok && line[0] == '<' { // RFC 5424
		_, rest, _ = strings.Cut(rest, " ")
		message, what := cutProtocol(rest)
		if what == isLogin {
			what = oddStamp
		}
		return message, what
	}
	for range mostWords {
		word, rest, ok := strings.Cut(line, " ")
		if !ok {
			return "", noLogin
		}
		switch what := program(word); {
		case what == isLogin:
			return rest, oddStamp
		case what != noLogin:
			return rest, what
		case strings.HasSuffix(word, ":") || strings.HasPrefix(word, "["):
			return "", noLogin
		}
		line = rest
	}
	return "", noLogin
}

// cutJSON looks into the file of a container's output (docker's json-file),
// where sshd -e writes its messages, or a syslog daemon its lines.
func cutJSON(line string, ref time.Time) (string, verdict) {
	var entry struct {
		Log string `json:"log"`
	}
	if json.Unmarshal([]byte(line), &entry) != nil {
		return "", noLogin
	}
	text := strings.TrimRight(entry.Log, "\r\n")
	if text == "" || text[0] == '{' {
		return "", noLogin
	}
	_, message, what := cutHeader(text, ref)
	if what != noLogin {
		what = inContainer
	}
	return message, what
}

// program classifies a program field: isLogin for "sshd[N]:" and the like (see
// sshdNames), noNumber for "sshd:" and metalog's "[sshd]", and noLogin for anything else.
func program(field string) verdict {
	if name, ok := strings.CutSuffix(field, ":"); ok {
		if isSSHDName(name) {
			return noNumber
		}
		name, pid, _ := strings.Cut(name, "[")
		pid, ok = strings.CutSuffix(pid, "]")
		if ok && isSSHDName(name) && isNumber(pid, maxProcess) {
			return isLogin
		}
		return noLogin
	}
	name, open := strings.CutPrefix(field, "[")
	name, shut := strings.CutSuffix(name, "]")
	if open && shut && isSSHDName(name) {
		return noNumber
	}
	return noLogin
}

// sshdNames are the programs that log logins: sshd, since OpenSSH 9.8 its child,
// and what Alpine calls those built with PAM and Kerberos.
var sshdNames = []string{"sshd", "sshd-session", "sshd.pam", "sshd-session.pam", "sshd.krb5", "sshd-session.krb5"}

func isSSHDName(name string) bool { return slices.Contains(sshdNames, name) }

// maxProcess is PID_MAX_LIMIT of linux/threads.h.
const maxProcess = 1 << 22

// isPriority says whether s is one of "auth.info", "local3.notice", ..., as
// Busybox's syslogd writes it, by the names of syslog.h.
func isPriority(s string) bool {
	facility, level, _ := strings.Cut(s, ".")
	switch facility {
	case "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
		"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7":
	default:
		return false
	}
	switch level {
	case "emerg", "alert", "crit", "err", "warn", "notice", "info", "debug":
		return true
	}
	return false
}
