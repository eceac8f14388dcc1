package view

import (
	"net/netip"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/output"
)

// sessions lists the sessions that came in by doors, the latest first: from where, since
// when, as which user, and what let them in.
func (v View) sessions(doors []control.Door) []string {
	var rows [][]string
	total := 0
	for _, d := range doors {
		total += max(d.Sessions, len(d.Live))
		for _, s := range d.Live {
			since := "not known"
			if s.Since != nil {
				since = output.Clock(*s.Since, v.Now)
			}
			rows = append(rows, []string{output.Text(d.Name), remoteOf(s), since, output.OrDash(s.User), v.letIn(s)})
		}
	}
	return v.list([]string{"SESSIONS", "SOURCE", "SINCE", "USER", "LET IN BY"}, rows, total)
}

// remoteOf returns a session's other end: "192.0.2.7:40022", "[2001:db8::7]:40022".
func remoteOf(s control.Session) string {
	a, err := netip.ParseAddr(s.Source)
	if err != nil {
		return output.Text(s.Source)
	}
	return netip.AddrPortFrom(a, s.Port).String()
}

// letIn says what let a session in, and when: "touch at 14:02:09",
// "operator alice (uid 1000) at 14:02:09, for any", "always (192.0.2.0/24)".
func (v View) letIn(s control.Session) string {
	g := s.Grant
	if g == nil {
		return "not known"
	}
	if g.By == control.CoverAlways {
		return output.Text("always (" + g.Source + ")")
	}
	by := output.Party(g.By, v.Width) + v.givenAt(g)
	if g.Source != s.Source {
		by += ", for " + output.Text(g.Source)
	}
	return by
}

func (v View) givenAt(g *audit.Grant) string {
	if g.Since.IsZero() {
		return ""
	}
	return " at " + output.Clock(g.Since, v.Now)
}
