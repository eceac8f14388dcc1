//go:build linux

package presence

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var sameTime = cmp.Options{
	cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

var eight = time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)

// realLines are logins as the daemons of the distributions write them.
var realLines = []struct {
	name, line string
	user       string
	method     string
	source     string
}{
	{"Debian 11", "Nov 24 07:50:01 gate sshd[1234]: Accepted publickey for alice from 192.0.2.7 port 51122 ssh2: ED25519 SHA256:0pE6eOq8zOvG2CkKqf5cVtXUu0yB1x4a7F8y2Zq3V1k", "alice", "publickey", "192.0.2.7"},
	{"Debian 12", "2026-11-24T07:50:01.481512+00:00 gate sshd[1234]: Accepted password for alice from 192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"OpenSSH 9.8", "2026-11-24T07:50:01.481512+00:00 gate sshd-session[1234]: Accepted password for alice from 192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"RHEL 3", "Nov 24 07:50:01 gate sshd[1234]: Accepted password for alice from ::ffff:192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"RHEL 9", "Nov 24 07:50:01 gate sshd[1234]: Accepted keyboard-interactive/pam for alice from 2001:db8::7 port 51122 ssh2", "alice", "keyboard-interactive/pam", "2001:db8::7"},
	{"Alpine", "Nov 24 07:50:01 gate auth.info sshd[1234]: Accepted publickey for alice from 192.0.2.7 port 51122 ssh2: RSA SHA256:abc", "alice", "publickey", "192.0.2.7"},
	{"Alpine with PAM", "Nov 24 07:50:01 gate auth.info sshd.pam[1234]: Accepted publickey for alice from 192.0.2.7 port 51122 ssh2: RSA SHA256:abc", "alice", "publickey", "192.0.2.7"},
	{"Alpine with PAM, OpenSSH 10", "Nov 24 07:50:01 gate auth.info sshd-session.pam[1234]: Accepted publickey for alice from 192.0.2.7 port 51122 ssh2: RSA SHA256:abc", "alice", "publickey", "192.0.2.7"},
	{"Alpine with Kerberos", "Nov 24 07:50:01 gate auth.info sshd.krb5[1234]: Accepted gssapi-with-mic for alice from 192.0.2.7 port 51122 ssh2: alice@EXAMPLE.ORG", "alice", "gssapi-with-mic", "192.0.2.7"},
	{"LogVerbose", "Nov 24 07:50:01 gate sshd[1234]: auth.c:auth_log():298 (pid=1234): Accepted password for alice from 192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"LogVerbose, OpenSSH 9.8", "Nov 24 07:50:01 gate sshd-session[1234]: auth.c:auth_log():330 (bin=sshd-session, pid=1234): Accepted password for alice from 192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"journalctl short-iso", "2026-11-24T08:50:01+0100 gate sshd[1234]: Accepted none for alice from 192.0.2.7 port 51122 ssh2", "alice", "none", "192.0.2.7"},
	{"a host by address", "Nov 24 07:50:01 2001:db8::1 sshd[1234]: Accepted hostbased for alice from 192.0.2.7 port 22 ssh2: RSA SHA256:abc, client user \"alice\", client host \"x\"", "alice", "hostbased", "192.0.2.7"},
	{"kerberos", "Nov 24 07:50:01 gate sshd[1234]: Accepted gssapi-with-mic for alice from 192.0.2.7 port 51122 ssh2: alice@EXAMPLE.ORG", "alice", "gssapi-with-mic", "192.0.2.7"},
	{"a certificate", "Nov 24 07:50:01 gate sshd[1234]: Accepted publickey for alice from 192.0.2.7 port 51122 ssh2: ED25519-CERT SHA256:abc ID alice from 203.0.113.1 port 22 ssh2 (serial 0) CA ED25519 SHA256:def", "alice", "publickey", "192.0.2.7"},
	{"link-local", "Nov 24 07:50:01 gate sshd[1234]: Accepted password for alice from fe80::1%eth0 port 51122 ssh2", "alice", "password", "fe80::1%eth0"},
	{"no address", "Nov 24 07:50:01 gate sshd[1234]: Accepted password for alice from UNKNOWN port 65535 ssh2", "alice", "password", ""},
	{"RFC 5424, rsyslog", "<38>1 2026-11-24T07:50:01.972650+00:00 gate sshd 40 - -  Accepted publickey for alice from 192.0.2.7 port 51122 ssh2: ED25519 SHA256:abc", "alice", "publickey", "192.0.2.7"},
	{"RFC 5424, syslog-ng", "<38>1 2026-11-24T07:50:01+00:00 gate sshd 40 - [meta sequenceId=\"3\"] Accepted password for alice from 192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"RFC 5424, OpenSSH 9.8", "<86>1 2026-11-24T07:50:01Z - sshd-session 4194304 ID47 - Accepted password for alice from 192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"RFC 5424, a mark of its encoding", "<86>1 2026-11-24T07:50:01Z - sshd 40 - - \ufeffAccepted password for alice from 192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"RFC 5424, escapes", "<0>1 2026-11-24T07:50:01Z gate sshd 40 - [a@1 b=\"\\\"\\]\\\\ \\n[x y\" c=\"\"][origin] Accepted password for alice from 192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"RFC 5424, repeated", "<38>1 2026-11-24T07:50:01.972650+00:00 gate sshd 40 - -  message repeated 2 times: [ Accepted password for alice from 192.0.2.7 port 51122 ssh2]", "alice", "password", "192.0.2.7"},
	{"Busybox, another facility", "Nov 24 07:50:01 gate local3.info sshd[32]: Accepted password for alice from 192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"syslog-ng, thousandths", "Nov 24 07:50:01.123 gate sshd[32]: Accepted password for alice from 192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"a certificate that spells a source", "Nov 24 07:50:01 gate sshd[1234]: Accepted publickey for alice from 192.0.2.7 port 51122 ssh2: ED25519-CERT SHA256:abc ID x from 127.0.0.1 port 22 ssh2: y (serial 0) CA ED25519 SHA256:def", "alice", "publickey", "192.0.2.7"},
	{"a certificate that ends so", "Nov 24 07:50:01 gate sshd[1234]: Accepted publickey for alice from 192.0.2.7 port 51122 ssh2: alice@EXAMPLE from 203.0.113.1 port 22 ssh2", "alice", "publickey", "192.0.2.7"},
	{"as long as sshd leaves whole", "Nov 24 07:50:01 gate sshd[1]: " + long(499), "root", "publickey", "203.0.113.1"},
	{"a name with spaces", "Nov 24 07:50:01 gate sshd[1234]: Accepted password for EXAMPLE\\alice b from 192.0.2.7 port 51122 ssh2", "EXAMPLE\\alice b", "password", "192.0.2.7"},
	{"a name that spells an address", "Nov 24 07:50:01 gate sshd[1234]: Accepted password for alice from 203.0.113.1 port 22 from 192.0.2.7 port 51122 ssh2", "alice from 203.0.113.1 port 22", "password", "192.0.2.7"},
	{"a name that spells it all", "Nov 24 07:50:01 gate sshd[1234]: Accepted password for a from 203.0.113.1 port 22 ssh2 from 192.0.2.7 port 51122 ssh2", "a from 203.0.113.1 port 22 ssh2", "password", "192.0.2.7"},
	{"repeated", "Nov 24 07:50:01 gate sshd[1234]: message repeated 2 times: [ Accepted password for alice from 192.0.2.7 port 51122 ssh2]", "alice", "password", "192.0.2.7"},
	{"after a power cut", "\x00\x00\x00Nov 24 07:50:01 gate sshd[1234]: Accepted password for alice from 192.0.2.7 port 51122 ssh2", "alice", "password", "192.0.2.7"},
	{"with a carriage return", "Nov 24 07:50:01 gate sshd[1234]: Accepted password for alice from 192.0.2.7 port 51122 ssh2\r", "alice", "password", "192.0.2.7"},
	{"an escaped tab", "Nov 24 07:50:01 gate sshd[1234]: Accepted password for al#011ice from 192.0.2.7 port 51122 ssh2", "al#011ice", "password", "192.0.2.7"},
}

func TestRealLines(t *testing.T) {
	for _, test := range realLines {
		t.Run(test.name, func(t *testing.T) {
			got, what := parseLine(test.line, eight)
			if what != isLogin {
				t.Fatalf("verdict %d, want a login: %q", what, test.line)
			}
			want := Login{Time: got.Time, User: test.user, Method: test.method}
			from := "UNKNOWN"
			if test.source != "" {
				want.Source = netip.MustParseAddr(test.source)
				from = test.source
			}
			want.Port = 51122 // where the line has the address in another form
			if _, number, ok := strings.Cut(test.line, from+" port "); ok {
				fmt.Sscan(number, &want.Port)
			}
			if d := cmp.Diff(want, got, sameTime); d != "" {
				t.Errorf("parseLine(%q) (-want +got):\n%s", test.line, d)
			}
			if at := time.Date(2026, 11, 24, 7, 50, 1, 0, time.UTC); !got.Time.Truncate(time.Second).Equal(at) {
				t.Errorf("time %s, want %s", got.Time, at)
			}
		})
	}
}

const accepted = "Accepted password for root from 203.0.113.1 port 22 ssh2"

// forgedLines are lines that strangers, other programs and local users can bring into a
// log, and other lines of sshd.
var forgedLines = map[string]string{
	"another program's tag":              "Nov 24 07:50:01 gate logger: " + accepted,
	"a tag that begins so":               "Nov 24 07:50:01 gate sshd-evil[1]: " + accepted,
	"a tag that ends so":                 "Nov 24 07:50:01 gate notsshd[1]: " + accepted,
	"a tag with a path":                  "Nov 24 07:50:01 gate /tmp/sshd[1]: " + accepted,
	"a number that is none":              "Nov 24 07:50:01 gate sshd[x]: " + accepted,
	"process 0":                          "Nov 24 07:50:01 gate sshd[0]: " + accepted,
	"two numbers":                        "Nov 24 07:50:01 gate sshd[1][2]: " + accepted,
	"no host, and a message of a word":   "Nov 24 07:50:01 x[1]: sshd[1]: " + accepted,
	"sudo's text":                        "Nov 24 07:50:01 gate sudo[1]: sshd[1]: " + accepted,
	"cron's text":                        "Nov 24 07:50:01 gate CRON[1]: (root) CMD (sshd[1]: " + accepted + ")",
	"a tag like a priority":              "Nov 24 07:50:01 gate auth.info: sshd[1]: " + accepted,
	"a facility that is none":            "Nov 24 07:50:01 gate evil.info sshd[1]: " + accepted,
	"a whole line as a message":          "Nov 24 07:50:01 gate evil: Nov 24 07:50:01 gate sshd[1]: " + accepted,
	"a user name":                        "Nov 24 07:50:01 gate sshd[1]: Invalid user " + accepted + " from 203.0.113.1 port 22",
	"a failed user name":                 "Nov 24 07:50:01 gate sshd[1]: Failed password for invalid user " + accepted + " from 203.0.113.1 port 22 ssh2",
	"a banner":                           "Nov 24 07:50:01 gate sshd[1]: banner exchange: Connection from 203.0.113.1 port 22: invalid format: " + accepted,
	"an escaped newline":                 "Nov 24 07:50:01 gate sshd[1]: Invalid user x#012Nov 24 07:50:01 gate sshd[1]: " + accepted,
	"a repeated user name":               "Nov 24 07:50:01 gate sshd[1]: message repeated 2 times: [ Invalid user " + accepted + "]",
	"repeated, unfinished":               "Nov 24 07:50:01 gate sshd[1]: message repeated 2 times: [ " + accepted,
	"last message repeated":              "Nov 24 07:50:01 gate last message repeated 2 times " + accepted,
	"an accepted key, no login":          "Nov 24 07:50:01 gate sshd[1]: Accepted key ED25519 SHA256:abc found at /root/.ssh/authorized_keys:1",
	"an accepted certificate, no login":  "Nov 24 07:50:01 gate sshd[1]: Accepted certificate ID \"for root from 203.0.113.1 port 22 ssh2\" (serial 0) signed by ED25519 CA SHA256:abc",
	"postponed":                          "Nov 24 07:50:01 gate sshd[1]: Postponed publickey for root from 203.0.113.1 port 22 ssh2",
	"partial":                            "Nov 24 07:50:01 gate sshd[1]: Partial publickey for root from 203.0.113.1 port 22 ssh2",
	"an invalid user":                    "Nov 24 07:50:01 gate sshd[1]: Accepted password for invalid user root from 203.0.113.1 port 22 ssh2",
	"nobody":                             "Nov 24 07:50:01 gate sshd[1]: Accepted password for  from 203.0.113.1 port 22 ssh2",
	"cut before its end":                 "Nov 24 07:50:01 gate sshd[1]: Accepted password for root from 203.0.113.1 port 22 ss",
	"cut in the port":                    "Nov 24 07:50:01 gate sshd[1]: Accepted password for root from 203.0.113.1 port 2",
	"a port that is none":                "Nov 24 07:50:01 gate sshd[1]: Accepted password for root from 203.0.113.1 port 65536 ssh2",
	"an address that is none":            "Nov 24 07:50:01 gate sshd[1]: Accepted password for root from 203.0.113.256 port 22 ssh2",
	"a protocol that is none":            "Nov 24 07:50:01 gate sshd[1]: Accepted password for root from 203.0.113.1 port 22 ssh22",
	"a control character":                "Nov 24 07:50:01 gate sshd[1]: Accepted password for ro\x1bot from 203.0.113.1 port 22 ssh2",
	"a message that is indented":         "Nov 24 07:50:01 gate sshd[1]:  " + accepted,
	"LogVerbose, another function":       "Nov 24 07:50:01 gate sshd[1]: auth.c:fakepw():298 (pid=1): " + accepted,
	"LogVerbose, a failed one":           "Nov 24 07:50:01 gate sshd[1]: auth.c:auth_log():298 (pid=1): Failed password for invalid user ): " + accepted + " from 203.0.113.1 port 22 ssh2",
	"LogVerbose, the unprivileged child": "Nov 24 07:50:01 gate sshd[1]: auth.c:auth_log():298 (pid=1): " + accepted + " [preauth]",
	"a tag with another ending":          "Nov 24 07:50:01 gate sshd.evil[1]: " + accepted,
	"text before it":                     "Nov 24 07:50:01 gate sshd[1]: not " + accepted,
	"the unprivileged child":             "Nov 24 07:50:01 gate sshd[1]: " + accepted + " [preauth]",
	"the unprivileged child, a key":      "Nov 24 07:50:01 gate sshd[1]: " + accepted + ": RSA SHA256:abc [preauth]",
	"the user's child":                   "Nov 24 07:50:01 gate sshd[1]: " + accepted + ": RSA SHA256:abc [postauth]",
	"the unprivileged child, repeated":   "Nov 24 07:50:01 gate sshd[1]: message repeated 2 times: [ " + accepted + ": x [preauth]]",
	"a C1 control":                       "Nov 24 07:50:01 gate sshd[1]: Accepted password for ro\u009bot from 203.0.113.1 port 22 ssh2",
	"a line separator":                   "Nov 24 07:50:01 gate sshd[1]: Accepted password for ro\u2028ot from 203.0.113.1 port 22 ssh2",
	"writing turned round":               "Nov 24 07:50:01 gate sshd[1]: Accepted password for ro\u202eot from 203.0.113.1 port 22 ssh2",
	"loopback":                           "Nov 24 07:50:01 gate sshd[1]: Accepted password for root from 127.0.0.1 port 22 ssh2",
	"loopback, IPv6":                     "Nov 24 07:50:01 gate sshd[1]: Accepted password for root from ::1 port 22 ssh2",
	"a user name under no stamp":         "Invalid user " + accepted + " from 203.0.113.1 port 22",
	"a user name under no host":          "Nov 24 07:50:01 sshd[1]: Invalid user sshd[1]: " + accepted + ": from 203.0.113.1 port 22",
	"a user name under no number":        "Nov 24 07:50:01 gate sshd: Invalid user sshd: " + accepted + ": x",
	"another's text under no number":     "Nov 24 07:50:01 gate sudo: sshd: " + accepted,
	"another's tag of brackets":          "Nov 24 07:50:01 gate evil: [sshd] " + accepted,
	"metalog, another program":           "Nov 24 07:50:01 [evil] " + accepted,
	"metalog, another program's text":    "Nov 24 07:50:01 [evil] sshd[1]: " + accepted,
	"metalog, a user name":               "Nov 24 07:50:01 [sshd] Invalid user sshd[1]: " + accepted + ": x",
	"containerd, another text":           "2026-11-24T07:50:01Z stderr F Invalid user " + accepted + ": x",
	"docker, a user name":                `{"log":"Invalid user ` + accepted + `: x\n","stream":"stderr","time":"2026-11-24T07:50:01Z"}`,
	"docker, another program":            `{"log":"Nov 24 07:50:01 gate evil[1]: ` + accepted + `\n","stream":"stderr","time":"2026-11-24T07:50:01Z"}`,
	"docker, another field":              `{"log":"x","attrs":{"log":"` + accepted + `"},"name":"` + accepted + `"}`,
	"docker, cut":                        `{"log":"` + accepted + `\n","stre`,
	"docker in docker":                   `{"log":"{\"log\":\"` + accepted + `\"}","stream":"stderr"}`,
	"an unknown stamp, a longer name":    "2026/11/24 07:50:01 gate sshd[1]: Invalid user sshd[1]: " + accepted + ": from 203.0.113.1 port 22",
	"an unknown stamp, a banner":         "2026/11/24 07:50:01 gate evil: sshd[1]: " + accepted + ": x",
	"an unknown stamp, another's number": "2026/11/24 07:50:01 gate evil[2]: sshd[1]: " + accepted + ": x",
	"an unknown stamp, brackets":         "2026/11/24 07:50:01 [evil] sshd[1]: " + accepted + ": x",
	"an unknown stamp, many words":       "2026/11/24 07:50:01 somebody said that it is so and then came sshd[1]: " + accepted + ": x",
	"RFC 5424, another program":          "<38>1 2026-11-24T07:50:01Z gate evil 40 - -  " + accepted,
	"RFC 5424, a message like a header":  "<38>1 2026-11-24T07:50:01Z gate evil 40 - -  sshd[1]: " + accepted,
	"RFC 5424, a tag like another":       "<38>1 2026-11-24T07:50:01Z gate sshd-evil 40 - -  " + accepted,
	"RFC 5424, a number that is none":    "<38>1 2026-11-24T07:50:01Z gate sshd x - -  " + accepted,
	"RFC 5424, process 0":                "<38>1 2026-11-24T07:50:01Z gate sshd 0 - -  " + accepted,
	"RFC 5424, data that does not end":   "<38>1 2026-11-24T07:50:01Z gate sshd 40 - [a b=\"c\\\"] " + accepted + "\"",
	"RFC 5424, text in its data":         "<38>1 2026-11-24T07:50:01Z gate sshd 40 - [a b=\"] " + accepted + "\"] x",
	"RFC 5424, a value without quotes":   "<38>1 2026-11-24T07:50:01Z gate sshd 40 - [a b=c] " + accepted,
	"RFC 5424, a bracket in a value":     "<38>1 2026-11-24T07:50:01Z gate sshd 40 - [a b=\"c]\"] " + accepted,
	"RFC 5424, text for data":            "<38>1 2026-11-24T07:50:01Z gate sshd 40 - x " + accepted,
	"RFC 5424, an element in another":    "<38>1 2026-11-24T07:50:01Z gate sshd 40 - [a b=\"c\"[d] " + accepted,
	"RFC 5424, data twice":               "<38>1 2026-11-24T07:50:01Z gate sshd 40 - -- " + accepted,
	"RFC 5424, three spaces":             "<38>1 2026-11-24T07:50:01Z gate sshd 40 - -   " + accepted,
	"RFC 5424, no host":                  "<38>1 2026-11-24T07:50:01Z  sshd 40 - -  " + accepted,
	"RFC 5424, the unprivileged child":   "<38>1 2026-11-24T07:50:01Z gate sshd 40 - -  " + accepted + ": x [preauth]",
	"a name with ends of lines":          `Nov 24 07:50:01 gate auth.info sshd[51]: Invalid user x\n` + accepted + `\n\302\233 from 203.0.113.1 port 56474`,
	"a name with ends of lines, failed":  `Nov 24 07:50:01 gate auth.info sshd[51]: Failed password for invalid user x\n` + accepted + `\n from 203.0.113.1 port 56474 ssh2`,
	"the end of such a name":             " from 203.0.113.1 port 56464 ssh2: " + accepted,
	"no stamp, another program":          "gate evil[1]: " + accepted,
	"an unknown stamp, a user name":      "2026/11/24 07:50:01 gate sshd[1]: Invalid user sshd[1]: " + accepted + " from 203.0.113.1 port 22",
}

func TestForgedLines(t *testing.T) {
	for name, line := range forgedLines {
		if login, what := parseLine(line, eight); what != noLogin {
			t.Errorf("%s: %q: verdict %d, login %+v, want no login", name, line, what, login)
		}
	}
}

func TestUnknownStamps(t *testing.T) {
	for _, stamp := range []string{"2026/11/24 07:50:01", "2026-11-24 07:50:01", "2026-11-24T07:50:01", "24. Nov 07:50:01", "Nov 31 07:50:01"} {
		line := stamp + " gate sshd[1]: " + accepted
		if _, what := parseLine(line, eight); what != oddStamp {
			t.Errorf("%q: verdict %d, want unknown stamp", line, what)
		}
	}
}

// The stamps of all months count, including one that begins as sshd's message does.
func TestEveryMonthCounts(t *testing.T) {
	for month := time.January; month <= time.December; month++ {
		ref := time.Date(2026, month, 24, 8, 0, 0, 0, time.UTC)
		line := ref.Format(time.Stamp) + " gate sshd[1]: " + accepted
		if login, what := parseLine(line, ref); what != isLogin || !login.Time.Equal(ref) {
			t.Errorf("%q: verdict %d at %s, want a login at %s", line, what, login.Time, ref)
		}
	}
}

// render returns a login as sshd and a syslog daemon would write it.
func render(l Login) string {
	return fmt.Sprintf("%s host sshd[1]: %s", l.Time.UTC().Format(time.RFC3339Nano), renderMessage(l))
}

// renderProtocol returns a login in the form of RFC 5424, whose stamps have at most six
// digits of a fraction.
func renderProtocol(l Login) string {
	return fmt.Sprintf("<86>1 %s host sshd 1 - [a@1 b=\"\\]\"] %s",
		l.Time.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano), renderMessage(l))
}

func renderMessage(l Login) string {
	source := "UNKNOWN"
	if l.Source.IsValid() {
		source = l.Source.String()
	}
	return fmt.Sprintf("Accepted %s for %s from %s port %d ssh2", l.Method, l.User, source, l.Port)
}

// FuzzLine checks that a line is a login if and only if a second reader finds the same
// one, and that it is still that login when it is written again.
func FuzzLine(f *testing.F) {
	seeds := 0
	add := func(line string) {
		seeds++
		f.Add(line)
	}
	for _, l := range realLines {
		add(l.line)
	}
	for _, line := range forgedLines {
		add(line)
	}
	for _, l := range unknownHeaders {
		add(l.line)
	}
	add(`{"log":"` + accepted + `","log":null,"time":1e999}`)
	if seeds < len(realLines)+len(forgedLines) || len(realLines) == 0 || len(forgedLines) == 0 {
		f.Fatalf("only %d seeds", seeds)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.ContainsRune(line, '\n') {
			t.Skip("a line ends with its newline")
		}
		login, what := parseLine(line, eight)
		second, ok := secondReading(line)
		if what != isLogin {
			_, _, known := cutStamp(strings.TrimLeft(line, "\x00"), eight)
			if ok && known {
				t.Fatalf("%q: verdict %d, but the second reader has %+v", line, what, second)
			}
			if what != noLogin && !missesLogin(line, what) {
				t.Fatalf("%q: verdict %d, but there is no reason for a warning", line, what)
			}
			return
		}
		second.Time = login.Time
		if d := cmp.Diff(second, login, sameTime); !ok || d != "" {
			t.Fatalf("%q: the two readers disagree about the login (%v):\n%s", line, ok, d)
		}
		for _, again := range []string{render(login), renderProtocol(login)} {
			got, what := parseLine(again, eight)
			got.Time = login.Time
			if d := cmp.Diff(login, got, sameTime); what != isLogin || d != "" {
				t.Fatalf("%q: rendered as %q it is no login (%d), or another:\n%s", line, again, what, d)
			}
		}
	})
}

// wordForm matches a word that ends another program's header, or one of metalog.
var wordForm = regexp.MustCompile(`(?:^|[ >])[^ ]*:$|^\[`)

// missesLogin reports whether a line that causes a warning has a login that begins after
// sshd's program field, or at the beginning of the line, with no other program's field
// before it.
func missesLogin(line string, what verdict) bool {
	line = strings.TrimRight(strings.TrimLeft(line, "\x00"), "\r")
	if what == inContainer && strings.HasPrefix(line, "{") {
		// Token by token, since a key may be there twice, the second time with null; and
		// numbers may be of any size.
		dec, key := json.NewDecoder(strings.NewReader(line)), ""
		dec.UseNumber()
		for json.Valid([]byte(line)) {
			token, err := dec.Token()
			text, _ := token.(string)
			if found := strings.EqualFold(key, "log") && strings.Contains(text, "Accepted "); found || err != nil {
				return found
			}
			key = text
		}
		return false
	}
	protocol := strings.HasPrefix(line, "<") && strings.Contains(line, ">1 ") // its data may have any word
	words := strings.Split(line, " ")
	for i, word := range words {
		message := strings.TrimPrefix(strings.TrimPrefix(strings.Join(words[i:], " "), " "), "\ufeff")
		if _, ok := secondMessage(message); ok && (what != cutShort || len(message) >= 500) {
			return true
		}
		if sshd := strings.Contains(word, "sshd"); !sshd && what != cutShort && !protocol && wordForm.MatchString(word) {
			return false
		}
	}
	return false
}
