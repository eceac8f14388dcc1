//go:build linux

package presence

import "fmt"

// verdict classifies a line of a log.
type verdict uint8

const (
	noLogin verdict = iota
	isLogin
	// The others are sshd's logins that do not count; see uncounted.
	oddStamp     // its time is not known
	skippedStamp // its stamp is a time that the clock skipped
	noStamp      // neither timestamp nor program
	noHost
	noNumber    // anybody's line could look like it
	inContainer // a container's output
	cutShort    // sshd did not write it whole
	verdicts    // how many there are
)

// uncounted says, for people, why logins do not count, and what to do. Only the verdicts
// about the timestamp show the line: there the header is certainly sshd's, while a
// stranger's name can begin a line of what sshd -E writes.
var uncounted = [verdicts]string{
	oddStamp: `logins do not count, since their stamp is in no known form (known are "Nov  2 07:50:01", ` +
		`"2026-11-02T07:50:01+01:00" and RFC 5424's): %q`,
	skippedStamp: `logins do not count, since their stamp is in an hour that the clocks here skipped: restart the ` +
		`syslog daemon, whose time zone seems to be another: %q`,
	noStamp: `logins do not count, since their lines have no stamp and no program ("Accepted password for ...", as ` +
		`sshd -E and sshd -e write; a visitor's name can spell any line there): start sshd without these, and name ` +
		`the file that syslog then writes`,
	noHost: `logins do not count, since their lines name no host ("Nov  2 07:50:01 sshd[32]: ...", as Busybox's ` +
		`syslogd -S writes): start it without -S`,
	noNumber: `logins do not count, since their lines have no process number ("gate sshd: ...", or metalog's "[sshd] ..."): ` +
		`have the syslog daemon write "Nov  2 07:50:01 gate sshd[32]: ..."`,
	inContainer: `logins do not count, since it is a container's output: ` +
		`have the container's sshd log to syslog, and name the file that syslog writes`,
	cutShort: `logins do not count, since sshd cut their lines at 500 bytes, and who said them stands behind: ` +
		`give certificates shorter identities`,
}

// oddities are the logins of a file that do not count: the first line of each
// verdict. The zero value has none.
type oddities [verdicts]string

// add notes line, if it is the first of its verdict.
func (o *oddities) add(what verdict, line []byte) {
	if o[what] == "" {
		o[what] = quote(line)
	}
}

// warnings returns what was noted, for people; later lines do not change it.
func (o *oddities) warnings(name string) []string {
	var w []string
	for what, line := range o {
		switch verdict(what) {
		case noLogin, isLogin:
			continue
		case oddStamp, skippedStamp:
			if line != "" {
				w = append(w, name+": "+fmt.Sprintf(uncounted[what], line))
			}
		default:
			if line != "" {
				w = append(w, name+": "+uncounted[what])
			}
		}
	}
	return w
}
