package config

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/doorward/doorward/internal/tables"
)

// MaxSyslogs is how many receivers of syslog there may be.
const MaxSyslogs = 4

// Records says where the records of the audit trail are sent, besides the trail itself.
type Records struct {
	Log     bool // each is a line of the daemon's log
	Journal bool // each is an entry of the systemd journal with fields
	// Syslog are receivers of RFC 5424, "" for none: "unix:" and the path of a datagram
	// socket, or "udp:" and an address with a port.
	Syslog [MaxSyslogs]string
}

// places returns the elements of the list that says the same.
func (r Records) places() []string {
	all := []string{}
	if r.Log {
		all = append(all, "log")
	}
	if r.Journal {
		all = append(all, "journal")
	}
	for _, s := range r.Syslog {
		if s != "" {
			all = append(all, s)
		}
	}
	return all
}

const recordsForm = `"log", "journal", sockets such as "unix:/run/doorward-log.sock", and servers such as "udp:192.0.2.10:514"`

// records reads where the records are sent. No place may be listed twice.
func records(v tables.Value) (r Records) {
	if !v.Given() {
		return Records{Log: true}
	}
	places, _ := v.List("lists of " + recordsForm)
	n := 0
	for i, place := range places {
		s, ok := place.Text(recordsForm)
		if !ok {
			continue
		}
		if slices.ContainsFunc(places[:i], func(o tables.Value) bool { return o.V == s }) {
			place.Wrong("listed twice", recordsForm)
			continue
		}
		switch {
		case s == "log":
			r.Log = true
		case s == "journal":
			r.Journal = true
		case !receives(place, s):
		case n == MaxSyslogs:
			place.Wrong("one too many", fmt.Sprintf("%d sockets and servers", MaxSyslogs))
		default:
			r.Syslog[n] = s
			n++
		}
	}
	return r
}

// receives reports whether a place is a receiver of syslog, and notes what is wrong if
// it is not. Names are not resolved: there may be nobody to ask at boot, and nobody
// can be asked from inside the sandbox.
func receives(v tables.Value, s string) bool {
	kind, at, _ := strings.Cut(s, ":")
	switch kind {
	case "unix":
		switch {
		case !strings.HasPrefix(at, "/") || strings.ContainsRune(at, 0):
			v.Wrong(`no absolute path after "unix:"`, recordsForm)
		case path.Clean(at) != at || at == "/":
			v.Wrong("not a plain path", recordsForm).Hint = fmt.Sprintf("write %q", "unix:"+path.Clean(at))
		case len(at) > maxControl:
			v.Wrong(fmt.Sprintf("a path of %d bytes", len(at)), fmt.Sprintf("%d bytes for a socket's path", maxControl))
		default:
			return true
		}
	case "udp":
		a, err := netip.ParseAddrPort(at)
		switch {
		case err != nil:
			v.Wrong(`no address with a port after "udp:"`, recordsForm)
		case a.Port() == 0:
			v.Wrong("port 0", recordsForm)
		case a.Addr().Is4In6():
			v.Wrong("an IPv4 address in IPv6 form", recordsForm).Hint = fmt.Sprintf(
				"write %q", "udp:"+netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String())
		case a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Addr().Zone() != "":
			v.Wrong("not an address of one host", recordsForm)
		default:
			return true
		}
	default:
		v.Word(s, []string{"log", "journal"}, recordsForm)
	}
	return false
}
