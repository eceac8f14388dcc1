//go:build linux

package presence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// auto is the first place that has log data. The journal comes first, since
// its trusted fields tell who wrote an entry, but only where journald runs: an
// image may bring a journal of long ago. Then the text logs of the Debian and
// the Red Hat families, and Busybox's syslogd's (Alpine), which puts all into
// one file.
type auto struct {
	socket  string // journald's; it runs where this exists
	journal source
	logs    []source
	found   source   // nil until a place had data
	note    []string // why it is not one that comes before it, if that is odd
}

func newAuto() *auto {
	a := &auto{socket: "/run/systemd/journal/socket", journal: newJournal()}
	for _, path := range []string{"/var/log/auth.log", "/var/log/secure", "/var/log/messages"} {
		a.logs = append(a.logs, newFiles([]string{path}))
	}
	return a
}

func (a *auto) String() string {
	if a.found != nil {
		return a.found.String()
	}
	return "auto (nothing found yet)"
}

func (a *auto) last(ctx context.Context, now time.Time) (Login, bool, []string, error) {
	if a.found != nil {
		login, ok, warnings, err := a.found.last(ctx, now)
		return login, ok, append(warnings, a.note...), err
	}
	var why, odd []string
	try := a.logs
	if _, err := os.Stat(a.socket); err == nil {
		try = append([]source{a.journal}, try...)
	} else {
		why = append(why, fmt.Sprintf("journald does not run (%v)", plain(err)))
	}
	for _, s := range try {
		login, ok, warnings, err := s.last(ctx, now)
		var none *noData
		switch {
		case err == nil:
			a.found = s
			for _, o := range odd {
				a.note = append(a.note, fmt.Sprintf("logins are read from %s, because %s", s, o))
			}
			return login, ok, append(warnings, a.note...), nil
		case !errors.As(err, &none):
			return Login{}, false, nil, err
		}
		why, odd = append(why, none.why), append(odd, warnings...)
	}
	return Login{}, false, odd, &noData{strings.Join(why, "; "), autoHint}
}

const autoHint = "run journald or a syslog daemon, and let doorward's user read its log; " +
	"or name the log that sshd writes in presence.logins, or set it to \"off\""
