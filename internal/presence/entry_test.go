//go:build linux

package presence

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	realtime = `"__CURSOR":"s=e8;i=16f","__REALTIME_TIMESTAMP":"1795506601481512",`
	trusted  = `"_UID":"0","_COMM":"sshd","_EXE":"/usr/sbin/sshd",`
	says     = `"MESSAGE":"Accepted publickey for alice from 192.0.2.7 port 51122 ssh2: ED25519 SHA256:abc"`
)

// realEntries are logins as journalctl prints them.
var realEntries = map[string]string{
	"ssh.service":         `{"_SYSTEMD_UNIT":"ssh.service","_TRANSPORT":"syslog","SYSLOG_IDENTIFIER":"sshd",` + realtime + trusted + says + `}`,
	"a session's scope":   `{"_SYSTEMD_UNIT":"session-4.scope",` + realtime + trusted + says + `}`,
	"OpenSSH 9.8":         `{` + realtime + `"_UID":"0","_COMM":"sshd-session","_EXE":"/usr/lib/openssh/sshd-session",` + says + `}`,
	"upgraded meanwhile":  `{` + realtime + `"_UID":"0","_COMM":"sshd","_EXE":"/usr/sbin/sshd (deleted)",` + says + `}`,
	"Alpine with PAM":     `{` + realtime + `"_UID":"0","_COMM":"sshd-session.pa","_EXE":"/usr/lib/ssh/sshd-session.pam",` + says + `}`,
	"executable not seen": `{` + realtime + `"_UID":"0","_COMM":"sshd",` + says + `}`,
	"as bytes":            `{` + realtime + trusted + `"MESSAGE":` + asBytes("Accepted publickey for alice from 192.0.2.7 port 51122 ssh2: \xff") + `}`,
	"repeated by rsyslog": `{` + realtime + trusted + `"MESSAGE":"message repeated 2 times: [ Accepted publickey for alice from 192.0.2.7 port 51122 ssh2]"}`,
}

// otherEntries are entries that are not logins, whoever wrote them.
var otherEntries = map[string]string{
	"logger -t sshd":           `{` + realtime + `"_UID":"0","_COMM":"logger","_EXE":"/usr/bin/logger","SYSLOG_IDENTIFIER":"sshd","SYSLOG_PID":"1",` + says + `}`,
	"another user's sshd":      `{` + realtime + `"_UID":"1000","_COMM":"sshd","_EXE":"/usr/sbin/sshd",` + says + `}`,
	"a link named sshd":        `{` + realtime + `"_UID":"0","_COMM":"sshd","_EXE":"/usr/bin/su",` + says + `}`,
	"fields of one's own":      `{` + realtime + `"UID":"0","COMM":"sshd","EXE":"/usr/sbin/sshd","_uid":"0","_comm":"sshd",` + says + `}`,
	"nobody known":             `{` + realtime + says + `}`,
	"a directory":              `{` + realtime + `"_UID":"0","_COMM":"sshd","_EXE":"/usr/sbin/sshd/",` + says + `}`,
	"an executable twice":      `{` + realtime + `"_UID":"0","_COMM":"sshd","_EXE":["/usr/sbin/sshd","/bin/su"],` + says + `}`,
	"two messages":             `{` + realtime + trusted + `"MESSAGE":["Accepted password for a from 192.0.2.7 port 1 ssh2","x"]}`,
	"a message that is long":   `{` + realtime + trusted + `"MESSAGE":null}`,
	"numbers that are no byte": `{` + realtime + trusted + `"MESSAGE":[65,256]}`,
	"no message":               `{` + realtime + trusted + `"PRIORITY":"6"}`,
	"another message":          `{` + realtime + trusted + `"MESSAGE":"Invalid user Accepted password for a from 192.0.2.7 port 1 ssh2 from 192.0.2.7 port 2"}`,
	"no time":                  `{"__CURSOR":"s=1",` + trusted + says + `}`,
	"a time that is none":      `{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"-1",` + trusted + says + `}`,
	"no cursor":                `{"__REALTIME_TIMESTAMP":"1795506601481512",` + trusted + says + `}`,
	"the unprivileged child":   `{` + realtime + trusted + `"MESSAGE":"Accepted password for a from 192.0.2.7 port 1 ssh2: x [preauth]"}`,
	"the user's child":         `{` + realtime + trusted + `"MESSAGE":"Accepted password for a from 192.0.2.7 port 1 ssh2: x [postauth]"}`,
	"cut by sshd":              `{` + realtime + trusted + `"MESSAGE":"` + long(500) + `"}`,
	"a C1 control":             `{` + realtime + trusted + `"MESSAGE":"Accepted password for a\u009b from 192.0.2.7 port 1 ssh2"}`,
	"sshd -e under systemd":    `{"_TRANSPORT":"stdout",` + realtime + trusted + `"MESSAGE":"` + accepted + `"}`,
	"no entry":                 `-- No entries --`,
	"nothing":                  ``,
	"a list":                   `[]`,
	"cut":                      `{` + realtime + trusted,
}

func asBytes(s string) string {
	var n []string
	for _, b := range []byte(s) {
		n = append(n, fmt.Sprint(b))
	}
	return "[" + strings.Join(n, ",") + "]"
}

// entryLogin returns the login in a line of journalctl's output, if it is one.
func entryLogin(line string) (Login, bool) {
	e, ok := parseEntry([]byte(line))
	if !ok {
		return Login{}, false
	}
	login, what := e.login()
	return login, what == isLogin
}

func TestEntries(t *testing.T) {
	want := Login{
		Time: time.Date(2026, 11, 24, 7, 50, 1, 481512000, time.UTC), User: "alice", Method: "publickey",
		Source: netip.MustParseAddr("192.0.2.7"), Port: 51122, Where: "journal",
	}
	for name, line := range realEntries {
		got, ok := entryLogin(line)
		if d := cmp.Diff(want, got, sameTime); !ok || d != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, ok, d)
		}
	}
	for name, line := range otherEntries {
		if got, ok := entryLogin(line); ok {
			t.Errorf("%s: %+v, want no login", name, got)
		}
	}
}

// plainField returns a field's text, from what encoding/json makes of it: a string, or a
// list of bytes.
func plainField(v any) string {
	list, isList := v.([]any)
	if !isList {
		s, _ := v.(string)
		return s
	}
	var b []byte
	for _, n := range list {
		f, _ := n.(float64)
		b = append(b, byte(f))
	}
	return string(b)
}

// FuzzJournalEntry checks that a login has the right trusted fields, that a second reader
// finds the same login in the message, and that it is still a login when it is written
// again.
func FuzzJournalEntry(f *testing.F) {
	if len(realEntries) == 0 || len(otherEntries) == 0 {
		f.Fatal("no seeds")
	}
	for _, seeds := range []map[string]string{realEntries, otherEntries} {
		for _, line := range seeds {
			f.Add([]byte(line))
		}
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		login, ok := entryLogin(string(line))
		if !ok {
			return
		}
		var fields map[string]any
		if err := json.Unmarshal(line, &fields); err != nil {
			t.Fatalf("%q: a login, but the line is not JSON: %v", line, err)
		}
		name, exe := strings.Split(plainField(fields["_EXE"]), "/"), plainField(fields["_COMM"])
		if sshd := regexp.MustCompile(`^sshd(-session)?(\.pam?|\.kr(b5)?)?( \(deleted\))?$`); plainField(fields["_UID"]) != "0" || !sshd.MatchString(exe) ||
			strings.HasSuffix(exe, ")") || fields["_EXE"] != nil && !sshd.MatchString(name[len(name)-1]) {
			t.Fatalf("%q: a login that sshd did not write", line)
		}
		second, ok := secondMessage(plainField(fields["MESSAGE"]))
		second.Time, second.Where = login.Time, login.Where
		if d := cmp.Diff(second, login, sameTime); !ok || d != "" {
			t.Fatalf("%q: the message has another login, or none (%v):\n%s", line, ok, d)
		}
		if at, err := strconv.ParseInt(plainField(fields["__REALTIME_TIMESTAMP"]), 10, 64); err != nil || login.Time.UnixMicro() != at {
			t.Fatalf("%q: a login of %s", line, login.Time)
		}
		message := strings.SplitN(render(login), "]: ", 2)[1]
		again, ok := entryLogin(fmt.Sprintf(`{"__CURSOR":"x","__REALTIME_TIMESTAMP":"%d",%s"MESSAGE":%s}`,
			login.Time.UnixMicro(), trusted, asBytes(message)))
		if d := cmp.Diff(login, again, sameTime); !ok || d != "" {
			t.Fatalf("%q: rendered as %q it differs:\n%s", line, message, d)
		}
	})
}
