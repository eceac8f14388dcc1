//go:build linux

package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/legible"
)

// field is a key of a record with its value, safe to show.
type field struct{ name, value string }

// fields are the keys of a record's JSON, sorted, those of objects in it behind the
// object's ("login_user"), but for what is empty. So a key that is added is sent, too.
// Hashes of the configuration are not: its knocks are few enough to be tried.
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

// flat is fields of an object whose keys begin with a prefix.
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

// sentence is a record for people.
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
	if r.Reason != "" && r.Reason != "by "+r.By { // said already
		b.WriteString(": " + r.Reason)
	}
	return legible.Text(b.String())
}

// name is who sends, and facility what it is about: security and authorization messages
// (10, RFC 5424, 6.2.1).
const (
	name     = "doorwardd"
	facility = 10
)

// severity is how bad a record's event is (RFC 5424, 6.2.1).
func severity(event string) int {
	switch level := audit.Level(event); {
	case level >= slog.LevelError:
		return 3
	case level >= slog.LevelWarn:
		return 4
	}
	return 6
}

// How long what is sent may be. What is longer ends in "…"; the trail has all of it.
const (
	mostJournal = 8 << 10 // bytes of a field
	mostParam   = 480     // bytes of a parameter's value, before it is escaped
	mostSyslog  = 2048    // bytes of a message: what receivers should take (RFC 5424, 6.1)
)

// journalMessage is a record in the journal's own protocol: lines of a field each.
// Values have no ends of lines.
func journalMessage(r audit.Record) []byte {
	b := fmt.Appendf(nil, "MESSAGE=%s\nPRIORITY=%d\nSYSLOG_FACILITY=%d\nSYSLOG_IDENTIFIER=%s\n",
		clip(sentence(r), mostJournal), severity(r.Event), facility, name)
	for _, f := range fields(r) {
		b = fmt.Appendf(b, "DOORWARD_%s=%s\n", strings.ToUpper(f.name), clip(f.value, mostJournal))
	}
	return b
}

// element is the name of a record's structured data. 32473 is the number of examples
// (RFC 5612): doorward has none of its own.
const element = "doorward@32473"

// escape is how a parameter's value is written (RFC 5424, 6.3.3).
var escape = strings.NewReplacer(`"`, `\"`, `\`, `\\`, `]`, `\]`)

// syslogMessage is a record as RFC 5424 has it, by a process of a host.
func syslogMessage(r audit.Record, host string, pid int) []byte {
	const micro = "2006-01-02T15:04:05.000000Z07:00" // no more digits are allowed
	b := fmt.Appendf(nil, "<%d>1 %s %s %s %d %s [%s", facility*8+severity(r.Event), r.Time.Format(micro),
		header(host, 255), name, pid, header(r.Event, 32), element)
	for _, f := range fields(r) {
		b = fmt.Appendf(b, ` %s="%s"`, f.name, escape.Replace(clip(f.value, mostParam)))
	}
	b = append(b, "] "...)
	// A byte order mark says that what follows is UTF-8 (6.4), which ASCII is anyway.
	message := clip(sentence(r), max(0, mostSyslog-len(b)-3))
	if strings.ContainsFunc(message, func(r rune) bool { return r >= utf8.RuneSelf }) {
		b = append(b, "\ufeff"...)
	}
	return append(b, message...)
}

// header is a part of the header: printable ASCII without spaces, "-" for nothing.
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

// clip is text of so many bytes at the most, without half a character.
func clip(s string, most int) string {
	const rest = "…"
	if len(s) <= most {
		return s
	}
	end := max(0, most-len(rest))
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + rest
}
