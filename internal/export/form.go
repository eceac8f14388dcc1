//go:build linux

package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/journal"
	"github.com/doorward/doorward/internal/legible"
)

// field is a key of a record with its value, safe to show.
type field struct{ name, value string }

// fields returns the keys of a record's JSON and their values, sorted, without empty
// ones. Keys within an object follow the object's own ("login_user"). So a key that is
// added to records is sent, too. The hashes of the configuration are left out, since all
// possible knocks could be tried against them.
func fields(r audit.Record) []field {
	if r.Config != nil {
		c := *r.Config
		c.Before, c.After, c.Salt = "", "", ""
		r.Config = &c
	}
	text, err := json.Marshal(r)
	if err != nil {
		panic("export: internal error: a record without JSON: " + err.Error())
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		panic("export: internal error: a record that is no object: " + err.Error())
	}
	return flat("", object)
}

// flat returns the fields of an object, with a prefix before their names.
func flat(prefix string, object map[string]any) (all []field) {
	for _, key := range slices.Sorted(maps.Keys(object)) {
		name, value := prefix+key, ""
		switch v := object[key].(type) {
		case nil:
		case map[string]any:
			all = append(all, flat(name+"_", v)...)
		case []any:
			var parts []string
			for _, part := range v {
				parts = append(parts, fmt.Sprint(part))
			}
			value = strings.Join(parts, " ")
		default:
			value = fmt.Sprint(v)
		}
		if value != "" && !(name == "id" && value == "0") {
			all = append(all, field{name, legible.Text(value)})
		}
	}
	return all
}

// sentence returns a record in words.
func sentence(r audit.Record) string {
	var b strings.Builder
	if r.Door != "" {
		fmt.Fprintf(&b, "door %s: ", r.Door)
	}
	b.WriteString(r.Event)
	if r.Source != "" {
		b.WriteString(" " + r.Source)
	}
	if r.By != "" {
		b.WriteString(" by " + r.By)
	}
	if r.Reason != "" && r.Reason != "by "+r.By { // it would say the same again
		b.WriteString(": " + r.Reason)
	}
	return legible.Text(b.String())
}

// The sender of messages, and their facility: 10 is security and authorization (RFC 5424,
// 6.2.1).
const (
	name     = "doorwardd"
	facility = 10
)

// severity returns the severity of a record's event (RFC 5424, 6.2.1).
func severity(event string) int { return journal.Priority(audit.Level(event)) }

// The longest that is sent. What is longer is cut and ends in "…"; the trail has all of
// it.
const (
	mostParam  = 480  // bytes of a parameter's value, before it is escaped
	mostSyslog = 2048 // bytes of a message: what receivers should accept (RFC 5424, 6.1)
)

// journalMessage returns a record in the journal's own protocol.
func journalMessage(r audit.Record) []byte {
	var e journal.Entry
	e.Add("MESSAGE", sentence(r))
	e.Add("PRIORITY", strconv.Itoa(severity(r.Event)))
	e.Add("SYSLOG_FACILITY", strconv.Itoa(facility))
	e.Add("SYSLOG_IDENTIFIER", name)
	for _, f := range fields(r) {
		e.Add(journal.Prefix+f.name, f.value)
	}
	return e.Bytes()
}

// element is the name of a record's structured data. 32473 is the enterprise number for
// documentation (RFC 5612): doorward has none of its own.
const element = "doorward@32473"

// escape escapes a parameter's value (RFC 5424, 6.3.3).
var escape = strings.NewReplacer(`"`, `\"`, `\`, `\\`, `]`, `\]`)

// syslogMessage returns a record in the format of RFC 5424, from a process of a host.
func syslogMessage(r audit.Record, host string, pid int) []byte {
	const micro = "2006-01-02T15:04:05.000000Z07:00" // no more digits are allowed
	b := fmt.Appendf(nil, "<%d>1 %s %s %s %d %s [%s", facility*8+severity(r.Event), r.Time.Format(micro),
		header(host, 255), name, pid, header(r.Event, 32), element)
	for _, f := range fields(r) {
		b = fmt.Appendf(b, ` %s="%s"`, f.name, escape.Replace(legible.Clip(f.value, mostParam)))
	}
	b = append(b, "] "...)
	// A byte order mark says that the message is UTF-8 (6.4). ASCII does not need one.
	message := legible.Clip(sentence(r), max(0, mostSyslog-len(b)-3))
	if strings.ContainsFunc(message, func(r rune) bool { return r >= utf8.RuneSelf }) {
		b = append(b, "\ufeff"...)
	}
	return append(b, message...)
}

// header returns s as a field of the header: at most most bytes of printable ASCII without
// spaces, "-" if it is empty.
func header(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), most)]
}
