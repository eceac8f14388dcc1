package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/doorward/doorward/internal/tables"
)

// Difference is a key that means something else in one configuration than in
// another, or a table that only one of them has.
type Difference struct {
	Key string // as "door.ssh.open_for", "door.web", "door.ssh.knock[0].listen"
	// Before and After are the values as TOML, defaults included. "" means that there
	// is no value: for a table, for a key without one, and for a secret.
	Before, After string
	Added         bool // the first configuration does not have it
	Removed       bool // the second one does not
	Secret        bool // the key is a knock's, so that its values are left out
}

// Differences compares what two texts mean, in the order of the keys' names. A
// default that is written down, a comment and another order are no difference. A
// text that Parse rejects counts as empty.
func Differences(before, after []byte) []Difference {
	var d differences
	was, is := meaning(before), meaning(after)
	d.keys("gateway", was.config.Gateway.keys(), is.config.Gateway.keys())
	a, b := was.doors(), is.doors()
	for _, name := range slices.Sorted(maps.Keys(joined(a, b))) {
		key := "door." + name
		old, had := a[name]
		now, has := b[name]
		if !d.only(key, had, has) {
			d.door(key, old, now, was.raw.knocks(name), is.raw.knocks(name))
		}
	}
	slices.SortFunc(d, func(a, b Difference) int { return strings.Compare(a.Key, b.Key) })
	return d
}

// meant is what a text means.
type meant struct {
	config *Config
	raw    rawTable
}

func meaning(text []byte) meant {
	m := meant{config: &Config{}}
	if c, err := Parse("", text); err == nil {
		m.config = c
		_ = toml.Unmarshal(text, &m.raw) // cannot fail, as Parse has done the same
	}
	return m
}

func (m meant) doors() map[string]*Door {
	doors := make(map[string]*Door, len(m.config.Doors))
	for i := range m.config.Doors {
		doors[m.config.Doors[i].Name] = &m.config.Doors[i]
	}
	return doors
}

// rawTable is a table as it was read, without defaults.
type rawTable map[string]any

// knocks returns the tables of a door's knocks.
func (t rawTable) knocks(door string) (all []rawTable) {
	doors, _ := t["door"].(map[string]any)
	of, _ := doors[door].(map[string]any)
	list, _ := of["knock"].([]any)
	for _, e := range list {
		knock, _ := e.(map[string]any)
		all = append(all, knock)
	}
	return all
}

// keyValue is a key of a table and its value as TOML, "" for none.
type keyValue struct{ key, value string }

type differences []Difference

// only notes a table that only one of the two configurations has, and reports whether
// that is so.
func (d *differences) only(key string, had, has bool) bool {
	if had == has {
		return false
	}
	*d = append(*d, Difference{Key: key, Added: has, Removed: had})
	return true
}

// keys notes which of a table's keys differ. Both lists have the same keys.
func (d *differences) keys(table string, before, after []keyValue) {
	for i, b := range before {
		if a := after[i]; a.value != b.value {
			*d = append(*d, Difference{Key: table + "." + b.key, Before: b.value, After: a.value,
				Added: b.value == "", Removed: a.value == ""})
		}
	}
}

// door notes what differs in a door that both have.
func (d *differences) door(key string, a, b *Door, rawA, rawB []rawTable) {
	d.keys(key, a.keys(), b.keys())
	for i := range max(len(a.Knocks), len(b.Knocks)) {
		knock := fmt.Sprintf("%s.knock[%d]", key, i)
		if !d.only(knock, i < len(a.Knocks), i < len(b.Knocks)) && !reflect.DeepEqual(a.Knocks[i].Rule, b.Knocks[i].Rule) {
			d.knock(knock, rawA[i], rawB[i])
		}
	}
	d.keys(key+".presence", a.Presence.keys(), b.Presence.keys())
	service := key + ".service"
	if !d.only(service, a.Service != nil, b.Service != nil) && a.Service != nil {
		d.keys(service, a.Service.keys(), b.Service.keys())
	}
}

// knock notes which keys of a knock differ in the text, if it has become another: only
// its kind knows what they mean.
func (d *differences) knock(key string, a, b rawTable) {
	for _, name := range slices.Sorted(maps.Keys(joined(a, b))) {
		was, had := a[name]
		is, has := b[name]
		if !reflect.DeepEqual(was, is) {
			*d = append(*d, Difference{Key: key + "." + name, Added: !had, Removed: !has, Secret: true})
		}
	}
}

// joined returns a map with the keys of both.
func joined[M ~map[string]V, V any](a, b M) map[string]V {
	all := make(map[string]V, len(a))
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}

func (g Gateway) keys() []keyValue {
	records := ""
	if g != (Gateway{}) { // the zero value stands for a text that Parse rejects
		records = words(g.Records.places())
	}
	return []keyValue{{"control", text(g.Control)}, {"host", strconv.Quote(g.Host)}, {"metrics", strconv.Quote(g.Metrics)},
		{"records", records}, {"state", text(g.State)}}
}

func (d *Door) keys() []keyValue {
	return []keyValue{
		{"always", list(d.Always)},
		{"open_for", length(d.OpenFor)},
		{"penalties", choice(d.Shared, "door", "knock")},
		{"ports", list(d.Ports)},
		{"refuse", choice(d.Refuse == Reject, "reject", "drop")},
		{"single_use", strconv.FormatBool(d.SingleUse)},
	}
}

func (p *Presence) keys() []keyValue {
	idle := length(p.Idle)
	if p.Idle == 0 {
		idle = strconv.Quote(idleNever)
	}
	logins := words(p.Files)
	if p.Logins != LoginsFiles {
		logins = text([]string{"off", "auto", "journal"}[p.Logins])
	}
	return []keyValue{{"connections", strconv.FormatBool(p.Connections)}, {"idle", idle}, {"logins", logins}}
}

func (s *Service) keys() []keyValue {
	return []keyValue{{"start", words(s.Start)}, {"status", words(s.Status)}, {"stop", words(s.Stop)},
		{"timeout", length(s.Timeout)}, {"unit", text(s.Unit)}}
}

// text writes a string as TOML; an empty one is no value.
func text(s string) string {
	if s == "" {
		return ""
	}
	return strconv.Quote(s)
}

func length(d time.Duration) string { return strconv.Quote(tables.Short(d)) }

func choice(second bool, yes, no string) string {
	if second {
		return strconv.Quote(yes)
	}
	return strconv.Quote(no)
}

// words writes a list of strings as TOML; nil is no value.
func words(all []string) string {
	if all == nil {
		return ""
	}
	return "[" + quotedList(all) + "]"
}

// list writes a list whose order does not matter.
func list[T fmt.Stringer](all []T) string {
	var s []string
	for _, e := range all {
		s = append(s, e.String())
	}
	slices.Sort(s)
	return "[" + quotedList(s) + "]"
}

func quotedList(all []string) string {
	quoted := make([]string, len(all))
	for i, s := range all {
		quoted[i] = strconv.Quote(s)
	}
	return strings.Join(quoted, ", ")
}
